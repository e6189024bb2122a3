"""What ddpo's samplers say of themselves."""

from __future__ import annotations

from dataclasses import replace

from ddpo_core.builtin.packages import INSTALL_TRAIN
from ddpo_core.info import Option, SamplerInfo

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

# Transition kernels, those of diffusion models first.
SAMPLERS: tuple[SamplerInfo, ...] = (
    SamplerInfo(
        name="ddim",
        summary="DDIM with stochasticity eta; eta=1 is DDPM",
        factory="ddpo_core.samplers.ddim:DDIM",
        options=(ETA, SPACING),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        doc="arXiv 2010.02502, Eq. 12 and 16",
    ),
    SamplerInfo(
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
    ),
    SamplerInfo(
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
    ),
    SamplerInfo(
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
    ),
    SamplerInfo(
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
    ),
    SamplerInfo(
        name="flow-ode",
        summary="Euler's method for flow models, without noise",
        factory="ddpo_core.samplers.flow_ode:FlowODE",
        options=(FLOW_SPACING,),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        paths=("flow",),
        has_log_prob=False,
        doc="arXiv 2209.03003",
    ),
    SamplerInfo(
        name="dpm++",
        summary="DPM-Solver++(2M), without noise: good pictures in few steps",
        factory="ddpo_core.samplers.dpm:DPMSolver",
        options=(replace(SPACING, help=f"{SPACING.help}; leading is for diffusion models only"),),
        requires=("torch",),
        install_hint=INSTALL_TRAIN,
        paths=("diffusion", "flow"),
        has_log_prob=False,
        doc="arXiv 2211.01095, Algorithm 2",
    ),
)
