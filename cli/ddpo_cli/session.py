"""One run from its first epoch to its last: train, and keep what there is to keep.

The order in which an epoch is kept makes a run killable at any moment: its metrics line, its pictures, then
its checkpoint. Whatever is newer than the last checkpoint is dropped on resuming and comes again, equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ddpo_cli import grids, report
from ddpo_cli.interrupt import Interrupt
from ddpo_cli.live import Header, View
from ddpo_cli.records import Record, records_of
from ddpo_cli.run_folder import RunFolder
from ddpo_cli.trackers import NoTracker, Tracker, make_tracker
from ddpo_core.config import parts, provenance
from ddpo_core.config.resolve import Resolved

if TYPE_CHECKING:
    from ddpo_core.denoising import Policy
    from ddpo_core.discovery import Registry
    from ddpo_core.training import Epoch, Progress

RECORDED = 8  # samples of each epoch


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    epoch: int  # the last that is done
    interrupted: bool


class Silent:
    """The view of every process but the first."""

    def start(self, header: Header, history: Sequence[Mapping[str, float]]) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        pass

    def epoch(self, metrics: Mapping[str, float]) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Session:
    """A run in progress: its parts, its folder, and who looks on."""

    def __init__(self, folder: RunFolder, resolved: Resolved, registry: Registry, view: View) -> None:
        self.folder = folder
        self.config = resolved.config
        self.weights = provenance.labels(self.config)
        self.parts = parts.build(self.config, registry)
        self.accelerator = self.parts.model.accelerator
        self.is_main = bool(self.accelerator.is_main_process)
        self.view: View = view if self.is_main else Silent()
        count = self.config.image_count
        self.plan = grids.plan_grid(self.parts.some_prompts(count), count, self.config.seed)
        self.tracker: Tracker = NoTracker()

    def run(self, header: Header, resume_at: int | None) -> Outcome:
        """Train to the last epoch, or to the first Ctrl-C. `resume_at`: the checkpoint to go on from."""
        if self.is_main:
            self.folder.truncate_metrics(resume_at or 0)
            self.tracker = make_tracker(
                self.config.tracker, self.folder.root, asdict(self.config), resumed_at=resume_at
            )
        self.view.start(header, self.folder.read_metrics())
        try:
            return self._train(resume_at)
        finally:
            for task in self.parts.tasks:
                task.objective.close()
            self.view.close()
            self.tracker.close()

    def _train(self, resume_at: int | None) -> Outcome:
        from ddpo_core import checkpoint
        from ddpo_core.training import train

        state = None if resume_at is None else checkpoint.load(self.folder.checkpoint(resume_at))
        if state is None and self.is_main:
            with self.accelerator.autocast():
                self._record(0, [], self._draw(0, self._policy()))
        run = train(
            denoiser=self.parts.model.denoiser,
            sampler=self.parts.model.sampler,
            estimator=self.parts.estimator,
            tasks=self.parts.tasks,
            normaliser=self.parts.normaliser,
            pretraining=self.parts.pretraining,
            settings=self.parts.settings,
            state=state,
            accelerator=self.accelerator,
            on_progress=self.view.progress,
        )
        done = resume_at or 0
        with Interrupt(self._announce_stop) as interrupt:
            for epoch in run:
                done = epoch.number
                stop = self._anyone(interrupt.requested)
                self._keep(epoch, last=stop or done == self.config.epochs)
                if stop:
                    break
        if done == resume_at and self.is_main:
            self._publish()  # it was over, and killed between its last checkpoint and what follows that
        return Outcome(done, interrupted=done < self.config.epochs)

    def _announce_stop(self) -> None:
        self.view.say("Finishing this epoch, then saving. Ctrl-C again stops at once.")

    def _anyone(self, requested: bool) -> bool:
        """Whether any process was asked to stop: all of them have to do it at the same epoch."""
        if self.accelerator.num_processes == 1:
            return requested
        import torch

        flag = torch.tensor([float(requested)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item() > 0)

    # what is kept of an epoch

    def _keep(self, epoch: Epoch, *, last: bool) -> None:
        saved = last or epoch.number % self.config.checkpoint_every == 0
        state = epoch.capture() if saved else None  # on every process: gathering is everyone's work
        if not self.is_main:
            return
        self.folder.append_metrics(epoch.metrics)
        self.tracker.scalars(epoch.number, epoch.metrics)
        every = self.config.images_every
        is_drawn = last or (every and epoch.number % every == 0)
        grid = self._draw(epoch.number, epoch.policy) if is_drawn else []
        self._record(epoch.number, self._samples(epoch), grid)
        if state is not None:
            self._save(state)
        self.view.epoch(epoch.metrics)

    def _save(self, state: Any) -> None:
        from ddpo_core import checkpoint

        beside = {self.folder.plugins.name: self.folder.plugins.read_bytes()}
        checkpoint.save(self.folder.checkpoints, state, beside)
        self._publish()

    def _publish(self) -> None:
        """What follows from a checkpoint: adapter, report, and which older ones may go."""
        self.folder.publish_adapter(self.parts.model.denoiser.export)
        self.folder.prune_checkpoints(self.weights, self.config.checkpoint_keep)
        report.write_report(self.folder)

    def _draw(self, epoch: int, policy: Policy) -> list[Record]:
        """Draw the grid, keep it, and ask the rewards what they say of it."""
        images = grids.draw(policy, self.plan, self.config.sample_batch_size)
        grids.save_grid(self.folder, epoch, images, self.plan)
        self.tracker.images(epoch, images, [prompt.text for prompt in self.plan.prompts])
        terms = [term for task in self.parts.tasks for term in task.objective.terms]
        return grids.judge(terms, images, self.plan)

    def _samples(self, epoch: Epoch) -> list[Record]:
        """The first few samples of every task, and what was said of them."""
        share = -(-RECORDED // len(epoch.rounds))
        return [
            {"task": each.task, **record} if len(epoch.rounds) > 1 else record
            for each in epoch.rounds
            for record in records_of(each.judged.trajectory.prompts, each.judged.seeds, each.scores, share)
        ]

    def _record(self, epoch: int, samples: list[Record], grid: list[Record]) -> None:
        record = {"epoch": epoch, "samples": samples, **({"grid": grid} if grid else {})}
        self.folder.write_json(self.folder.record(epoch), record)

    def _policy(self) -> Policy:
        from ddpo_core.denoising import Policy

        model = self.parts.model
        schedule = model.sampler.schedule(model.denoiser, self.config.num_steps)
        return Policy(model.denoiser, model.sampler, schedule, self.config.guidance_scale)
