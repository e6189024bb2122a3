"""The protocols: what a reward, a sampler, an estimator and a model must be. Nothing to inherit.

Start with `Reward`; it is one call. `Sampler` is the transition kernel p(x_{t+1} | x_t), `Estimator`
turns judged trajectories into losses, and `Denoiser` is a diffusers pipeline seen as a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ddpo_core.info import Need
from ddpo_core.types import Conditioning, Judged, Loss, Part, Prompt, Schedule, Scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ddpo_core.denoising import Policy
    from ddpo_core.processes import Process


class Reward(Protocol):
    """Judges finished images. Higher is better; any scale, any hardware, no gradient needed.

    A reward that holds a model may have a method `close()`, which lets go of it.
    """

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor | Sequence[float] | Scores:
        """Scores for images [B, 3, H, W] float32 in [0, 1]: [B] finite numbers, or `Scores` with details.

        A judge that fails raises; it never answers 0.
        """


@runtime_checkable
class PromptSet(Protocol):
    """A fixed, indexable list of prompts; a file of millions of lines is one without being loaded."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Prompt: ...


class Sampler(Protocol):
    """The transition kernel p(x_{t+1} | x_t) of the denoising process.

    A sampler that looks back (a multistep solver) has `multistep = True` and, in place of `step`,
    `advance(schedule, t, latents, noise_pred, memory) -> (next latents, memory)`; it rates no step.
    """

    has_log_prob: bool  # False: no step is rated, and estimators that need log-probs are refused

    def schedule(self, denoiser: Denoiser, num_steps: int) -> Schedule:
        """The steps from noise to picture for this model.

        Raises `UsageError` where the model and the options do not go together.
        """

    def step(
        self, schedule: Schedule, steps: Tensor, latents: Tensor, noise_pred: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean [b, c, h, w] and standard deviation ([b, 1, 1, 1] or [b, c, h, w]) of x_{t+1}.

        `steps` [b] int64 indexes the schedule; `noise_pred` [b, c, h, w] is what the network answered.
        """


class Estimator(Protocol):
    """Which loss, on which minibatches, in how many updates.

    `needs` says what it is given; what it does not need is not computed and not kept:
    "trajectory" the latents of every step, else only the finished ones; "log_probs" of the steps as they were
    drawn; "gradient" rewards that can be differentiated; "untrained" the model as it was before training.
    """

    needs: frozenset[Need]

    def updates(
        self, policy: Policy, judged: Judged, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Part]]:
        """One inner iterator per optimiser step; the gradients of its minibatches are added up.

        What it asks of `policy` before the first update is answered under the weights that sampled.
        """

    def loss(self, policy: Policy, minibatch: Any) -> Loss:
        """The mean loss of one of its minibatches under the current weights (not yet times its `weight`)."""


class Denoiser(Protocol):
    """A text-to-image pipeline, seen as the network that predicts noise (or, of a flow, the velocity)."""

    network: nn.Module  # what is trained; may be replaced by a wrapped one (DDP), then called through it
    latent_shape: tuple[int, int, int]  # c, h, w
    device: torch.device
    process: Process  # what noise does to a picture, and what is asked of the network

    def adapt(
        self,
        *,
        lora_rank: int,
        lora_alpha: float | None = None,
        lora_targets: Sequence[str] = (),
        gradient_checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        """Choose the trained weights, once: a LoRA drawn from `seed`, or for rank 0 all of them."""

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """What the network is told of each text, [B, …]; cached, without gradient."""

    def noise_pred(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """ε, or of a flow ε − x0, [b, c, h, w] float32 at timesteps [b], whatever the network predicts."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] float32 in [0, 1] for finished latents [B, c, h, w]; passes a gradient."""

    def encode_images(self, images: Tensor) -> Tensor:
        """The latents [B, c, h, w] float32 of pictures [B, 3, H, W] in [0, 1]: the way back, no gradient."""

    def untrained(self) -> AbstractContextManager[None]:
        """The model as it was before training, while the block runs. Raises `UsageError` without a LoRA."""

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that training moves, in a stable order."""

    def trainable_state(self) -> dict[str, Tensor]:
        """The trained weights only (the LoRA, or the whole network), for a checkpoint."""

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Put such weights back. Raises `CheckpointError` where names or shapes differ."""

    def export(self, folder: Path) -> None:
        """Write the trained weights in diffusers' own format into `folder`."""
