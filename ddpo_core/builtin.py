"""What ddpo itself brings: samplers, estimators, models and prompt sets, through the same hooks as any plugin."""

from __future__ import annotations

from collections.abc import Iterable

from ddpo_core.hookspecs import hookimpl
from ddpo_core.info import EstimatorInfo, ModelInfo, Option, PromptSetInfo, SamplerInfo

DDPO_PLUGIN_API = (1, 0)

_TRAIN = {"requires": ("torch",), "install_hint": 'pip install "ddpo[train]"'}

_ADVANTAGE_CLIP = Option(
    name="advantage_clip", type="float", default=5.0, minimum=0, help="advantages are cut to ± this"
)
_TIMESTEP_FRACTION = Option(
    name="timestep_fraction",
    type="float",
    default=1.0,
    minimum=0.001,
    maximum=1,
    help="part of each sample's steps that is trained on, drawn anew each epoch",
)


@hookimpl
def ddpo_samplers() -> Iterable[SamplerInfo]:
    return [
        SamplerInfo(
            name="ddim",
            summary="DDIM with stochasticity eta; eta = 1 is DDPM",
            factory="ddpo_core.samplers.ddim:DDIM",
            options=(
                Option(
                    name="eta",
                    type="float",
                    default=1.0,
                    minimum=0,
                    maximum=1,
                    help="scale of the noise; 0 draws nothing, so no step has a log-prob",
                ),
                Option(
                    name="spacing",
                    type="str",
                    choices=("leading", "trailing", "linspace"),
                    help="which timesteps are visited; by default the model's own choice",
                ),
            ),
            requires=_TRAIN["requires"],
            install_hint=_TRAIN["install_hint"],
        )
    ]
