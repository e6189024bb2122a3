"""A plugin in a loose file: a model and two rewards that need neither weights nor time."""

import os
import signal

from ddpo_core.hookspecs import hookimpl
from ddpo_core.info import ModelInfo, Option, RewardInfo

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_rewards():
    yield RewardInfo(
        name="brightness",
        summary="mean of all pixels",
        factory="toy_world:Brightness",
        higher_is="brighter pictures",
        options=(Option(name="gamma", type="float", default=1.0),),
    )
    yield RewardInfo(
        name="variety",
        summary="how far the images of one prompt are apart",
        factory="toy_world:variety",
        scope="group",
        group_size=4,
    )
    yield RewardInfo(name="stops", summary="says Ctrl-C, or crashes", factory="toy_world:Stops")


@hookimpl
def ddpo_models():
    yield ModelInfo(
        name="toy",
        summary="sixteen latents",
        factory="toy_world:load",
        prompts="animals",
        defaults={"num_steps": 4, "guidance_scale": 1.0, "learning_rate": 0.01},
    )
    yield ModelInfo(
        name="flow-toy",
        summary="the toy, on another path",
        factory="toy_world:load_flow",
        path="flow",
        prompts="animals",
    )
    yield ModelInfo(
        name="picky-toy",
        summary="the toy, which wants other settings of grpo",
        factory="toy_world:load",
        prompts="animals",
        defaults={"num_steps": 4, "guidance_scale": 1.0, "learning_rate": 0.01},
        estimators={"grpo": {"learning_rate": 0.5, "estimator": "grpo,clip_range=0.25"}},
    )
    yield ModelInfo(
        name="dim-toy",
        summary="the toy, whose pictures are judged with a gamma of 3",
        factory="toy_world:load",
        prompts="animals",
        judges={"brightness": {"gamma": 3.0, "not-an-option": 1}},
    )


def variety():
    """A reward of groups that needs no class."""
    return lambda images, prompts: (images - images.mean(0)).square().mean((1, 2, 3))


class Brightness:
    def __init__(self, gamma=1.0):
        self.gamma = gamma

    def __call__(self, images, prompts):
        return images.pow(self.gamma).mean((1, 2, 3))


class Stops:
    """Brightness, until the environment says stop: at the n-th call, by a signal or by dying."""

    def __init__(self):
        self.calls = 0

    def __call__(self, images, prompts):
        self.calls += 1
        if self.calls == int(os.environ.get("TOY_CTRL_C_AT", 0)):
            os.kill(os.getpid(), signal.SIGINT)
        if self.calls == int(os.environ.get("TOY_CRASH_AT", 0)):
            raise RuntimeError("the judge has left the room")
        return images.mean((1, 2, 3))


def load_flow(device="cpu", dtype=None):
    from ddpo_core.processes import Flow
    from ddpo_core.testing import ToyDenoiser

    return ToyDenoiser(pixels=4, process=Flow())


def load(device="cpu", dtype=None):
    from ddpo_core.testing import ToyDenoiser

    return ToyDenoiser(pixels=4)
