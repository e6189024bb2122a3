"""The three that are timed: the bare network calls, an epoch of ddpo, and an epoch of TRL's DDPOTrainer.

All have the same settings: DDIM with η = 1, guidance in sampling and in training, LoRA r = 4 on the
attention, AdamW, mean brightness as the reward, advantages over the batch, every prompt new.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ddpo_core import Prompt, RewardInfo
from ddpo_core.advantages import Normaliser
from ddpo_core.denoisers.stable_diffusion import StableDiffusion
from ddpo_core.estimators.ddpo import ImportanceSampling
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.training import Settings, Task, train

LORA_RANK = 4  # TRL's, which cannot be chosen there


@dataclass(frozen=True)
class Contestant:
    """A name, what it runs on, and one epoch of it."""

    name: str
    pipeline: StableDiffusionPipeline
    epoch: Callable[[], None]


class NumberedPrompts:
    """A million prompts, each with a text of its own, so that nobody's cache can answer."""

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Prompt:
        letters = "".join(chr(ord("a") + int(digit)) for digit in str(index))
        return Prompt(f"a picture of animal {letters}")


def brightness(images: Tensor) -> Tensor:
    """Mean brightness [B]: costs nothing."""
    return images.mean((1, 2, 3))


# ---- the bare calls ------------------------------------------------------------------------------


def bare(pipeline: StableDiffusionPipeline, settings: Settings) -> Contestant:
    """The network calls that an epoch must make, on made-up inputs, and nothing else at all."""
    device, latents = pipeline.unet.device, latents_for(pipeline, settings.sample_batch_size)
    timesteps = torch.full((2 * settings.sample_batch_size,), 500, device=device)
    texts = NumberedPrompts()
    numbers = itertools.count(500_000)

    def tokens() -> Tensor:
        captions = [texts[next(numbers)].text for _ in range(settings.sample_batch_size)]
        tokenizer = pipeline.tokenizer
        ids: Tensor = tokenizer(
            captions, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
        ).input_ids
        return ids.to(device)

    @torch.no_grad()
    def sample() -> Tensor:
        prompt_embeds = pipeline.text_encoder(tokens())[0].repeat(2, 1, 1)
        for _ in range(settings.num_steps):
            pipeline.unet(latents, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False)
        pipeline.vae.decode(latents[: settings.sample_batch_size], return_dict=False)
        return prompt_embeds

    def update(prompt_embeds: Tensor) -> None:
        both = slice(0, 2 * settings.train_batch_size)
        for _ in range(settings.num_steps):
            inputs = latents[both], timesteps[both], prompt_embeds[both]
            pipeline.unet(*inputs, return_dict=False)[0].backward(latents[both])

    def epoch() -> None:
        for _ in range(settings.samples_per_epoch // settings.sample_batch_size):
            prompt_embeds = sample()
        for _ in range(settings.samples_per_epoch // settings.train_batch_size):
            update(prompt_embeds)
        pipeline.unet.zero_grad(set_to_none=True)

    return Contestant("bare", pipeline, epoch)


def latents_for(pipeline: StableDiffusionPipeline, batch_size: int) -> Tensor:
    """Noise for both halves of the guidance [2b, c, h, w]."""
    config = pipeline.unet.config
    shape = (2 * batch_size, config.in_channels, config.sample_size, config.sample_size)
    return torch.randn(shape).to(pipeline.unet.device)


# ---- ddpo ----------------------------------------------------------------------------------------


def ddpo(pipeline: StableDiffusionPipeline, settings: Settings) -> Contestant:
    """`ddpo_core.training.train`, as the CLI drives it. The self-check runs in the first epoch only."""
    denoiser = StableDiffusion(pipeline)
    denoiser.adapt(lora_rank=LORA_RANK)
    info = RewardInfo(name="bright", summary="mean brightness", factory="")
    reward = Term("bright", 1.0, lambda images, prompts: brightness(images), info)
    epochs = train(
        denoiser=denoiser,
        sampler=DDIM(),
        estimator=ImportanceSampling(),
        tasks=[
            Task(PromptStream(NumberedPrompts(), seed=settings.seed, order="sequential"), Objective([reward]))
        ],
        normaliser=Normaliser("batch"),
        settings=settings,
    )
    return Contestant("ddpo", pipeline, lambda: discard(epochs))


def discard(iterator: Iterator[Any]) -> None:
    """Take the next one and let go of it."""
    next(iterator)


# ---- TRL -----------------------------------------------------------------------------------------


def trl(pipeline: StableDiffusionPipeline, settings: Settings) -> Contestant:
    """`DDPOTrainer.step` of TRL 0.23.1. Raises `ImportError` where it is not installed."""
    trainer = trl_trainer(pipeline, settings)
    trainer.sd_pipeline.set_progress_bar_config(disable=True)
    # step 0 writes no checkpoint
    return Contestant("TRL", pipeline, lambda: discard(iter([trainer.step(0, 0)])))


def trl_trainer(pipeline: StableDiffusionPipeline, settings: Settings) -> Any:
    """TRL's trainer with ddpo's settings."""
    from trl import DDPOConfig, DDPOTrainer

    PartialState()  # TRL logs before it has an accelerator, and Accelerate's logger refuses that
    samples_per_update = settings.samples_per_epoch // settings.updates_per_epoch
    config = DDPOConfig(
        seed=settings.seed,
        mixed_precision=settings.mixed_precision,
        sample_num_steps=settings.num_steps,
        sample_eta=1.0,
        sample_guidance_scale=settings.guidance_scale,
        sample_batch_size=settings.sample_batch_size,
        sample_num_batches_per_epoch=settings.samples_per_epoch // settings.sample_batch_size,
        train_batch_size=settings.train_batch_size,
        train_gradient_accumulation_steps=samples_per_update // settings.train_batch_size,
        train_learning_rate=settings.learning_rate,
        train_adam_epsilon=settings.adam_epsilon,
        train_adam_weight_decay=settings.weight_decay,
        train_max_grad_norm=settings.max_grad_norm,
        train_cfg=True,
    )
    texts, numbers = NumberedPrompts(), itertools.count()
    return DDPOTrainer(
        config,
        lambda images, prompts, metadata: (brightness(images), {}),
        lambda: (texts[next(numbers)].text, {}),
        trl_pipeline(pipeline),
    )


def trl_pipeline(pipeline: StableDiffusionPipeline) -> Any:
    """TRL's wrapper round a pipeline that is there already; its own constructor only takes a folder."""
    from trl import DefaultDDPOStableDiffusionPipeline

    wrapped = DefaultDDPOStableDiffusionPipeline.__new__(DefaultDDPOStableDiffusionPipeline)
    wrapped.sd_pipeline = pipeline
    wrapped.use_lora = True
    for module in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        module.requires_grad_(False)
    return wrapped


# ---- two of Accelerate's users in one process ----------------------------------------------------


class AccelerateState:
    """Accelerate's state is global: TRL's gradient accumulation would divide ddpo's losses too."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Run the block with the state that this contestant left behind last time, or a fresh one."""
        shared = (AcceleratorState._shared_state, GradientState._shared_state)
        for state, kept in zip(shared, self.kept.get(name, ({}, {})), strict=True):
            state.clear()
            state.update(kept)
        try:
            yield
        finally:
            self.kept[name] = (dict(shared[0]), dict(shared[1]))
