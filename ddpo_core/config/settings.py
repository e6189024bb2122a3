"""Everything a run is, each setting declared once: its type, default, help and place in `--help`.

`RunConfig` is what `config.toml` holds and what the flags of `ddpo train` are made from. Where a value
comes from (flag, file, preset, model, default) is `resolve.py`'s business.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

WHAT = "What is trained"
SAMPLING = "Sampling"
LEARNING = "Learning"
RUN = "The run"

DERIVED = None  # the default follows from other settings, see `resolve.DERIVATIONS`


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What there is to know about one key of a run's config."""

    name: str  # num_steps
    type: type | Any  # int, float, str, bool or tuple[str, ...]
    default: object  # DERIVED: follows from other settings
    help: str
    panel: str
    metavar: str
    choices: tuple[str, ...]
    minimum: float
    above: float  # the value must be greater than this
    fixed: bool  # it shapes the numbers: a resumed run must keep it

    @property
    def flag(self) -> str:
        """How it is typed: `--num-steps`."""
        return "--" + self.name.replace("_", "-")

    @property
    def many(self) -> bool:
        """It takes any number of values."""
        return self.type == tuple[str, ...]


def setting(
    default: object,
    help: str,
    panel: str,
    *,
    metavar: str = "",
    choices: tuple[str, ...] = (),
    minimum: float = -math.inf,
    above: float = -math.inf,
    fixed: bool = True,
) -> Any:
    """A field of `RunConfig` with its description beside it."""
    described = dict(default=default, help=help, panel=panel, metavar=metavar, choices=choices)
    return field(metadata={**described, "minimum": minimum, "above": above, "fixed": fixed})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run, resolved: nothing is left to default."""

    reward: tuple[str, ...] = setting(
        (), "What to train towards; more than one is standardised, weighted and added.", WHAT, metavar="SPEC"
    )
    watch: tuple[str, ...] = setting(
        (), "Score this reward too, without training on it.", WHAT, metavar="SPEC"
    )
    mixer: str = setting(
        "gdpo",
        "How several rewards become one step: standardised and added (gdpo), added raw (sum), one after the"
        " other (sequential), or without contradiction (pcgrad).",
        WHAT,
        choices=("gdpo", "sum", "sequential", "pcgrad"),
    )
    constraint: tuple[str, ...] = setting(
        (),
        "Keep a reward's mean at NAME,min=…or max=…; its weight grows while it is not.",
        WHAT,
        metavar="SPEC",
    )
    task: tuple[str, ...] = setting(
        (),
        'Rewards with prompts of their own, which take turns: "--reward … --prompts …", or a TOML file.',
        WHAT,
        metavar="TEXT|FILE",
    )
    model: str = setting("pocket", "The model: a name, a folder or a hub id.", WHAT, metavar="SPEC")
    prompts: str = setting(
        DERIVED, "Prompt set or file to draw from (default: the model's own).", WHAT, metavar="SPEC"
    )
    prompt: tuple[str, ...] = setting(
        (), "Train on this prompt; repeat it for several. In place of --prompts.", WHAT, metavar="TEXT"
    )
    lora_rank: int = setting(16, "Rank of the LoRA; 0 trains all weights.", WHAT, minimum=0)
    lora_alpha: float = setting(
        DERIVED, "Scale of the LoRA, times 1/rank (default: the rank).", WHAT, above=0
    )
    lora_targets: tuple[str, ...] = setting(
        ("attention",),
        "Layers that get a LoRA: attention, all, or names, separated by commas.",
        WHAT,
        metavar="NAME,…",
    )

    pretrain: str = setting(
        "",
        "Image–caption pairs for a pretraining step each epoch: a folder, .jsonl or .parquet file.",
        WHAT,
        metavar="PATH",
    )

    sampler: str = setting(
        DERIVED,
        "How latents are denoised (default: ddim, or what suits model and estimator).",
        SAMPLING,
        metavar="SPEC",
    )
    num_steps: int = setting(50, "Denoising steps.", SAMPLING, minimum=1)
    guidance_scale: float = setting(
        5.0, "Classifier-free guidance, in sampling and in training alike; 1: none.", SAMPLING, minimum=0
    )
    samples_per_epoch: int = setting(
        64, "Pictures between two rounds of updates, for each task.", SAMPLING, minimum=1
    )
    group_size: int = setting(
        DERIVED,
        "Pictures of each prompt drawn together (default: 1, or what a reward of groups wants).",
        SAMPLING,
        minimum=1,
    )
    sample_batch_size: int = setting(8, "Pictures denoised at a time.", SAMPLING, minimum=1)

    estimator: str = setting("ddpo-is", "How scores become a gradient.", LEARNING, metavar="SPEC")
    advantages: str = setting(
        "prompt",
        "How scores are standardised: over prompt, batch or group, with options; or raw.",
        LEARNING,
        metavar="SPEC",
    )
    updates_per_epoch: int = setting(
        DERIVED, "Optimiser steps an epoch (default: the estimator's own).", LEARNING, minimum=1
    )
    train_batch_size: int = setting(
        DERIVED,
        "(picture, step) pairs in one backward pass (default: --sample-batch-size).",
        LEARNING,
        minimum=1,
    )
    learning_rate: float = setting(
        DERIVED, "AdamW's (default: 3e-4 for a LoRA, 1e-5 for all weights).", LEARNING, above=0
    )
    warmup_updates: int = setting(
        0, "Optimiser steps over which the learning rate rises to its value.", LEARNING, minimum=0
    )
    optimizer: str = setting(
        "adamw",
        "adamw, or adamw8bit with moments in 8 bits (needs bitsandbytes).",
        LEARNING,
        choices=("adamw", "adamw8bit"),
    )
    adam_epsilon: float = setting(
        1e-10, "AdamW's ε: log-probs are means over latents, so gradients are small.", LEARNING, above=0
    )
    weight_decay: float = setting(1e-4, "AdamW's.", LEARNING, minimum=0)
    pretrain_weight: float = setting(1.0, "Weight of the pretraining step's loss.", LEARNING, above=0)
    pretrain_batch_size: int = setting(
        32, "Pairs of each pretraining step, over all processes.", LEARNING, minimum=1
    )
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm.", LEARNING, above=0)
    mixed_precision: str = setting(
        "no", "Precision of the network.", LEARNING, choices=("no", "bf16", "fp16")
    )
    gradient_checkpointing: bool = setting(False, "Spend time to save memory in backward passes.", LEARNING)
    self_check: bool = setting(
        True, "Before the first update, end the run if its numbers cannot be right.", LEARNING, fixed=False
    )

    epochs: int = setting(100, "Rounds of sampling and updating.", RUN, minimum=1, fixed=False)
    seed: int = setting(0, "All randomness follows from it.", RUN, minimum=0)
    device: str = setting(
        "auto", "Where the network runs.", RUN, choices=("auto", "cpu", "cuda", "mps"), fixed=False
    )
    images_every: int = setting(
        5,
        "Draw the fixed-seed grid every so many epochs; 0: only first and last.",
        RUN,
        minimum=0,
        fixed=False,
    )
    image_count: int = setting(12, "Pictures in that grid.", RUN, minimum=1)
    checkpoint_every: int = setting(5, "Save every so many epochs.", RUN, minimum=1, fixed=False)
    checkpoint_keep: int = setting(
        0,
        "Besides the latest and the best, keep checkpoints of every so many epochs; 0: none.",
        RUN,
        minimum=0,
        fixed=False,
    )
    tracker: str = setting(
        "tensorboard",
        "Where curves go besides the run folder.",
        RUN,
        choices=("tensorboard", "wandb", "none"),
        fixed=False,
    )
    plugin: tuple[str, ...] = setting(
        (), "A Python file with a plugin that is not installed.", RUN, metavar="FILE"
    )


@functools.cache
def declared() -> dict[str, Setting]:
    """Every setting by name, in the order of `RunConfig`."""
    types = get_type_hints(RunConfig)
    return {f.name: Setting(name=f.name, type=types[f.name], **f.metadata) for f in fields(RunConfig)}
