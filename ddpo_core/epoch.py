"""A finished epoch: its pictures, scores and metrics, and what can be done with the weights behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddpo_core.checkpoint import RunState, checkpoint_name, save
from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.judges import to_pil
from ddpo_core.rollout import rollout, sample_seeds
from ddpo_core.types import Judged, Prompt, Scores

if TYPE_CHECKING:
    from PIL.Image import Image

    from ddpo_core.training import Trainer

DRAWN = 0  # epochs count from 1: no training sample has noise of this seed


@dataclass(frozen=True)
class Round:
    """A task's samples of an epoch, those of this process."""

    task: str
    judged: Judged
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class Epoch:
    """One round of every task, and what came of it.

    What it says of its samples stays. What it does with the weights (`draw`, `save`, `checkpoint`, `capture`)
    raises `UsageError` once the run has gone on to the next epoch, for the weights are then others.
    """

    number: int  # from 1
    metrics: Mapping[str, float]
    rounds: Sequence[Round]
    policy: Policy  # to sample from between epochs
    trainer: Trainer = field(repr=False)

    @property
    def images(self) -> Tensor:
        """The epoch's pictures [N, 3, H, W] float32 in [0, 1], drawn before its updates."""
        return torch.cat([each.judged.trajectory.images for each in self.rounds])

    @property
    def pictures(self) -> list[Image]:
        """The same as 8-bit pictures of PIL."""
        return to_pil(self.images)

    @property
    def prompts(self) -> list[Prompt]:
        """Their prompts, N."""
        return [prompt for each in self.rounds for prompt in each.judged.trajectory.prompts]

    @property
    def scores(self) -> dict[str, Scores]:
        """Label → what the reward said: of all pictures, or where there are tasks of those of its own."""
        return {label: scores for each in self.rounds for label, scores in each.scores.items()}

    def draw(self, prompts: str | Sequence[str | Prompt], *, seed: int = 0) -> Tensor:
        """Pictures [N, 3, H, W] in [0, 1] under the trained weights: equal seeds, equal noise."""
        self._check_is_latest()
        listed = [prompts] if isinstance(prompts, str) else prompts
        asked = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in listed]
        seeds = sample_seeds(seed, DRAWN, range(len(asked)))
        size = self.trainer.settings.sample_batch_size
        rows = [slice(start, start + size) for start in range(0, len(asked), size)]
        batches = (rollout(self.policy, asked[row], seeds[row], keep_steps=False) for row in rows)
        return torch.cat([batch.images for batch in batches])

    def save(self, folder: str | Path) -> Path:
        """Write the trained weights in diffusers' format: a LoRA for `pipe.load_lora_weights(folder)`."""
        self._check_is_latest()
        path = Path(folder)
        if self.trainer.accelerator.is_main_process:
            path.mkdir(parents=True, exist_ok=True)
            self.policy.denoiser.export(path)
        return path

    def checkpoint(self, folder: str | Path) -> Path:
        """Write all that the run is into `folder/epoch-NNNNNN`, to go on from. Call it on every process."""
        state = self.capture()
        path = Path(folder)
        if self.trainer.accelerator.is_main_process:
            return save(path, state, self.trainer.beside)
        return path / checkpoint_name(self.number)

    def capture(self) -> RunState:
        """The run's state after this epoch. Call it on every process."""
        self._check_is_latest()
        return self.trainer.capture()

    def _check_is_latest(self) -> None:
        if self.trainer.epoch != self.number:
            raise UsageError(
                f"epoch {self.number} is over: the weights are those of epoch {self.trainer.epoch} by now",
                hint="draw and save in the loop over the epochs, before the next one begins",
            )
