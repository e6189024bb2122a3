"""A model in one file and one hook: sixteen latents, told by the toy network that ddpo ships for tests."""

from ddpo_core import ModelInfo, Option, hookimpl

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_models():
    yield ModelInfo(
        name="acme-mosaic",
        summary="sixteen latents as tiles",
        factory="acme_model:load",
        options=(Option(name="tile", type="int", default=4, minimum=1, help="pixels along a tile"),),
        requires=("torch",),
        prompts="animals",
        defaults={"num_steps": 3, "guidance_scale": 1.0, "learning_rate": 0.01},
    )


def load(*, tile=4, device="cpu", dtype=None):
    from ddpo_core.testing import ToyDenoiser

    return ToyDenoiser(pixels=tile, seed=5)
