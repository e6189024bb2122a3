"""Writes the tables of docs/samplers.md from what samplers and estimators declare: python docs/samplers.py"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ddpo_core.discovery import Registry
from ddpo_core.info import EstimatorInfo, SamplerInfo
from ddpo_core.options import spelled

PAGE = Path(__file__).with_name("samplers.md")


def rows_of(samplers: Iterable[SamplerInfo]) -> Iterator[list[str]]:
    """What each sampler is."""
    yield ["sampler", "models", "log-prob", "options and defaults", "source"]
    for sampler in samplers:
        options = [
            f"`{o.name}={spelled(o.default)}`" if o.default is not None else f"`{o.name}`"
            for o in sampler.options
        ]
        yield [
            f"`{sampler.name}`",
            ", ".join(sampler.paths),
            "yes" if sampler.has_log_prob else "no",
            ", ".join(options),
            sampler.doc,
        ]


def pairs_of(samplers: list[SamplerInfo], estimators: list[EstimatorInfo]) -> Iterator[list[str]]:
    """Which estimator goes with which sampler."""
    yield ["estimator", *(f"`{sampler.name}`" for sampler in samplers)]
    for estimator in estimators:
        rates = "log_probs" in estimator.needs
        works = ["yes" if sampler.has_log_prob or not rates else "–" for sampler in samplers]
        yield [f"`{estimator.name}`", *works]


def table(rows: Iterable[list[str]]) -> str:
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * (head.count(" | ") + 1) + "|", *rest])


def written(page: str, registry: Registry) -> str:
    """The page with its tables as they should be."""
    samplers = sorted(registry.infos("sampler"), key=lambda s: (s.paths, not s.has_log_prob, s.name))
    estimators = sorted(registry.infos("estimator"), key=lambda e: ("log_probs" not in e.needs, e.name))
    tables = {"samplers": table(rows_of(samplers)), "pairs": table(pairs_of(samplers, estimators))}
    for name, text in tables.items():
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{text}\n\g<2>", page, count=1, flags=re.DOTALL
        )
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), Registry.of()))
