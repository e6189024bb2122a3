"""What flows through a run, with shapes.

B samples · T denoising steps · C, H, W of a picture · c, h, w of its latents · b elements of a minibatch
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Everything the network wants to know of B prompts: name → tensor [B, …], such as prompt_embeds [B, S, E].
Conditioning = dict[str, "Tensor"]


@dataclass(frozen=True)
class Prompt:
    """A caption, and whatever its source knew besides it (objects, a count, …)."""

    text: str
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """T denoising steps as a sampler walks them: x_{t+1} = latents_coef·x_t + noise_coef·noise_pred + std·z.

    The standard deviation is 0 where a step is deterministic; such steps carry no log-prob.
    """

    timesteps: Tensor  # [T], the numbers the network is told: int64, or float32 for a flow
    # float32 [T], or [T, c, h, w] where the latent's elements differ
    latents_coef: Tensor
    noise_coef: Tensor
    std: Tensor  # ≥ 0

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    @property
    def rated(self) -> list[int]:
        """The steps with σ > 0 (everywhere): those that have a log-prob."""
        everywhere = (self.std > 0).reshape(self.num_steps, -1).all(1)
        return [int(t) for t in everywhere.nonzero().flatten()]


@dataclass(frozen=True)
class Trajectory:
    """One batch of denoising runs, kept on the host."""

    prompts: Sequence[Prompt]  # B
    conditioning: Conditioning  # [B, …] each
    # [B, T + 1, c, h, w] in the dtype they were rated in: [:, 0] is noise, [:, -1] is finished. Where nobody
    # needs the way there, [B, 1, c, h, w].
    latents: Tensor
    log_probs: Tensor  # [B, T] nats per latent element, under the weights that sampled; 0 where σ = 0
    images: Tensor  # [B, 3, H, W] float32 in [0, 1]


@dataclass(frozen=True)
class Scores:
    """What one reward said of B images.

    Details are records that JSON can hold. Two keys are drawn: "caption", a text for under the picture, and
    "boxes", a list of {"label": str, "score": float, "box": [left, top, right, bottom]} in parts of the
    picture's width and height.
    """

    values: np.ndarray  # [B] float64; NaN only where a failure was dropped by policy
    details: Sequence[Mapping[str, object]] = ()  # B records to show, or none
    # [B], or None where the values themselves are reported: what a reward that judges images together thinks
    # of each image's set, while the values share out the credit for it
    levels: np.ndarray | None = None
    failures: int = 0  # samples without a score of their own: dropped or imputed
    retries: int = 0  # calls that were made again
    timeouts: int = 0  # calls that took too long
    error: str = ""  # what the latest call that failed had to say
    seconds: float = 0.0


@dataclass(frozen=True)
class Population:
    """A round over all processes: what a sample's weight may depend on besides the sample."""

    advantages: np.ndarray  # [N] float64; 0 for a sample whose reward was dropped
    rewards: Mapping[str, np.ndarray]  # label → [N], as scored; NaN for a dropped sample
    prompts: Sequence[str]  # N texts
    weights: Mapping[str, float]  # label → weight, of the rewards that are trained on
    places: Sequence[int]  # this process's B samples, as indices into the N


@dataclass(frozen=True)
class Judged:
    """A round of trajectories of one process, with what they earned: what an estimator is given."""

    trajectory: Trajectory  # B samples of this process
    advantages: Tensor  # [B] float32; 0 for a sample whose reward was dropped
    rewards: Mapping[str, np.ndarray]  # label → [B], as scored
    seeds: Sequence[int]  # B, each sample's own seed
    epoch: int  # from 1
    population: Population
    # weighted rewards [b] with a gradient to the pictures [b, 3, H, W]; raises where a reward has none
    differentiable: Callable[[Tensor, Sequence[Prompt]], Tensor]


@dataclass(frozen=True)
class Part:
    """A minibatch of any estimator: what one forward and one backward pass are made of."""

    weight: float  # this minibatch's part of its update's loss; the parts of one update sum to 1


@dataclass(frozen=True)
class Minibatch(Part):
    """b (sample, step) pairs of trajectories."""

    latents: Tensor  # [b, c, h, w] at the step
    next_latents: Tensor  # [b, c, h, w] one step on
    steps: Tensor  # [b] int64, index into the schedule
    conditioning: Conditioning  # [b, …]
    old_log_prob: Tensor  # [b]
    advantage: Tensor  # [b]


@dataclass(frozen=True)
class Loss:
    """A minibatch's loss, and what there is to know about it."""

    value: Tensor  # scalar, with a gradient
    diagnostics: Mapping[str, Tensor | float]  # scalars without gradient; their means become metrics
    # the same told for each step of the schedule: name → (steps [b], values [b])
    by_step: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
