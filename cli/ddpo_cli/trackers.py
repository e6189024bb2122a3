"""Where curves and pictures go besides the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ddpo_core.errors import EnvironmentFault

if TYPE_CHECKING:
    from torch import Tensor


class Tracker(Protocol):
    """Anything that keeps curves."""

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """One epoch's metrics."""

    def images(self, epoch: int, images: Tensor, captions: Sequence[str]) -> None:
        """The fixed-seed grid [N, 3, H, W] in [0, 1]."""

    def close(self) -> None:
        """Write what is still held."""


class NoTracker:
    """The run folder is enough."""

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        pass

    def images(self, epoch: int, images: Tensor, captions: Sequence[str]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoard:
    """Event files in the run folder. What an earlier process wrote after `resumed_at` is purged from view."""

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise EnvironmentFault(
                "--tracker tensorboard: tensorboard is not installed",
                hint="pip install tensorboard, or take --tracker none",
            ) from error
        purge = None if resumed_at is None else resumed_at + 1
        self._writer: Any = SummaryWriter(folder, purge_step=purge)

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def images(self, epoch: int, images: Tensor, captions: Sequence[str]) -> None:
        self._writer.add_images("fixed seeds", images, epoch)

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A Weights & Biases run named after the folder; resuming goes on with the same one."""

    def __init__(self, folder: Path, config: Mapping[str, object]) -> None:
        try:
            import wandb  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise EnvironmentFault(
                "--tracker wandb: wandb is not installed",
                hint="pip install wandb, or take --tracker tensorboard",
            ) from error
        self._wandb: Any = wandb
        known = folder / "wandb-id.txt"
        identity = known.read_text().strip() if known.is_file() else wandb.util.generate_id()
        known.write_text(identity + "\n")
        self._run: Any = wandb.init(
            project="ddpo", id=identity, name=folder.name, dir=folder, config=dict(config), resume="allow"
        )
        self._run.define_metric(
            "*", step_metric="epoch"
        )  # wandb's own step cannot go back, a resumed run does

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "epoch": epoch})

    def images(self, epoch: int, images: Tensor, captions: Sequence[str]) -> None:
        pictures = [
            self._wandb.Image(image, caption=text) for image, text in zip(images, captions, strict=True)
        ]
        self._run.log({"fixed seeds": pictures, "epoch": epoch})

    def close(self) -> None:
        self._run.finish()


def make_tracker(name: str, folder: Path, config: Mapping[str, object], *, resumed_at: int | None) -> Tracker:
    """The tracker called `name`. Raises `EnvironmentFault` where its package is missing."""
    if name == "tensorboard":
        return TensorBoard(folder, resumed_at)
    return Wandb(folder, config) if name == "wandb" else NoTracker()
