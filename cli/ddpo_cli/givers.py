"""Who gave which score, in words: the rows of the table that pages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddpo_core import spec as grammar
from ddpo_core.config.provenance import short


@dataclass(frozen=True)
class Giver:
    """Who gave a reward's scores, in words."""

    label: str
    name: str
    distribution: str  # and its version
    files: str  # short hash
    weights: Sequence[str]  # "name hash"
    options: Sequence[str]  # "name=value"


def rows(rewards: Mapping[str, Mapping[str, Any]]) -> list[Giver]:
    """The rows of a page's table. Records of an older ddpo know less."""
    return [
        Giver(
            label,
            part["name"],
            f"{part['distribution']} {part['version']}".strip(),
            short(part.get("files", "")),
            [f"{name} {short(digest)}" for name, digest in part.get("weights", {}).items()],
            [grammar.options_text({name: value}) for name, value in part.get("options", {}).items()],
        )
        for label, part in rewards.items()
    ]
