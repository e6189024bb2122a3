"""What ddpo itself brings: samplers, estimators, models and prompt sets; a plugin like any other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ddpo_core.hookspecs import hookimpl
from ddpo_core.info import EstimatorInfo, ModelInfo, Option, PromptSetInfo, SamplerInfo
from ddpo_core.prompt_sets import PROMPT_SETS

DDPO_PLUGIN_API = (1, 0)

INSTALL_TRAIN = 'pip install "ddpo[train]"'

ETA = Option(
    name="eta",
    type="float",
    default=1.0,
    minimum=0,
    maximum=1,
    help="how much noise each step draws; 0 draws none, and then no step has a log-prob",
)
SPACING = Option(
    name="spacing",
    type="str",
    choices=("leading", "trailing", "linspace"),
    help="which timesteps are visited; the model's own choice unless given",
)
FLOW_SPACING = replace(
    SPACING,
    choices=("trailing", "linspace"),
    help="T equal parts of σ from 1 to 0, or T values from 1 to 1/N; the model's own choice unless given",
)
CLIP_RANGE = Option(
    name="clip_range",
    type="float",
    default=1e-4,
    minimum=0,
    help="the ratio is clipped at 1 ± this; log-probs are means over latent elements, so it is small",
)
CLIP_NATS = Option(
    name="clip_nats",
    type="float",
    minimum=0,
    help="clip in nats of the summed log-prob instead; takes the place of clip_range",
)
ADVANTAGE_CLIP = Option(
    name="advantage_clip", type="float", default=5.0, minimum=0, help="advantages are cut off at ± this"
)
INNER_EPOCHS = Option(
    name="inner_epochs", type="int", default=1, minimum=1, help="passes over each epoch's samples"
)
TIMESTEP_FRACTION = Option(
    name="timestep_fraction",
    type="float",
    default=1.0,
    minimum=0.001,
    maximum=1,
    help="part of each sample's steps that is trained on, drawn by its seed",
)
TIMESTEP_COUNT = Option(
    name="timestep_count",
    type="int",
    minimum=1,
    help="train on so many of each sample's steps, drawn by its seed; takes the place of timestep_fraction",
)
UPDATE_PER_TIMESTEP = Option(
    name="update_per_timestep",
    type="bool",
    default=False,
    help="an optimiser step for each of a sample's steps, over all samples, as arXiv 2401.12244 has it",
)
WINDOW = Option(
    name="window",
    type="int",
    default=0,
    minimum=0,
    help="train on so many neighbouring steps that slide from the noise to the picture; 0: no window",
)
WINDOW_EVERY = Option(
    name="window_every", type="int", default=1, minimum=1, help="epochs before the window moves on"
)
WINDOW_STRIDE = Option(
    name="window_stride", type="int", default=1, minimum=1, help="steps by which the window moves"
)
EARLY_FRACTION = Option(
    name="early_fraction",
    type="float",
    default=1.0,
    minimum=0.001,
    maximum=1,
    help="part of the steps, counted from the noise, that is trained on; see docs/notes.md",
)
KL_WEIGHT = Option(
    name="kl_weight",
    type="float",
    default=0.04,
    minimum=0,
    help="weight of the KL divergence, in nats per latent element, from the model before training",
)
INVERSE_TEMPERATURE = Option(
    name="inverse_temperature",
    type="float",
    default=1.0,
    minimum=0,
    help="weights are exp(this × reward); 0 weighs all samples the same",
)
PERCENTILE = Option(
    name="percentile",
    type="float",
    default=0.9,
    minimum=0,
    maximum=1,
    help="part of the samples that is left out; the others weigh the same",
)
WEIGHED = (
    Option(
        name="on",
        type="str",
        default="standardised",
        choices=("standardised", "raw"),
        help="weigh advantages, or the rewards as they are in their own units (the paper's way)",
    ),
    Option(
        name="over",
        type="str",
        default="round",
        choices=("round", "prompt"),
        help="weigh all samples of a round against each other, or those of each prompt",
    ),
    INNER_EPOCHS,
    Option(
        name="timestep_count",
        type="int",
        default=1,
        minimum=1,
        help="timesteps and noises drawn for each sample in each pass",
    ),
    Option(
        name="guided",
        type="bool",
        default=True,
        help="train the guided prediction (the paper's way), or the prompt's alone",
    ),
)
GUIDED = Option(
    name="guided",
    type="bool",
    default=True,
    help="train the guided prediction, which is what sampled, or the prompt's alone",
)
TIMESTEPS = (
    TIMESTEP_FRACTION,
    TIMESTEP_COUNT,
    UPDATE_PER_TIMESTEP,
    EARLY_FRACTION,
    WINDOW,
    WINDOW_EVERY,
    WINDOW_STRIDE,
)
CLIPPED = (CLIP_RANGE, CLIP_NATS, ADVANTAGE_CLIP, INNER_EPOCHS, *TIMESTEPS)
FORWARD = (
    INNER_EPOCHS,
    Option(
        name="timesteps",
        type="str",
        default="schedule",
        choices=("schedule", "uniform"),
        help="look at the sampler's own timesteps, or at as many from the whole process",
    ),
    GUIDED,
    *TIMESTEPS,
)
PREDICTION_KL = Option(
    name="kl_weight",
    type="float",
    default=0.0,
    minimum=0,
    help="weight of the squared distance from the prediction of the model before training; 0: none",
)


@hookimpl
def ddpo_samplers() -> Iterable[SamplerInfo]:
    yield SamplerInfo(
        name="ddim",
        summary="DDIM with stochasticity eta; eta=1 is DDPM",
        factory="ddpo_core.samplers.ddim:DDIM",
        options=(ETA, SPACING),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        doc="arXiv 2010.02502, Eq. 12 and 16",
    )
    yield SamplerInfo(
        name="ddim-tilted",
        summary="DDIM with more noise in one half of the picture: the pattern for non-isotropic noise",
        factory="ddpo_core.samplers.ddim_tilted:TiltedDDIM",
        options=(
            replace(ETA, default=0.7, help="how much noise each step draws, in the mean over the picture"),
            Option(
                name="tilt",
                type="float",
                default=0.5,
                minimum=-0.99,
                maximum=0.99,
                help="how much more noise below than above: η² grows from 1 - tilt to 1 + tilt times eta²",
            ),
            SPACING,
        ),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        doc="after arXiv 2010.02502, Eq. 12 and 16, element by element",
    )
    yield SamplerInfo(
        name="ddpm",
        summary="DDPM's ancestral sampling",
        factory="ddpo_core.samplers.ddpm:DDPM",
        options=(
            Option(
                name="variance",
                type="str",
                default="fixed_small",
                choices=("fixed_small", "fixed_large"),
                help="the posterior's, as ddim with eta=1 has it, or β itself, which is more",
            ),
            SPACING,
        ),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        doc="arXiv 2006.11239, Eq. 6, 7 and 11",
    )
    yield SamplerInfo(
        name="flow-sde",
        summary="Flow-GRPO's SDE for flow models, with noise on every step",
        factory="ddpo_core.samplers.flow_sde:FlowSDE",
        options=(
            Option(
                name="noise_level",
                type="float",
                default=0.7,
                minimum=0,
                maximum=1.4,
                help="a of the noise a·sqrt(σ/(1 - σ)); 0 draws none, and then no step has a log-prob",
            ),
            FLOW_SPACING,
        ),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        paths=("flow",),
        doc="arXiv 2505.05470, Eq. 9–10",
    )
    yield SamplerInfo(
        name="cps",
        summary="coefficients-preserving sampling for flow models: noise that leaves no trace in the picture",
        factory="ddpo_core.samplers.cps:CPS",
        options=(
            Option(
                name="noise_level",
                type="float",
                default=0.8,
                minimum=0,
                maximum=1,
                help="1 draws all of a step's noise anew; 0 none, and then no step has a log-prob",
            ),
            FLOW_SPACING,
        ),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        paths=("flow",),
        doc="arXiv 2509.05952",
    )
    yield SamplerInfo(
        name="flow-ode",
        summary="Euler's method for flow models, without noise",
        factory="ddpo_core.samplers.flow_ode:FlowODE",
        options=(FLOW_SPACING,),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        paths=("flow",),
        has_log_prob=False,
        doc="arXiv 2209.03003",
    )
    yield SamplerInfo(
        name="dpm++",
        summary="DPM-Solver++(2M), without noise: good pictures in few steps",
        factory="ddpo_core.samplers.dpm:DPMSolver",
        options=(replace(SPACING, help=f"{SPACING.help}; leading is for diffusion models only"),),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        paths=("diffusion", "flow"),
        has_log_prob=False,
        doc="arXiv 2211.01095, Algorithm 2",
    )


@hookimpl
def ddpo_estimators() -> Iterable[EstimatorInfo]:
    yield EstimatorInfo(
        name="ddpo-is",
        summary="DDPO with importance sampling and PPO's clip; several updates per epoch",
        factory="ddpo_core.estimators.ddpo:ImportanceSampling",
        options=CLIPPED,
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        needs=("trajectory", "log_probs"),
        updates_per_epoch=4,
    )
    yield EstimatorInfo(
        name="ddpo-sf",
        summary="DDPO's score function, that is REINFORCE; one update per epoch",
        factory="ddpo_core.estimators.ddpo:ScoreFunction",
        options=(ADVANTAGE_CLIP, *TIMESTEPS),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        needs=("trajectory", "log_probs"),
        updates_per_epoch=1,
        fixed_updates=True,
    )
    yield EstimatorInfo(
        name="grpo",
        summary="group-relative: images of one prompt against each other, held near the model by KL",
        factory="ddpo_core.estimators.grpo:KLRegularised",
        options=(KL_WEIGHT, *CLIPPED),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        needs=("trajectory", "log_probs", "untrained"),
        updates_per_epoch=4,
        defaults={"advantages": "group,size=8"},
    )
    yield EstimatorInfo(
        name="dpok",
        summary="DPOK: policy gradient towards one reward, held near the model by KL",
        factory="ddpo_core.estimators.grpo:KLRegularised",
        options=(replace(KL_WEIGHT, default=0.01), *CLIPPED),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        needs=("trajectory", "log_probs", "untrained"),
        updates_per_epoch=4,
        defaults={"advantages": "batch"},
    )
    yield EstimatorInfo(
        name="rwr",
        summary="reward-weighted regression: denoise the round's pictures again, each by exp(β · reward)",
        factory="ddpo_core.estimators.rwr:RewardWeighted",
        options=(INVERSE_TEMPERATURE, *WEIGHED),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        updates_per_epoch=4,
    )
    yield EstimatorInfo(
        name="rwr-sparse",
        summary="the same with the round's best pictures only, from a percentile of the rewards on",
        factory="ddpo_core.estimators.rwr:Sparse",
        options=(PERCENTILE, *WEIGHED),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        updates_per_epoch=4,
    )
    yield EstimatorInfo(
        name="nft",
        summary="DiffusionNFT: a denoising loss that learns from good and bad samples; any sampler",
        factory="ddpo_core.estimators.nft:NegativeAware",
        options=(
            Option(
                name="beta",
                type="float",
                default=1.0,
                minimum=0.001,
                help="how far the implicit policies lie from the one that sampled; smaller learns faster",
            ),
            replace(ADVANTAGE_CLIP, help="an advantage of this much makes a sample good with certainty"),
            PREDICTION_KL,
            *FORWARD,
        ),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        updates_per_epoch=2,
    )
    yield EstimatorInfo(
        name="awm",
        summary="advantage weighted matching: the denoising loss as log-likelihood; any sampler",
        factory="ddpo_core.estimators.awm:AdvantageWeightedMatching",
        options=(
            replace(
                CLIP_RANGE,
                default=1.0,
                help="the ratio is clipped at 1 ± this; losses are means over latent elements",
            ),
            ADVANTAGE_CLIP,
            Option(
                name="weighting",
                type="str",
                default="uniform",
                choices=("uniform", "ghuber"),
                help="count every timestep's loss as it is, or noisier ones more and large ones less",
            ),
            PREDICTION_KL,
            *FORWARD,
        ),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        updates_per_epoch=2,
    )
    yield EstimatorInfo(
        name="draft",
        summary="DRaFT, AlignProp: the reward's own gradient through the last denoising steps",
        factory="ddpo_core.estimators.draft:BackPropagation",
        options=(
            Option(
                name="steps",
                type="int",
                default=1,
                minimum=1,
                help="how many steps from the end the gradient goes back through",
            ),
            Option(
                name="lv",
                type="int",
                default=0,
                minimum=0,
                help="DRaFT-LV: look at the last step so many times more, with new noise",
            ),
            Option(
                name="random_steps",
                type="bool",
                default=False,
                help="AlignProp: draw the number of steps, at most `steps`, for each update",
            ),
        ),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        needs=("trajectory", "gradient"),
        updates_per_epoch=4,
    )


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


@hookimpl
def ddpo_models() -> Iterable[ModelInfo]:
    yield _family(
        "stable-diffusion",
        aliases=("sd",),
        summary="Stable Diffusion 1.x and 2.x, from a local folder or the Hugging Face hub",
        factory="ddpo_core.denoisers.stable_diffusion:load",
        options=LOADING,
        pipelines=("StableDiffusionPipeline",),
        doc="512 × 512 pictures (2.x: 768 × 768 for those that predict v).",
    )
    yield _family(
        "sdxl",
        summary="Stable Diffusion XL: two text encoders, pictures of 1024 × 1024",
        factory="ddpo_core.denoisers.sdxl:load",
        options=LOADING,
        pipelines=("StableDiffusionXLPipeline",),
        defaults={"guidance_scale": 5.0},
        doc="Trains the base model; the refiner is another pipeline. `size=512` costs a quarter of the memory"
        " of activations, and the model was trained on such pictures, too, before its last stage.",
    )
    yield _family(
        "sd3",
        summary="Stable Diffusion 3 and 3.5: rectified flow in a transformer",
        factory="ddpo_core.denoisers.sd3:load",
        options=(*LOADING, T5, _max_sequence_length(256)),
        path="flow",
        pipelines=("StableDiffusion3Pipeline",),
        # 10 steps to learn from are as good as 40 to look at (arXiv 2505.05470)
        defaults={"num_steps": 10, "guidance_scale": 4.5},
        doc="Learns from 10 steps at guidance 4.5, as Flow-GRPO does, which has pictures of `size=512`.",
    )
    yield _family(
        "flux",
        summary="FLUX.1: rectified flow in a transformer, guidance built in",
        factory="ddpo_core.denoisers.flux:load",
        options=(*LOADING, EMBEDDED_GUIDANCE, _max_sequence_length(512)),
        path="flow",
        pipelines=("FluxPipeline",),
        defaults={"num_steps": 10, "guidance_scale": 1.0},
        doc="FLUX.1-dev is told a guidance scale (`embedded_guidance`) and needs one evaluation a step;"
        " `--guidance-scale` other than 1 adds classifier-free guidance on top. FLUX.1-schnell works with"
        " `max_sequence_length=256` and `--num-steps 4`.",
    )


@hookimpl
def ddpo_prompt_sets() -> Iterable[PromptSetInfo]:
    return PROMPT_SETS
