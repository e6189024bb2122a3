"""A plugin in a loose file: a model of sixteen latents, for runs that take no time."""

from ddpo_core.hookspecs import hookimpl
from ddpo_core.info import ModelInfo

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_models():
    yield ModelInfo(
        name="toy",
        summary="sixteen latents",
        factory="toy_model:load",
        prompts="animals",
        defaults={"num_steps": 4, "guidance_scale": 1.0, "learning_rate": 0.5},
    )


def load(device="cpu", dtype=None):
    from ddpo_core.testing import ToyDenoiser

    return ToyDenoiser(pixels=4)
