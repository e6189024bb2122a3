"""What somebody probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(typed: str, valid: Iterable[str]) -> str:
    """`; did you mean 'num_steps'?`, or nothing where no valid name is near."""
    by_spelling = {name.casefold().replace("-", "_"): name for name in valid}
    near = get_close_matches(typed.casefold().replace("-", "_"), by_spelling, n=1, cutoff=0.5)
    return f"; did you mean '{by_spelling[near[0]]}'?" if near else ""
