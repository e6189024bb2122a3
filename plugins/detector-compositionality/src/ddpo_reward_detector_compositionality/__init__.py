"""Compositionality by a detector as a reward. Metadata only: torch and transformers come when it is built."""

from __future__ import annotations

from collections.abc import Iterable

from ddpo_core import Option, RewardInfo, Weights, hookimpl
from ddpo_core.judges import BATCH_SIZE, DEVICE, DTYPE

DDPO_PLUGIN_API = (1, 0)

_OPTIONS = (
    Option(
        name="detector",
        type="str",
        default="zero-shot",
        choices=("zero-shot", "grounding-dino", "detr"),
        help="whose weights to take where `weights` names none: google/owlv2-base-patch16-ensemble,"
        " IDEA-Research/grounding-dino-tiny, facebook/detr-resnet-50 (COCO's 80 names only)",
    ),
    Option(
        name="weights",
        type="str",
        help="path, PACKAGE:PATH or hub id of an OWL-ViT, OWLv2, Grounding DINO or DETR-like model; its own"
        " config says which of these it is",
    ),
    Option(
        name="query",
        type="str",
        help="what an open-vocabulary detector is asked, with {object} or {a_object} (with its article);"
        " default 'a photo of a {object}' for OWL, '{object}' for Grounding DINO",
    ),
    Option(
        name="min_score",
        type="float",
        default=0.1,
        minimum=0,
        maximum=1,
        help="confidence from which a box counts; below it an object is absent and scores 0",
    ),
    Option(
        name="overlap",
        type="float",
        minimum=0,
        maximum=1,
        help="IoU from which two boxes of one name are one object; default 0.5 for OWL, whose patches repeat"
        " one another, else T2I-CompBench's 0.9",
    ),
    Option(
        name="count",
        type="str",
        default="off",
        choices=("off", "exact", "soft"),
        help="also score how many there are: exact: 1 or 0; soft: 1 − |found − asked| / asked, not below 0",
    ),
    Option(
        name="spatial",
        type="str",
        default="off",
        choices=("off", "graded", "t2i-compbench"),
        help="also score the relation of the first two objects by T2I-CompBench's rule; t2i-compbench: with"
        " its cut, too (a total below ½ is 0)",
    ),
    Option(
        name="vocabulary",
        type="json",
        help='names that may be objects, as ["cat", "bike"]: with it, every one that a prompt mentions is'
        " wanted; default: the nouns before verbs, by rule",
    ),
    DEVICE,
    DTYPE,
    BATCH_SIZE,
)
_DOC = """\
Mean over the prompt's objects of the best confidence among the boxes of each, 0 where there is none
(Pinterest, arXiv 2401.12244, Eq. 13). A box belongs to the one object that fits it best.

Objects come from the prompt's metadata, `{"objects": ["cat", "dog"]}` (also `"counts": [1, 2]`,
`"relation": "left of"`), else from its text: "a cat and two dogs", "a cat next to a dog", "… left of …".

With `count` or `spatial` the score is the mean of the parts that the prompt says something about: presence,
count, position. With `spatial=t2i-compbench` that is its 0.25 + 0.25 + 0.5. Its 150 pixels are scaled from
512.
"""


@hookimpl
def ddpo_rewards() -> Iterable[RewardInfo]:
    return (
        RewardInfo(
            name="detector-compositionality",
            aliases=("compositionality",),
            summary="how surely a detector finds every object of the prompt",
            factory="ddpo_reward_detector_compositionality.reward:DetectorCompositionality",
            options=_OPTIONS,
            requires=("inflect", "torch", "torchvision", "transformers", "PIL"),
            install_hint="pip install ddpo-reward-detector-compositionality",
            unit="confidence",
            range=(0.0, 1.0),
            higher_is="all objects surely there (and as many, and where the prompt says, if asked for)",
            resolution=0.001,
            weights=(
                Weights(name="google/owlv2-base-patch16-ensemble", megabytes=620, licence="Apache-2.0"),
                Weights(name="IDEA-Research/grounding-dino-tiny", megabytes=690, licence="Apache-2.0"),
                Weights(name="facebook/detr-resnet-50", megabytes=167, licence="Apache-2.0"),
            ),
            licence="MIT; OWLv2, Grounding DINO and DETR Apache-2.0, code and weights",
            fooled_by="large flat stickers of the objects side by side, the rest of the prompt lost; with OWL"
            " also the object's name written in the picture",
            doc=_DOC,
        ),
    )
