"""LAION's aesthetic predictor as a reward. Metadata only: torch and CLIP are imported when it is built."""

from __future__ import annotations

from collections.abc import Iterable

from ddpo_core import Option, RewardInfo, Weights, hookimpl
from ddpo_core.judges import BATCH_SIZE, DEVICE, DTYPE

DDPO_PLUGIN_API = (1, 0)

CLIP = "openai/clip-vit-large-patch14"
HEAD = "trl-lib/ddpo-aesthetic-predictor"
HEAD_FILE = "aesthetic-model.pth"  # LAION's sac+logos+ava1-l14-linearMSE.pth under another name
HEAD_SHA256 = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"

_DOC = """\
The picture is rounded to 8 bits, prepared by CLIP's own preprocessor and embedded by CLIP ViT-L/14. The
embedding, at length 1, goes through five linear layers with no activation between them, so the grade is
w·e + b; in LAION's weights b is 5.2366 and |w| 17.996. People rated from 1 to 10, but nothing holds the grade
there.

`score(images, prompts)` is the same with a gradient: preprocessing in tensors, and no rounding to 8 bits.
"""


@hookimpl
def ddpo_rewards() -> Iterable[RewardInfo]:
    return (
        RewardInfo(
            name="aesthetic",
            aliases=("laion-aesthetic",),
            summary="how much people like the look: LAION's predictor on CLIP",
            factory="ddpo_reward_aesthetic.reward:Aesthetic",
            options=(
                Option(
                    name="clip",
                    type="str",
                    default=CLIP,
                    help="CLIP as a transformers folder, PACKAGE:PATH or hub id; for backend=open-clip an"
                    " architecture of open_clip (the default stands for ViT-L-14) or local-dir:FOLDER",
                ),
                Option(
                    name="backend",
                    type="str",
                    default="transformers",
                    choices=("transformers", "open-clip"),
                    help="the library that runs CLIP",
                ),
                Option(
                    name="clip_pretrained",
                    type="str",
                    help="backend=open-clip: a tag of the architecture, or a checkpoint file; else openai",
                ),
                Option(
                    name="head",
                    type="str",
                    default=HEAD,
                    help="the five linear layers: a .pth or .safetensors file, PACKAGE:PATH,"
                    " or on the hub OWNER/NAME or OWNER/NAME/FILE",
                ),
                DEVICE,
                DTYPE,
                BATCH_SIZE,
            ),
            requires=("torch", "transformers", "huggingface_hub", "safetensors", "PIL"),
            install_hint="pip install ddpo-reward-aesthetic",
            unit="grade 1–10",
            higher_is="pictures people rated as more beautiful",
            differentiable=True,
            resolution=0.01,
            weights=(
                Weights(name=CLIP, megabytes=1711, licence="MIT"),
                Weights(name=f"{HEAD}/{HEAD_FILE}", megabytes=3.7, licence="Apache-2.0", sha256=HEAD_SHA256),
            ),
            licence="MIT; CLIP MIT; head Apache-2.0",
            fooled_by="the style of paintings and glossy photographs, whatever the prompt; it has no ceiling",
            doc=_DOC,
        ),
    )
