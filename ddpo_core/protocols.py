"""The protocols: what a reward, a sampler, an estimator and a model must be. Nothing to inherit.

Start with `Reward`; it is one call. `Sampler` is the transition kernel p(x_{t+1} | x_t), `Estimator`
turns judged trajectories into losses, and `Denoiser` is a diffusers pipeline seen as a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ddpo_core.types import Conditioning, Judged, Loss, Minibatch, Prompt, Schedule, Scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ddpo_core.denoising import Policy


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
    """The transition kernel p(x_{t+1} | x_t) of the denoising process."""

    has_log_prob: bool  # False: no step is rated, and estimators that need log-probs are refused

    def schedule(self, denoiser: Denoiser, num_steps: int) -> Schedule:
        """The steps from noise to picture for this model.

        Raises `UsageError` where the model and the options do not go together.
        """

    def step(
        self, schedule: Schedule, steps: Tensor, latents: Tensor, noise_pred: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean [b, c, h, w] and standard deviation ([b, 1, 1, 1] or [b, c, h, w]) of x_{t+1}.

        `steps` [b] int64 indexes the schedule; `noise_pred` [b, c, h, w] is the network's ε.
        """


class Estimator(Protocol):
    """Policy-gradient estimator: which loss, on which minibatches, in how many updates."""

    def updates(
        self, judged: Judged, schedule: Schedule, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Minibatch]]:
        """One inner iterator per optimiser step; the gradients of its minibatches are added up."""

    def loss(self, policy: Policy, minibatch: Minibatch) -> Loss:
        """The minibatch's mean loss under the current weights (not yet times `minibatch.weight`)."""


class Denoiser(Protocol):
    """A text-to-image pipeline, seen as the network that predicts noise."""

    network: nn.Module  # what is trained; may be replaced by a wrapped one (DDP), then called through it
    latent_shape: tuple[int, int, int]  # c, h, w
    device: torch.device
    alphas_cumprod: Tensor  # [N] float64, ᾱ of the N training timesteps
    final_alpha_cumprod: float  # ᾱ after the last step: 1 for a clean picture
    steps_offset: int  # added to "leading" timesteps
    timestep_spacing: str  # "leading", "trailing" or "linspace": the model's own choice

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
        """ε [b, c, h, w] float32 at integer timesteps [b], whatever the network itself predicts."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] float32 in [0, 1] for finished latents [B, c, h, w]."""

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that training moves, in a stable order."""

    def trainable_state(self) -> dict[str, Tensor]:
        """The trained weights only (the LoRA, or the whole network), for a checkpoint."""

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Put such weights back. Raises `CheckpointError` where names or shapes differ."""

    def export(self, folder: Path) -> None:
        """Write the trained weights in diffusers' own format into `folder`."""
