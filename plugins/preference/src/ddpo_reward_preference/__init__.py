"""Models of what people prefer, as rewards. Metadata only: torch is imported when a reward is built."""

from __future__ import annotations

from collections.abc import Iterable

from ddpo_core import Option, RewardInfo, Weights, hookimpl
from ddpo_core.judges import BATCH_SIZE, DEVICE, DTYPE

DDPO_PLUGIN_API = (1, 0)

CLIP = "openai/clip-vit-large-patch14"
PICKSCORE = "yuvalkirstain/PickScore_v1"
PICKSCORE_PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
HPSV2 = "xswu/HPSv2"
HPSV2_FILES = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}
IMAGEREWARD = "THUDM/ImageReward"
IMAGEREWARD_FILE = "ImageReward.pt"
TOKENIZER = "google-bert/bert-base-uncased"

_NEEDS = ("torch", "torchvision", "transformers", "huggingface_hub", "safetensors", "PIL")
_TENSORS = """
`score(images, prompts)` is the same with a gradient: preprocessing in tensors, and no rounding to 8 bits.
"""


def _info(name: str, *, attribute: str, options: tuple[Option, ...], doc: str, **facts: object) -> RewardInfo:
    return RewardInfo(
        name=name,
        factory=f"ddpo_reward_preference.{attribute}",
        options=(*options, DEVICE, DTYPE, BATCH_SIZE),
        differentiable=True,
        doc=doc + _TENSORS,
        **{"requires": _NEEDS, "install_hint": "pip install ddpo-reward-preference", **facts},  # type: ignore[arg-type]
    )


@hookimpl
def ddpo_rewards() -> Iterable[RewardInfo]:
    return (_clipscore(), _pickscore(), _hpsv2(), _imagereward())


def _clipscore() -> RewardInfo:
    return _info(
        "clipscore",
        summary="how well the picture fits the prompt, to CLIP",
        attribute="clipscore:ClipScore",
        options=(
            Option(
                name="clip",
                type="str",
                default=CLIP,
                help="a transformers CLIPModel with its processor: a folder, PACKAGE:PATH or hub id",
            ),
            Option(name="scale", type="float", default=1.0, help="what the cosine is multiplied by"),
            Option(
                name="paper",
                type="bool",
                default=False,
                help='the CLIPScore paper: 2.5 · max(0, cosine), the prompt after "A photo depicts"',
            ),
        ),
        unit="",
        range=(-1.0, 1.0),
        higher_is="pictures that CLIP finds closer to their prompt",
        resolution=0.001,
        weights=(Weights(name=CLIP, megabytes=1711, licence="MIT"),),
        licence="MIT; CLIP MIT",
        fooled_by="the prompt written into the picture; it hardly counts, or sees who does what to whom",
        doc="""\
The cosine between CLIP's embeddings of the picture and of the prompt, times `scale`: with ViT-L/14 about 0.15
for strangers and 0.3 for a good fit. A prompt longer than CLIP's text (77 tokens) is cut, and the record says
so. The range above is for a scale of 1. The paper's figures (arXiv 2104.08718) are for
`paper=true,clip=openai/clip-vit-base-patch32`.
""",
    )


def _pickscore() -> RewardInfo:
    return _info(
        "pickscore",
        summary="which picture people would pick for the prompt",
        attribute="pickscore:PickScore",
        options=(
            Option(
                name="clip",
                type="str",
                default=PICKSCORE,
                help="the fine-tuned CLIPModel: a transformers folder, PACKAGE:PATH or hub id",
            ),
            Option(
                name="processor",
                type="str",
                default=PICKSCORE_PROCESSOR,
                help="its tokenizer and preprocessor: a transformers folder, PACKAGE:PATH or hub id",
            ),
        ),
        unit="logit",
        range=(-100.0, 100.0),
        higher_is="pictures that people pick more often",
        resolution=0.01,
        weights=(Weights(name=PICKSCORE, megabytes=3944, licence="none stated"),),
        licence="MIT; the weights state none",
        fooled_by="saturated, glossy, centred pictures with faces, whatever the prompt asks for",
        doc="""\
exp(logit scale) · cosine of CLIP ViT-H/14 fine-tuned on Pick-a-Pic (arXiv 2305.01569): about 18 to 24. A
difference of d says that people prefer the better of two pictures with probability 1 / (1 + exp(−d)).
""",
    )


def _hpsv2() -> RewardInfo:
    return _info(
        "hpsv2",
        summary="human preference score v2 or v2.1",
        attribute="hpsv2:HpsV2",
        options=(
            Option(
                name="version",
                type="str",
                default="2.1",
                choices=tuple(HPSV2_FILES),
                help="which of the two published checkpoints",
            ),
            Option(
                name="checkpoint",
                type="str",
                help="its file or PACKAGE:PATH, or the hub's OWNER/NAME/FILE; else the published one",
            ),
            Option(
                name="architecture",
                type="str",
                default="ViT-H-14",
                help="open_clip's name of the towers, or a folder with an open_clip_config.json",
            ),
            Option(
                name="antialias",
                type="bool",
                default=True,
                help="smooth before shrinking, as torchvision has since 0.17; the published figures did not",
            ),
        ),
        requires=(*_NEEDS, "open_clip"),
        install_hint="pip install 'ddpo-reward-preference[hpsv2]'",
        unit="",
        range=(-1.0, 1.0),
        higher_is="pictures that people prefer",
        resolution=0.0005,
        weights=tuple(
            Weights(name=f"{HPSV2}/{file}", megabytes=1972, licence="Apache-2.0")
            for file in HPSV2_FILES.values()
        ),
        licence="MIT; weights Apache-2.0",
        fooled_by="smooth, saturated, detailed illustrations, whatever the prompt asks for",
        doc="""\
The cosine of CLIP ViT-H/14 fine-tuned on HPD v2 (arXiv 2306.09341), without its logit scale: about 0.27.
Tables print it times 100. As in the published code, the picture is resized as floats and not as 8-bit levels,
and fitted whole into the square with black beside it. Versions 2.0 and 2.1 do not compare.
""",
    )


def _imagereward() -> RewardInfo:
    return _info(
        "imagereward",
        summary="human preference by ImageReward-v1.0",
        attribute="imagereward:ImageReward",
        options=(
            Option(
                name="checkpoint",
                type="str",
                default=f"{IMAGEREWARD}/{IMAGEREWARD_FILE}",
                help="a .pt or .safetensors file, PACKAGE:PATH, or the hub's OWNER/NAME/FILE",
            ),
            Option(
                name="tokenizer",
                type="str",
                default=TOKENIZER,
                help="BERT's uncased tokenizer: a transformers folder, PACKAGE:PATH or hub id",
            ),
        ),
        unit="σ",
        higher_is="pictures that people prefer",
        resolution=0.01,
        weights=(
            Weights(name=f"{IMAGEREWARD}/{IMAGEREWARD_FILE}", megabytes=1790, licence="Apache-2.0"),
            Weights(name=TOKENIZER, megabytes=0.7, licence="Apache-2.0"),
        ),
        licence="MIT; weights Apache-2.0, BLIP BSD-3-Clause",
        fooled_by="repeated subjects, faces and oversaturation; the prompt is read to 35 tokens only",
        doc="""\
BLIP reads the picture (ViT-L/16, 224 × 224 pixels) and then the prompt with the picture in view (BERT with
cross-attention, 35 tokens); five linear layers make one number of it, standardised to mean 0 and deviation 1
over the authors' own pictures (arXiv 2304.05977). Longer prompts are cut, and the record says so.
""",
    )
