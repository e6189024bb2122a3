"""Batch arithmetic: what has to divide what, and the nearest values that do. Needs no torch."""

from __future__ import annotations

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


def check_batches(
    *,
    samples_per_epoch: int,
    sample_batch_size: int,
    train_batch_size: int,
    updates_per_epoch: int,
    processes: int = 1,
    group_size: int = 1,
) -> None:
    """Raise `BatchError`, with the nearest values that fit, for the first pair that does not divide.

    Samples are of all processes, batch sizes of one; `group_size` images in a row have one prompt.
    """
    samples, each = samples_per_epoch, f" × {processes} processes" if processes > 1 else ""
    for name, part in (
        ("sample_batch_size", sample_batch_size),
        ("updates_per_epoch", updates_per_epoch),
        ("the group size", group_size),
    ):
        whole = part * processes
        if samples % whole:
            raise BatchError(
                f"samples_per_epoch {samples} does not divide by {name} {part}{each}",
                hint=f"take samples_per_epoch {_or(nearest_multiples(samples, whole))},"
                f" or {name} {_or(nearest_divisors(part, samples // processes))}",
            )
    share = samples // (updates_per_epoch * processes)
    if train_batch_size < share and share % train_batch_size:
        raise BatchError(
            f"train_batch_size {train_batch_size} does not divide the {share} samples of an update{each}",
            hint=f"take train_batch_size {_or(nearest_divisors(train_batch_size, share))}",
        )


def _or(values: list[int]) -> str:
    return " or ".join(map(str, values))
