"""The loop as a whole, on a tiny Stable Diffusion and a reward with a known answer: brightness."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddpo_core import checkpoint
from ddpo_core.advantages import Normaliser
from ddpo_core.constraints import Constraint
from ddpo_core.denoisers.stable_diffusion import load
from ddpo_core.errors import RunError, SelfCheckError, UsageError
from ddpo_core.estimators.ddpo import ImportanceSampling, ScoreFunction
from ddpo_core.info import RewardInfo
from ddpo_core.mixing import MIXERS
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.testing import ToyDenoiser
from ddpo_core.training import Settings, Task, Trainer, train
from ddpo_core.types import Prompt, Scores

SETTINGS = Settings(
    epochs=4,
    samples_per_epoch=8,
    sample_batch_size=4,
    train_batch_size=2,
    updates_per_epoch=2,
    num_steps=3,
    guidance_scale=2.0,
    learning_rate=1e-3,
)


PARTS = ("denoiser", "sampler", "estimator", "tasks")


def brightness(images, prompts):
    return images.mean((1, 2, 3))


def objective_of(reward=brightness, **info):
    return Objective([Term("bright", 1.0, reward, RewardInfo(name="bright", summary="", factory="", **info))])


def parts(folder, **changes):
    """Everything `train` needs, fresh."""
    if "denoiser" not in changes:
        changes["denoiser"] = load(pretrained=str(folder))
        changes["denoiser"].adapt(lora_rank=2)
    prompt_set = [Prompt("a cat"), Prompt("a dog"), Prompt("an ant")]
    prompts = changes.pop("prompts", PromptStream(prompt_set, seed=0))
    objective = changes.pop("objective", objective_of())
    return {
        "sampler": DDIM(),
        "estimator": ImportanceSampling(),
        "tasks": [Task(prompts, objective)],
        "normaliser": Normaliser("prompt", buffer_size=8, min_count=4),
        "settings": SETTINGS,
        **changes,
    }


def timeless(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("seconds/")}


def test_an_epoch_reports_what_the_documentation_promises(tiny_pipeline):
    epochs = list(train(**parts(tiny_pipeline, settings=replace(SETTINGS, epochs=2))))
    assert [epoch.metrics["epoch"] for epoch in epochs] == [1, 2]
    assert [epoch.metrics["reward_queries"] for epoch in epochs] == [8, 16]
    promised = {
        *(
            "reward/bright/mean",
            "reward/bright/stderr",
            "reward/bright/share",
            "loss",
            "approx_kl",
            "clip_fraction",
        ),
        *("grad_norm", "seconds/rollout", "seconds/scores", "seconds/update"),
    }
    assert promised <= set(epochs[0].metrics)
    values = epochs[0].rounds[0].judged.rewards["bright"]
    assert epochs[0].metrics["reward/bright/mean"] == pytest.approx(values.mean())
    assert epochs[0].metrics["reward/bright/stderr"] == pytest.approx(values.std(ddof=1) / np.sqrt(8))
    assert epochs[0].metrics["reward/bright/share"] == 1


def test_two_equal_runs_are_bit_for_bit_equal(tiny_pipeline):
    runs = [list(train(**parts(tiny_pipeline, settings=replace(SETTINGS, epochs=2)))) for _ in range(2)]
    assert [timeless(epoch.metrics) for epoch in runs[0]][1] == [
        timeless(epoch.metrics) for epoch in runs[1]
    ][1]
    first, second = (run[-1].capture().weights for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tiny_pipeline, tmp_path, stop_after, rank):
    def fresh():
        model = load(pretrained=str(tiny_pipeline))
        model.adapt(lora_rank=rank)
        return parts(tiny_pipeline, denoiser=model)

    whole = list(train(**fresh()))
    for epoch in train(**fresh()):
        if epoch.number == stop_after:
            folder = checkpoint.save(tmp_path, epoch.capture())
            break
    torch.manual_seed(12345)  # whatever happened in between
    rest = list(train(**fresh(), state=checkpoint.load(folder)))
    assert [epoch.number for epoch in rest] == list(range(stop_after + 1, 5))
    # the self-check runs once per start, so its figure stands in another epoch
    metrics = [timeless(epoch.metrics) for epoch in whole[stop_after:]]
    resumed = [{k: v for k, v in timeless(e.metrics).items() if not k.startswith("self_check")} for e in rest]
    assert resumed == metrics
    expected, weights = whole[-1].capture(), rest[-1].capture()
    assert all(torch.equal(weights.weights[name], expected.weights[name]) for name in expected.weights)
    assert weights.prompts == expected.prompts and weights.normaliser == expected.normaliser


def test_the_first_update_is_made_at_ratio_one(tiny_pipeline):
    settings = replace(SETTINGS, epochs=1, updates_per_epoch=1, train_batch_size=8)
    (epoch,) = train(**parts(tiny_pipeline, settings=settings))
    assert epoch.metrics["self_check/ratio_error"] <= 1e-6
    assert epoch.metrics["approx_kl"] <= 1e-12 and epoch.metrics["clip_fraction"] == 0


def test_score_function_and_importance_sampling_make_the_same_first_update(tiny_pipeline):
    settings = replace(SETTINGS, epochs=1, updates_per_epoch=1)
    after = []
    for estimator in (ScoreFunction(), ImportanceSampling()):
        (epoch,) = train(**parts(tiny_pipeline, settings=settings, estimator=estimator))
        after.append(epoch.capture().weights)
    for name in after[0]:
        torch.testing.assert_close(after[0][name], after[1][name], atol=1e-6, rtol=1e-4)


def test_gradients_do_not_depend_on_the_train_batch_size(tiny_pipeline):
    after = []
    for size in (1, 4):
        settings = replace(SETTINGS, epochs=1, train_batch_size=size, self_check=False)
        (epoch,) = train(**parts(tiny_pipeline, settings=settings))
        after.append((epoch.metrics["grad_norm"], epoch.metrics["loss"]))
    assert after[0] == pytest.approx(after[1], rel=1e-3, abs=1e-6)


def test_training_raises_the_reward_and_a_negative_weight_lowers_it():
    settings = replace(
        SETTINGS,
        epochs=25,
        samples_per_epoch=64,
        sample_batch_size=64,
        train_batch_size=32,
        num_steps=8,
        guidance_scale=1.0,
        learning_rate=1e-2,
    )
    for weight in (1.0, -1.0):
        terms = [replace(objective_of().terms[0], weight=weight)]
        estimator = ImportanceSampling(clip_nats=1.64)
        run = parts(
            None, denoiser=ToyDenoiser(), settings=settings, objective=Objective(terms), estimator=estimator
        )
        first, *_, last = train(**run)
        change = last.metrics["reward/bright/mean"] - first.metrics["reward/bright/mean"]
        error = np.hypot(first.metrics["reward/bright/stderr"], last.metrics["reward/bright/stderr"])
        assert weight * change > 5 * error


def test_a_watched_reward_is_reported_and_does_not_steer(tiny_pipeline):
    watched = Term(
        "watched", 0.0, lambda images, prompts: -images.mean((1, 2, 3)), objective_of().terms[0].info
    )
    settings = replace(SETTINGS, epochs=2)
    plain = list(train(**parts(tiny_pipeline, settings=settings)))
    both = list(
        train(
            **parts(tiny_pipeline, settings=settings, objective=Objective([*objective_of().terms, watched]))
        )
    )
    assert both[-1].metrics["reward/bright/mean"] == plain[-1].metrics["reward/bright/mean"]
    assert both[-1].metrics["reward/watched/mean"] == pytest.approx(-both[-1].metrics["reward/bright/mean"])
    assert both[-1].metrics["reward/watched/share"] == 0


def test_several_inner_epochs_and_a_fraction_of_the_timesteps_make_as_many_updates_as_they_say(tiny_pipeline):
    class Counting(ImportanceSampling):
        steps: list[int]

        def loss(self, policy, minibatch):
            self.steps.append(len(minibatch.steps))
            return super().loss(policy, minibatch)

    estimator = Counting(inner_epochs=2, timestep_fraction=0.67)
    estimator.steps = []
    list(train(**parts(tiny_pipeline, settings=replace(SETTINGS, epochs=1), estimator=estimator)))
    assert sum(estimator.steps) == 2 * 8 * 2  # inner epochs × samples × 2 of 3 steps


def test_progress_is_told_phase_by_phase(tiny_pipeline):
    seen = []
    list(train(**parts(tiny_pipeline, settings=replace(SETTINGS, epochs=1)), on_progress=seen.append))
    assert list(dict.fromkeys(progress.phase for progress in seen)) == [
        "rollout",
        "scores",
        "self-check",
        "update",
    ]


def test_a_constant_reward_ends_the_run_before_the_first_update(tiny_pipeline):
    run = parts(tiny_pipeline, objective=objective_of(lambda images, prompts: [1.0] * len(prompts)))
    before = run["denoiser"].trainable_state()
    with pytest.raises(SelfCheckError, match="nothing to learn"):
        next(train(**run))
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in run["denoiser"].trainable_state().items()
    )


def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(tiny_pipeline):
    class Broken(ImportanceSampling):
        def loss(self, policy, minibatch):
            loss = super().loss(policy, minibatch)
            return replace(loss, value=loss.value * float("nan"))

    run = parts(tiny_pipeline, estimator=Broken())
    before = run["denoiser"].trainable_state()
    with pytest.raises(RunError, match="not finite"):
        next(train(**run))
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in run["denoiser"].trainable_state().items()
    )


def test_ddpo_sf_refuses_a_second_update_per_round(tiny_pipeline):
    with pytest.raises(UsageError, match="exactly one update per round; got 2"):
        next(train(**parts(tiny_pipeline, estimator=ScoreFunction())))


@pytest.mark.parametrize("mixed_precision", ["bf16"])
def test_half_precision_keeps_ratio_one_before_the_first_update(tiny_pipeline, mixed_precision):
    settings = replace(SETTINGS, epochs=1, mixed_precision=mixed_precision, train_batch_size=4)
    (epoch,) = train(**parts(tiny_pipeline, settings=settings))
    assert epoch.metrics["self_check/ratio_error"] <= 1e-5


def test_the_learning_rate_rises_linearly_over_the_warm_up_and_stays(tiny_pipeline):
    settings = replace(SETTINGS, epochs=2, warmup_updates=3, learning_rate=0.3)
    rates = []
    run = parts(tiny_pipeline, settings=settings)
    trainer = Trainer(
        *(run[name] for name in PARTS), settings, run["normaliser"], None, None, lambda progress: None
    )
    step = trainer.updater.optimizer.step
    trainer.updater.optimizer.step = lambda: (
        rates.append(trainer.updater.optimizer.param_groups[0]["lr"]),
        step(),
    )
    for _ in range(2):
        trainer.run_epoch(check=False)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3])


# several rewards, several tasks


def term(label, reward, weight=1.0, **info):
    return Term(label, weight, reward, RewardInfo(name=label, summary="", factory="", **info))


def redness(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))


def test_tasks_take_turns_each_with_its_own_prompts_rewards_and_updates(tiny_pipeline):
    cats, dogs = (PromptStream([Prompt(text)], seed=0) for text in ("a cat", "a dog"))
    tasks = [
        Task(cats, Objective([term("bright", brightness)]), "cats"),
        Task(dogs, Objective([term("red", redness)]), "dogs"),
    ]
    run = parts(tiny_pipeline, settings=replace(SETTINGS, epochs=1))
    steps = []
    run["on_progress"] = lambda progress: steps.append((progress.phase, progress.done))
    (epoch,) = train(**{**run, "tasks": tasks})
    assert [(r.task, {p.text for p in r.judged.trajectory.prompts}) for r in epoch.rounds] == [
        ("cats", {"a cat"}),
        ("dogs", {"a dog"}),
    ]
    assert [set(r.scores) for r in epoch.rounds] == [{"bright"}, {"red"}]
    assert len([step for step in steps if step[0] == "update"]) == 2 * SETTINGS.updates_per_epoch
    assert epoch.metrics["reward_queries"] == 2 * SETTINGS.samples_per_epoch
    noise = [r.judged.trajectory.latents[:, 0] for r in epoch.rounds]
    assert not torch.equal(noise[0], noise[1])  # no two tasks share noise


def test_two_rewards_of_one_name_are_refused_also_in_two_tasks(tiny_pipeline):
    run = parts(tiny_pipeline)
    tasks = [replace(run["tasks"][0], name=name) for name in ("one", "two")]
    with pytest.raises(UsageError, match="two rewards are both called 'bright'"):
        next(train(**{**run, "tasks": tasks}))


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_trains_and_reports_shares_that_sum_to_one(tiny_pipeline, name):
    objective = Objective([term("bright", brightness), term("red", redness, 0.5)], MIXERS[name]())
    (epoch,) = train(**parts(tiny_pipeline, settings=replace(SETTINGS, epochs=1), objective=objective))
    shares = [epoch.metrics[f"reward/{label}/share"] for label in ("bright", "red")]
    assert sum(shares) == pytest.approx(1)
    assert epoch.metrics["reward_queries"] == 2 * SETTINGS.samples_per_epoch
    assert -1 <= epoch.metrics["correlation/bright~red"] <= 1


def test_pcgrad_of_one_reward_is_plain_training(tiny_pipeline):
    """Two directions whose gradients agree: bright, and bright again. Their sum is twice the one gradient."""
    settings = replace(SETTINGS, epochs=1, max_grad_norm=1e9)
    twice = Objective([term("bright", brightness), term("again", brightness)], MIXERS["pcgrad"]())
    over_batch = {"settings": settings, "normaliser": Normaliser("batch")}
    (plain,) = train(**parts(tiny_pipeline, **over_batch))
    (surgery,) = train(**parts(tiny_pipeline, **over_batch, objective=twice))
    assert surgery.metrics["grad_norm"] == pytest.approx(2 * plain.metrics["grad_norm"], rel=1e-2)


def test_a_broken_constraint_gains_weight_and_the_weight_survives_an_interruption(tiny_pipeline, tmp_path):
    def fresh():
        bounded = Objective(
            [term("bright", brightness), term("red", redness, 0.0)],
            constraints=[Constraint("red", minimum=10.0, rate=0.001)],
        )
        settings = replace(SETTINGS, epochs=3, self_check=False)
        return parts(tiny_pipeline, settings=settings, objective=bounded)

    whole = list(train(**fresh()))
    weights = [epoch.metrics["constraint/red/weight"] for epoch in whole]
    assert 0 < weights[0] < weights[1] <= weights[2] <= 10
    assert whole[0].metrics["reward/red/share"] > 0
    first = next(train(**fresh()))
    folder = checkpoint.save(tmp_path, first.capture())
    rest = list(train(**fresh(), state=checkpoint.load(folder)))
    assert [timeless(epoch.metrics) for epoch in rest] == [timeless(epoch.metrics) for epoch in whole[1:]]


def test_a_constraint_needs_a_reward_of_its_name():
    with pytest.raises(UsageError, match="the constraint on red expects one of the rewards bright"):
        Objective([term("bright", brightness)], constraints=[Constraint("red", minimum=1.0)])


def test_a_group_reward_reports_its_levels_and_trains_on_its_credits(tiny_pipeline):
    def judge(images, prompts):
        assert len(images) == 4 and len({prompt.text for prompt in prompts}) == 1
        return Scores(brightness(images, prompts).double().numpy(), levels=np.full(4, -7.0))

    stream = PromptStream([Prompt("a cat"), Prompt("a dog")], seed=0, group_size=4)
    objective = Objective([term("fair", judge, scope="group", group_size=4)])
    settings = replace(SETTINGS, epochs=1)
    (epoch,) = train(**parts(tiny_pipeline, settings=settings, objective=objective, prompts=stream))
    assert epoch.metrics["reward/fair/mean"] == -7
    assert epoch.metrics["reward/fair/stderr"] == 0
    assert epoch.rounds[0].judged.advantages.abs().max() > 0


def test_a_group_reward_without_groups_is_refused_with_what_to_type(tiny_pipeline):
    objective = Objective([term("fair", brightness, scope="group", group_size=16)])
    with pytest.raises(UsageError, match="judges the images of one prompt together") as refused:
        next(train(**parts(tiny_pipeline, objective=objective)))
    assert "--group-size 16" in refused.value.hint
