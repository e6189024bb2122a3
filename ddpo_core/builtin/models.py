"""What ddpo's models say of themselves: families of diffusers pipelines."""

from __future__ import annotations

from typing import Any

from ddpo_core.builtin.packages import INSTALL_TRAIN
from ddpo_core.info import ModelInfo, Option

# what the loader of every family takes, see `denoisers.pipeline.Loading`
LOADING = (
    Option(name="pretrained", type="str", required=True, help="a hub id or a folder in diffusers' format"),
    Option(name="revision", type="str", help="branch, tag or commit on the hub"),
    Option(name="variant", type="str", help="weight files of this variant, such as fp16"),
    Option(
        name="size",
        type="int",
        minimum=1,
        help="height and width of the pictures in pixels; the model's own unless given",
    ),
    Option(name="vae_slicing", type="bool", default=False, help="decode one picture at a time: less memory"),
    Option(
        name="vae_tiling",
        type="bool",
        default=False,
        help="decode large pictures in overlapping tiles: much less memory, faint seams",
    ),
    Option(
        name="compile",
        type="bool",
        default=False,
        help="torch.compile the network: minutes at the start, then faster steps",
    ),
    Option(
        name="offload_text_encoders",
        type="bool",
        default=True,
        help="keep the text encoders on the CPU while no new prompt is encoded",
    ),
)
EMBEDDED_GUIDANCE = Option(
    name="embedded_guidance",
    type="float",
    minimum=0,
    help="the guidance scale that the network is told, where it asks (FLUX.1-dev); 3.5 unless given",
)
T5 = Option(
    name="t5",
    type="bool",
    default=True,
    help="load the largest text encoder; without it much less memory, worse long prompts and written words",
)


def _max_sequence_length(default: int) -> Option:
    return Option(
        name="max_sequence_length",
        type="int",
        default=default,
        minimum=1,
        help="tokens that T5 reads of a prompt",
    )


def _family(name: str, **about: Any) -> ModelInfo:
    return ModelInfo(
        name=name,
        requires=("torch", "diffusers", "transformers", "peft"),
        install_hint=INSTALL_TRAIN,
        prompts="animals",
        **about,
    )


# Families of diffusers pipelines.
MODELS: tuple[ModelInfo, ...] = (
    _family(
        "stable-diffusion",
        aliases=("sd",),
        summary="Stable Diffusion 1.x and 2.x, from a local folder or the Hugging Face hub",
        factory="ddpo_core.denoisers.stable_diffusion:load",
        options=LOADING,
        pipelines=("StableDiffusionPipeline",),
        adapter="ddpo_core.denoisers.stable_diffusion:StableDiffusion",
        doc="512 × 512 pictures (2.x: 768 × 768 for those that predict v).",
    ),
    _family(
        "sdxl",
        summary="Stable Diffusion XL: two text encoders, pictures of 1024 × 1024",
        factory="ddpo_core.denoisers.sdxl:load",
        options=LOADING,
        pipelines=("StableDiffusionXLPipeline",),
        adapter="ddpo_core.denoisers.sdxl:SDXL",
        defaults={"guidance_scale": 5.0},
        doc="Trains the base model; the refiner is another pipeline. `size=512` costs a quarter of the memory"
        " of activations, and the model was trained on such pictures, too, before its last stage.",
    ),
    _family(
        "sd3",
        summary="Stable Diffusion 3 and 3.5: rectified flow in a transformer",
        factory="ddpo_core.denoisers.sd3:load",
        options=(*LOADING, T5, _max_sequence_length(256)),
        path="flow",
        pipelines=("StableDiffusion3Pipeline",),
        adapter="ddpo_core.denoisers.sd3:SD3",
        # 10 steps to learn from are as good as 40 to look at (arXiv 2505.05470)
        defaults={"num_steps": 10, "guidance_scale": 4.5},
        doc="Learns from 10 steps at guidance 4.5, as Flow-GRPO does, which has pictures of `size=512`.",
    ),
    _family(
        "flux",
        summary="FLUX.1: rectified flow in a transformer, guidance built in",
        factory="ddpo_core.denoisers.flux:load",
        options=(*LOADING, EMBEDDED_GUIDANCE, _max_sequence_length(512)),
        path="flow",
        pipelines=("FluxPipeline",),
        adapter="ddpo_core.denoisers.flux:Flux",
        defaults={"num_steps": 10, "guidance_scale": 1.0},
        doc="FLUX.1-dev is told a guidance scale (`embedded_guidance`) and needs one evaluation a step;"
        " `--guidance-scale` other than 1 adds classifier-free guidance on top. FLUX.1-schnell works with"
        " `max_sequence_length=256` and `--num-steps 4`.",
    ),
)
