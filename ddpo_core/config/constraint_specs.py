"""`--constraint aesthetic,min=5.5`: a bound on a reward's mean, kept by a Lagrange multiplier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ddpo_core import spec as grammar
from ddpo_core.constraints import Constraint
from ddpo_core.errors import UnknownName, UsageError
from ddpo_core.nearest import did_you_mean

_BOUNDS = {"min": "minimum", "max": "maximum", "rate": "rate", "limit": "limit"}


def split(text: str) -> tuple[grammar.Spec, Constraint]:
    """The reward that a constraint is on, and the constraint. Raises `SpecError` or `UsageError`."""
    spec = grammar.parse(text)
    bounds: dict[str, float] = {}
    for key, name in _BOUNDS.items():
        value = spec.options.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise spec.error(f"'{key}' must be a number; got {value}", key=key)
        bounds[name] = float(value)
    if "minimum" not in bounds and "maximum" not in bounds:
        wrong = _misspelt(spec) or "expects a bound in the reward's unit"
        raise UsageError(
            f"--constraint {text}: {wrong}",
            hint=f"write --constraint {spec.label},min=NUMBER or max=NUMBER",
        )
    options = {key: value for key, value in spec.options.items() if key not in _BOUNDS}
    return replace(spec, options=options, text=""), Constraint(spec.label, **bounds)


def _misspelt(spec: grammar.Spec) -> str:
    """What to say of the first key that is nearly one of a constraint's, or nothing."""
    meant = ((key, did_you_mean(key, _BOUNDS)) for key in spec.options)
    return next((f"a constraint has no key '{key}'{near}" for key, near in meant if near), "")


def written(constraint: Constraint) -> str:
    """The one way a constraint on a reward of the run is written."""
    default = Constraint(constraint.label, minimum=0)
    bounds = {key: getattr(constraint, name) for key, name in _BOUNDS.items()}
    said = {
        key: value for key, value in bounds.items() if value != getattr(default, _BOUNDS[key]) or key == "min"
    }
    if constraint.minimum == -float("inf"):
        del said["min"]
    return str(grammar.Spec(constraint.label, options=said))


def separate(texts: Sequence[str], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Canonical constraints, and the specs of the rewards they are on that no label stands for yet.

    Raises `UsageError` where options are given for a reward that the run has already.
    """
    constraints, missing = [], []
    for text in texts:
        spec, constraint = split(text)
        if spec.label not in labels:
            missing.append(str(spec))
        elif spec.options:
            meant = _misspelt(spec)
            if meant:
                raise UnknownName(f"--constraint {text}: {meant}")
            raise UsageError(
                f"--constraint {text}: {spec.label} is a reward of this run; give its options there",
            )
        constraints.append(written(constraint))
    return constraints, missing
