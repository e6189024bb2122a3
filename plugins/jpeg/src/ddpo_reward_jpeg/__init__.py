"""JPEG file size as a reward. Metadata only: numpy and Pillow are imported when a reward is built."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ddpo_core import Option, RewardInfo, hookimpl

DDPO_PLUGIN_API = (1, 0)

_OPTIONS = (
    Option(
        name="quality",
        type="int",
        default=95,
        minimum=1,
        maximum=100,
        help="JPEG quality, as Pillow counts it",
    ),
    Option(
        name="resize", type="int", minimum=1, help="side in pixels of a square to resize to before encoding"
    ),
    Option(name="threads", type="int", minimum=1, help="pictures encoded at a time; default: one per CPU"),
)
_DOC = """\
The picture is rounded to 8 bits and encoded in memory with Pillow: baseline JPEG, no optimised tables, no
metadata, and Pillow's default chroma subsampling (4:2:0). 1 kB is 1000 bytes, file header included (0.6 kB).
"""


def _info(
    name: str, *aliases: str, summary: str, attribute: str, span: tuple[float, float], **texts: str
) -> RewardInfo:
    return RewardInfo(
        name=name,
        aliases=aliases,
        summary=summary,
        factory=f"ddpo_reward_jpeg.reward:{attribute}",
        options=_OPTIONS,
        requires=("numpy", "PIL"),
        install_hint="pip install ddpo-reward-jpeg",
        unit="kB",
        range=span,
        resolution=0.001,  # one byte
        licence="MIT; Pillow is MIT-CMU; no weights",
        doc=_DOC,
        **texts,  # type: ignore[arg-type]
    )


@hookimpl
def ddpo_rewards() -> Iterable[RewardInfo]:
    return (
        _info(
            "jpeg",
            "compressibility",
            summary="minus the size as a JPEG file",
            attribute="Compressibility",
            span=(-math.inf, 0.0),
            higher_is="smaller files",
            fooled_by="empty pictures: fog, flat colour, no animal",
        ),
        _info(
            "incompressibility",
            summary="the size as a JPEG file",
            attribute="Incompressibility",
            span=(0.0, math.inf),
            higher_is="larger files",
            fooled_by="noise and fine texture over the whole picture",
        ),
    )
