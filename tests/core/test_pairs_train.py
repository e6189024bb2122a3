"""Every pair of an estimator and a sampler that is said to work: an epoch on the toy, on each path."""

import math

import pytest
import torch

from ddpo_core.discovery import Registry
from ddpo_core.errors import UsageError
from ddpo_core.info import RewardInfo
from ddpo_core.processes import Flow
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.testing import ToyDenoiser
from ddpo_core.training import Settings, Task, train
from ddpo_core.types import Prompt

SHIPPED = Registry.of()
STEPS = 4
PAIRS = [
    (estimator, sampler, path)
    for estimator in SHIPPED.infos("estimator")
    for sampler in SHIPPED.infos("sampler")
    for path in sampler.paths
]


def named(part):
    return part if isinstance(part, str) else part.name


class Brightness:
    def score(self, images, prompts):
        return images.mean((1, 2, 3))

    __call__ = score


def epoch_of(estimator, sampler, path):
    info = RewardInfo(name="bright", summary="", factory="", differentiable=True)
    objective = Objective([Term("bright", 1.0, Brightness(), info)])
    prompts = PromptStream([Prompt("a cat"), Prompt("a dog")], seed=0, group_size=4)
    denoiser = ToyDenoiser(process=Flow(shift=3.0) if path == "flow" else None)
    before = denoiser.trainable_state()
    # back through all steps: a multistep solver cannot begin in the middle
    spec = f"draft,steps={STEPS}" if estimator.name == "draft" else estimator.name
    (epoch,) = train(
        denoiser=denoiser,
        sampler=SHIPPED.build("sampler", sampler.name),
        estimator=SHIPPED.build("estimator", spec),
        tasks=[Task(prompts, objective)],
        settings=Settings(
            epochs=1,
            samples_per_epoch=8,
            sample_batch_size=4,
            train_batch_size=4,
            updates_per_epoch=1,
            num_steps=STEPS,
            guidance_scale=2.0,
            learning_rate=1e-3,
        ),
    )
    moved = any(not torch.equal(before[name], now) for name, now in denoiser.trainable_state().items())
    return epoch.metrics, moved


@pytest.mark.parametrize(("estimator", "sampler", "path"), PAIRS, ids=named)
def test_a_pair_trains_where_the_sampler_has_what_the_estimator_needs(estimator, sampler, path):
    if "log_probs" in estimator.needs and not sampler.has_log_prob:
        with pytest.raises(UsageError, match="log-prob"):
            epoch_of(estimator, sampler, path)
        return
    metrics, moved = epoch_of(estimator, sampler, path)
    assert moved and metrics["grad_norm"] > 0 and math.isfinite(metrics["loss"])
