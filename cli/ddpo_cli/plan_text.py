"""The plan of a dry run, to read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ddpo_cli.live import duration
from ddpo_cli.plan import Plan, Sizes
from ddpo_core.config.resolve import Resolved
from ddpo_core.config.settings import RunConfig, declared

if TYPE_CHECKING:
    from ddpo_cli.measure import Measured
    from ddpo_cli.memory import Memory
    from ddpo_core.discovery import Registry

SMALL_NETWORK = 20_000_000  # weights; loading and timing one takes seconds


def measured(config: RunConfig, registry: Registry, plan: Plan, wanted: bool | None) -> Measured | None:
    """Time and memory by trying, where that was asked for or is quick."""
    quick = plan.sizes is not None and plan.sizes.network_weights < SMALL_NETWORK
    has_torch = importlib.util.find_spec("torch") is not None
    if wanted is False or (wanted is None and not (quick and has_torch)):
        return None
    from ddpo_cli.measure import measure

    passes = plan.per_epoch.training // (2 if config.guidance_scale != 1 else 1)
    return measure(config, registry, passes)


def text(plan: Plan, resolved: Resolved, memory: Memory | None, timed: Measured | None) -> str:
    """Everything in one column of names and one of values."""
    return "\n".join(
        [
            *_work(plan, resolved.config),
            *_sizes(plan.sizes),
            *_memory(memory, resolved.config),
            *_time(plan, resolved, timed),
            *_settings(resolved),
        ]
    )


def _row(name: str, value: str, note: str = "") -> str:
    return f"  {name:<24} {value:<28} {note}".rstrip()


def _work(plan: Plan, config: RunConfig) -> Iterator[str]:
    yield "Work"
    yield _row("samples", f"{plan.samples:,}", f"{plan.samples_per_epoch:,} × {config.epochs} epochs")
    yield _row("reward queries", f"{plan.reward_queries:,}")
    updates = f"{config.updates_per_epoch} × {config.epochs} epochs, {plan.samples_per_update:,} samples each"
    yield _row("updates", f"{plan.updates:,}", updates)
    both = "two a step, for guidance" if config.guidance_scale != 1 else "one a step, no guidance"
    yield _row(
        "network, forward", f"{plan.in_all.sampling:,}", f"{plan.per_epoch.sampling:,} an epoch, {both}"
    )
    yield _row("network, with gradient", f"{plan.in_all.training:,}", f"{plan.per_epoch.training:,} an epoch")


def _sizes(sizes: Sizes | None) -> Iterator[str]:
    yield "\nSize"
    if sizes is None:
        yield _row("trainable weights", "not known", "the model is not on this machine yet")
        return
    part = sizes.trainable_weights / sizes.network_weights
    yield _row(
        "trainable weights", f"{sizes.trainable_weights:,}", f"{part:.1%} of {sizes.network_weights:,}"
    )
    yield _row("model", megabytes(sizes.model_bytes))
    yield _row("gradients and AdamW", megabytes(sizes.optimiser_bytes), "float32")
    yield _row("an epoch's trajectories", megabytes(sizes.trajectory_bytes), "in main memory")


def _memory(memory: Memory | None, config: RunConfig) -> Iterator[str]:
    if memory is None:
        return
    yield "\nMemory on the device, rewards not counted"
    yield _row("in all, about", megabytes(memory.in_all), "model, AdamW and the largest of these:")
    yield _row("sampling", megabytes(memory.sampling), f"{config.sample_batch_size} pictures at a time")
    yield _row("decoding", megabytes(memory.decoding), "the model option vae_slicing=true makes it less")
    less = (
        "with gradient checkpointing"
        if config.gradient_checkpointing
        else "--gradient-checkpointing for less"
    )
    yield _row("training", megabytes(memory.training), f"{config.train_batch_size} pairs at a time, {less}")


def _time(plan: Plan, resolved: Resolved, timed: Measured | None) -> Iterator[str]:
    yield "\nTime"
    if timed is None:
        yield _row("an epoch", "not measured", "add --measure to load the model and time one step here")
        return
    yield _row("an epoch", duration(timed.seconds_per_epoch), f"on {timed.device}, rewards not counted")
    yield _row("the run", duration(timed.seconds_per_epoch * resolved.config.epochs))
    yield _row("peak memory", megabytes(timed.peak_bytes), "of one step, trajectories not counted")


def _settings(resolved: Resolved) -> Iterator[str]:
    panel = ""
    for name, setting in declared().items():
        if setting.panel != panel:
            panel = setting.panel
            yield f"\n{panel}"
        value = getattr(resolved.config, name)
        origin = resolved.origins[name]
        if isinstance(value, tuple) and any(" " in item or "," in item for item in value):
            yield _row(name, "", origin)
            yield from (f"    {item}" for item in value)
            continue
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        yield _row(name, (" ".join(value) if isinstance(value, tuple) else shown) or "–", origin)


def megabytes(count: float) -> str:
    """MB or GB, decimal."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
