"""Batch arithmetic, without torch: what has to divide what, and the nearest values that do."""

from __future__ import annotations

from ddpo_cli.settings import RunConfig
from ddpo_core.errors import BatchError


def nearest_multiples(value: int, divisor: int) -> list[int]:
    """The multiples of `divisor` on both sides of `value`, never 0."""
    below = value // divisor * divisor
    return [multiple for multiple in (below, below + divisor) if multiple > 0]


def nearest_divisors(value: int, whole: int) -> list[int]:
    """The divisors of `whole` on both sides of `value`."""
    divisors = [n for n in range(1, whole + 1) if whole % n == 0]
    below = [n for n in divisors if n < value]
    above = [n for n in divisors if n > value]
    return below[-1:] + above[:1]


def check(config: RunConfig, *, group_size: int = 1) -> None:
    """Raise `BatchError` with the nearest values that divide, for the first pair that does not."""
    samples = config.samples_per_epoch
    for flag, part in (
        ("--sample-batch-size", config.sample_batch_size),
        ("--updates-per-epoch", config.updates_per_epoch),
    ):
        if samples % part:
            raise BatchError(
                f"--samples-per-epoch {samples} does not divide by {flag} {part}",
                hint=f"take --samples-per-epoch {_or(nearest_multiples(samples, part))}, "
                f"or {flag} {_or(nearest_divisors(part, samples))}",
            )
    share = samples // config.updates_per_epoch
    if config.train_batch_size < share and share % config.train_batch_size:
        raise BatchError(
            f"--train-batch-size {config.train_batch_size} does not divide the {share} samples of an update",
            hint=f"take --train-batch-size {_or(nearest_divisors(config.train_batch_size, share))}",
        )
    if samples % group_size:
        raise BatchError(
            f"--samples-per-epoch {samples} does not divide by the group size {group_size} of --advantages",
            hint=f"take --samples-per-epoch {_or(nearest_multiples(samples, group_size))}, "
            f"or --advantages group,size={_or(nearest_divisors(group_size, samples))}",
        )


def _or(values: list[int]) -> str:
    return " or ".join(map(str, values))
