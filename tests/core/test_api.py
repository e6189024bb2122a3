"""`ddpo_core.train` and `ddpo_core.score`: functions as rewards, and every form that an argument may have."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ddpo_core
from ddpo_core import Prompt, RewardInfo
from ddpo_core.api import OF_THE_FOLDER, TrainSettings
from ddpo_core.config.given import Handover
from ddpo_core.config.phrasing import in_python
from ddpo_core.config.resolve import CLIP_RANGE
from ddpo_core.config.settings import declared
from ddpo_core.discovery import Registry, registry
from ddpo_core.errors import CheckpointError, RewardError, UnknownName, UsageError
from ddpo_core.testing import ToyDenoiser

SMALL = dict(
    prompts=["a cat", "a dog"], epochs=2, samples_per_epoch=8, sample_batch_size=4, num_steps=3,
    updates_per_epoch=2, learning_rate=0.01, guidance_scale=1.0,
)  # fmt: skip

PLUGIN = """
from ddpo_core import RewardInfo, hookimpl
DDPO_PLUGIN_API = (1, 0)
CLOSED = []

class Brightness:
    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))
    def close(self):
        CLOSED.append(self)

class Fails(Brightness):
    def __call__(self, images, prompts):
        raise RuntimeError("no judge today")

@hookimpl
def ddpo_rewards():
    yield RewardInfo(name="brightness", summary="", factory="api_rewards:Brightness")
    yield RewardInfo(name="fails", summary="", factory="api_rewards:Fails")
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No plugin is installed, and an empty folder is the current one."""
    monkeypatch.setenv("DDPO_ONLY", "")
    monkeypatch.chdir(tmp_path)
    registry.cache_clear()
    yield
    registry.cache_clear()
    sys.modules.pop("api_rewards", None)


@pytest.fixture
def plugin(tmp_path_factory):
    """A loose file with rewards that remember being closed."""
    file = tmp_path_factory.mktemp("plugin") / "api_rewards.py"
    file.write_text(PLUGIN)
    return str(file)


def brightness(images, prompts):
    return images.mean((1, 2, 3))


def redness(images, prompts):
    return images[:, 0].mean((1, 2))


def train(rewards=brightness, **settings):
    return ddpo_core.train(rewards, **{"model": ToyDenoiser(pixels=2), **SMALL, **settings})


def numbers(epochs):
    """All metrics but the clock's and the self-check's."""
    apart = ("seconds/", "self_check/")  # the check is of the first epoch after a start
    return [{k: v for k, v in e.metrics.items() if not k.startswith(apart)} for e in epochs]


# ---- rewards


@pytest.mark.parametrize(
    "kind", [lambda t: t.tolist(), lambda t: t.numpy(), lambda t: [*t], lambda t: t.half()]
)
def test_a_function_may_return_a_list_numpy_or_torch(kind):
    (epoch,) = train({"mine": lambda images, prompts: kind(brightness(images, prompts))}, epochs=1)
    expected = epoch.images.mean((1, 2, 3)).numpy()
    assert epoch.scores["mine"].values == pytest.approx(expected, rel=1e-3)
    assert epoch.metrics["reward/mine/mean"] == pytest.approx(expected.mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("asked", "specs"),
    [
        ("jpeg:0.5", ["jpeg:0.5"]),
        (["jpeg", "align:2"], ["jpeg", "align:2"]),
        ({"jpeg": 0.5}, ["jpeg:0.5"]),
        ({"small": "jpeg:-1,quality=80"}, ["jpeg:-1,quality=80,as=small"]),
        ({"small": ("jpeg,quality=80", -1)}, ["jpeg:-1,quality=80,as=small"]),
        ({"small": ("jpeg", -1, {"quality": 80, "tries": 3})}, ["jpeg:-1,quality=80,tries=3,as=small"]),
        (brightness, ["brightness"]),
        ([brightness, "jpeg"], ["brightness", "jpeg"]),
        ({"mine": brightness}, ["mine"]),
        ({"mine": (brightness, 0.5), "other": redness}, ["mine:0.5", "other"]),
        ({"mine": (brightness, 0.5, {"on_error": "drop"})}, ["mine:0.5,on_error=drop"]),
    ],
)
def test_rewards_in_any_form_are_specs(asked, specs):
    assert Handover(Registry.of()).rewards("rewards", asked) == specs


def test_a_function_beside_an_installed_reward_of_its_name_is_the_one_that_is_meant(plugin):
    (epoch,) = train({"brightness": redness, "installed": "brightness"}, plugin=plugin, epochs=1)
    assert epoch.scores["brightness"].values == pytest.approx(redness(epoch.images, ()).numpy())
    assert epoch.scores["installed"].values == pytest.approx(brightness(epoch.images, ()).numpy())


def test_weights_are_shares_of_the_advantage():
    (epoch,) = train({"up": (brightness, 0.5), "down": (brightness, -0.1)}, epochs=1)
    # both parts lie on one line: 0.5 z and −0.1 z of 0.4 z
    assert epoch.metrics["reward/up/share"] == pytest.approx(0.5 / 0.4)
    assert epoch.metrics["reward/down/share"] == pytest.approx(-0.1 / 0.4)


def test_a_reward_of_groups_says_so_and_sees_whole_groups():
    seen = []

    @ddpo_core.reward(scope="group", group_size=4)
    def variety(images, prompts):
        """How far they are apart."""
        seen.append([prompt.text for prompt in prompts])
        return (images - images.mean(0)).square().mean((1, 2, 3))

    (epoch,) = train(variety, epochs=1)
    assert [len(texts) for texts in seen] == [4, 4]
    assert all(len(set(texts)) == 1 for texts in seen)
    assert variety.info.summary == "How far they are apart." and "variety" in epoch.scores


def test_an_object_declares_itself_and_is_not_closed():
    class Judge:
        info = RewardInfo(name="grade", summary="", factory="", scope="batch", unit="grades")
        closed = False

        def __call__(self, images, prompts):
            assert len(images) == 8  # the whole round
            return brightness(images, prompts)

        def close(self):
            self.closed = True

    judge = Judge()
    (epoch,) = train(judge, epochs=1)
    assert "grade" in epoch.scores and not judge.closed


def test_a_function_with_a_gradient_trains_draft():
    with pytest.raises(UsageError, match="brightness has none"):
        train(brightness, estimator="draft")
    told = ddpo_core.reward(differentiable=True)(brightness)
    *_, epoch = train(told, estimator="draft,steps=1", epochs=1, updates_per_epoch=1)
    assert epoch.number == 1


def test_on_error_of_a_function_drops_what_it_could_not_judge():
    def half(images, prompts):
        return [float("nan") if place % 2 else 1.0 * place for place in range(len(images))]

    with pytest.raises(RewardError, match="'half'") as raised:
        list(train(half))
    assert "rewards={'half': (…, 1, {'on_error': 'drop'})}" in raised.value.hint
    (epoch,) = train({"half": (half, 1, {"on_error": "drop"})}, epochs=1)
    assert epoch.scores["half"].failures == 4


def test_watched_rewards_and_bounds_are_given_by_label():
    (epoch,) = train(brightness, watch={"red": redness}, constraints={"red": {"min": 2.0}}, epochs=1)
    assert "reward/red/share" in epoch.metrics  # it is never 2, so the bound pulls
    assert epoch.metrics["constraint/red/weight"] > 0


def test_tasks_take_turns_on_prompts_of_their_own():
    def seen_by(label):
        def judge(images, prompts):
            assert {prompt.text for prompt in prompts} == {label}
            return brightness(images, prompts)

        return judge

    own = {"rewards": {"of-lions": seen_by("a lion")}, "prompts": ["a lion"]}
    the_runs = {"rewards": {"of-cats": seen_by("a cat")}}
    (epoch,) = ddpo_core.train(
        tasks={"lions": own, "cats": the_runs},
        model=ToyDenoiser(),
        **{**SMALL, "prompts": ["a cat"], "epochs": 1},
    )
    assert [each.task for each in epoch.rounds] == ["lions", "cats"]
    assert len(epoch.images) == len(epoch.prompts) == 16 and len(epoch.scores["of-lions"].values) == 8


# ---- prompts


def test_prompts_are_texts_records_a_set_a_name_or_a_file(tmp_path):
    class Thousands:
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            return Prompt(f"number {index}")

    (tmp_path / "mine.txt").write_text("a cow\n")
    for prompts, expected in (
        (["a cow"], "a cow"),
        ("mine.txt", "a cow"),
        (tmp_path / "mine.txt", "a cow"),
        ([Prompt("a cow", {"count": 1})], "a cow"),
        (Thousands(), "number"),
        ('inline,texts=["a cow"]', "a cow"),
    ):
        (epoch,) = train(prompts=prompts, epochs=1)
        assert all(prompt.text.startswith(expected) for prompt in epoch.prompts), prompts


def test_a_reward_is_given_what_a_prompt_knows():
    def counted(images, prompts):
        return [prompt.metadata["count"] for prompt in prompts]

    records = [Prompt("a cat", {"count": 1}), Prompt("two cats", {"count": 2})]
    (epoch,) = train(counted, prompts=records, epochs=1)
    assert list(epoch.scores["counted"].values) == [1 + (p.text == "two cats") for p in epoch.prompts]


# ---- what cannot be done, in the words of Python

REFUSED = [
    (dict(num_step=4), UnknownName, "train() takes no 'num_step'; did you mean 'num_steps'?"),
    (dict(reward="jpeg"), UnknownName, "train() takes no 'reward'; did you mean 'rewards'?"),
    (dict(num_steps=0), UsageError, "num_steps must be 1 or more; got 0"),
    (dict(num_steps=2.5), UsageError, "num_steps must be a whole number; got 2.5"),
    (
        dict(mixer="gpdo"),
        UsageError,
        "mixer must be one of gdpo, sum, sequential, pcgrad; got 'gpdo'; did you mean 'gdpo'?",
    ),
    (dict(checkpoint_every=5), UsageError, "checkpoint_every is about the folder that `ddpo train` writes"),
    (dict(samples_per_epoch=10), UsageError, "10"),
    (
        dict(estimator="ddpo-iz"),
        UnknownName,
        "no estimator named 'ddpo-iz' is installed; did you mean 'ddpo-is'?",
    ),
    (
        dict(sampler="dpm++"),
        UsageError,
        "estimator ddpo-is needs the log-prob of every step, and sampler dpm++ has none",
    ),
    (dict(rewards="brihgt"), UnknownName, "no reward named 'brihgt' is installed"),
    (dict(rewards=lambda images, prompts: 0), UsageError, "rewards: a lambda has no name"),
    (
        dict(rewards=3),
        UsageError,
        "rewards: expects a spec such as 'jpeg:0.5', a function, or both by label; got 3",
    ),
    (dict(rewards={"mine": Path}), UsageError, "rewards: mine is the class"),
    (
        dict(rewards={"mine": (brightness, 0)}),
        UsageError,
        "rewards: mine has weight 0, which trains on nothing",
    ),
    (dict(rewards={"mine": (brightness, "much")}), UsageError, "rewards: mine expects a weight, a spec"),
    (dict(rewards={"my own": brightness}), UsageError, "rewards: a label holds letters, digits"),
    (
        dict(rewards={"mine": lambda images: 0}),
        UsageError,
        "rewards: mine is called with (images, prompts); it takes (images)",
    ),
    (dict(rewards={"mine": (brightness, 1, {"tris": 3})}), UsageError, "did you mean 'tries'?"),
    (
        dict(watch={"jpeg": 0.5}),
        UsageError,
        "watch: jpeg is scored and not trained on, so it takes no weight",
    ),
    (dict(prompts=[]), UsageError, "prompts: expects at least one prompt, got an empty list"),
    (dict(prompts=["a cat", 3]), UsageError, "prompts: expects texts or ddpo_core.Prompt records; got 3"),
    (dict(prompts=3), UsageError, "prompts: expects a name, a file or a list of texts; got int"),
    (dict(prompts="a cat on a mat"), UsageError, "a name holds letters"),
    (dict(rewards=None), UsageError, "no reward to train towards"),
    (dict(watch=brightness), UsageError, "watch: two rewards are both called 'brightness'"),
    (dict(tasks={"a": {"rewards": "jpeg"}}), UsageError, "rewards and tasks were both given"),
    (
        dict(rewards=None, tasks={"a": {"reward": "jpeg"}}),
        UnknownName,
        "tasks: a takes rewards, prompts, group_size; got 'reward'; did you mean 'rewards'?",
    ),
    (dict(rewards=None, tasks={"a": {"prompts": ["x"]}}), UsageError, "tasks: a needs a reward"),
    (dict(constraints={"brightness": 3}), UsageError, "constraints: brightness expects bounds; got 3"),
    (
        dict(constraints="brightness,mim=3"),
        UsageError,
        "constraints brightness,mim=3: a constraint has no key 'mim'; did you mean 'min'?",
    ),
    (
        dict(model=object()),
        UsageError,
        "model: expects a name, a folder, a hub id, a Denoiser or one of FluxPipeline",
    ),
    (dict(model="pokcet"), UnknownName, "no model named 'pokcet' is installed"),
    (dict(preset="demmo"), UnknownName, "no preset named 'demmo'; did you mean 'demo'?"),
    (dict(config="gone.toml"), UsageError, "config: there is no file gone.toml"),
    (dict(lora_rank=0, estimator="grpo"), UsageError, "looks at the model before training"),
]


@pytest.mark.parametrize(("asked", "kind", "message"), REFUSED, ids=[message[:50] for *_, message in REFUSED])
def test_what_cannot_be_done_is_said_in_the_words_of_python(asked, kind, message):
    with pytest.raises(kind) as raised:
        next(train(**asked))
    assert message in str(raised.value)
    assert "--" not in str(raised.value) + raised.value.hint


def test_settings_are_checked_before_the_first_epoch_is_asked_for():
    with pytest.raises(UsageError):
        train(num_steps=0)


def test_hints_say_what_to_write_in_python():
    with pytest.raises(UsageError) as raised:
        train(rewards=None)
    assert raised.value.hint.startswith("add rewards=NAME, for instance rewards=jpeg; `ddpo rewards list`")
    with pytest.raises(UsageError) as raised:
        train(prompts="a cat on a mat")
    assert raised.value.hint == "prompts themselves come in a list: prompts=['a cat on a mat']"
    with pytest.raises(UsageError) as raised:
        train({"mine": Path})
    assert raised.value.hint == "write rewards={'mine': Path()}"
    assert raised.value.__notes__ == ["hint: write rewards={'mine': Path()}"]  # a traceback shows it


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("--sampler ddim is for flow models", "sampler ddim is for flow models"),
        ("take --lora-rank 16, or set its kl_weight=0", "take lora_rank=16, or set its kl_weight=0"),
        ("--reward and --task were both given", "rewards and tasks were both given"),
        ("add --prompts NAME (see `ddpo prompts list`) or --prompt TEXT",
         "add prompts=NAME (see `ddpo prompts list`) or prompts=[TEXT]"),
        ("see `ddpo train --help`", "see `ddpo train --help`"),
        ("got --lora-rank 0", "got lora_rank=0"),
        ("to try: --reward mine,tries=3; or", "to try: rewards={'mine': (…, 1, {'tries': 3})}; or"),
        ("try a lower --learning-rate", "try a lower learning_rate"),
        ("a well-known --- dash", "a well-known --- dash"),
    ],
)  # fmt: skip
def test_one_text_is_told_with_flags_and_with_arguments(flags, arguments):
    assert in_python(flags) == arguments


def test_the_settings_are_those_of_the_command_line():
    elsewhere = {"reward", "watch", "constraint", "task", "model", "prompts", "prompt"}
    assert set(TrainSettings.__annotations__) - {CLIP_RANGE} == set(declared()) - elsewhere - set(
        OF_THE_FOLDER
    )
    for name in TrainSettings.__annotations__:
        assert f"    {name}  " in ddpo_core.train.__doc__ or name == CLIP_RANGE


def test_a_preset_and_a_file_are_layers_below_the_arguments(tmp_path):
    (tmp_path / "mine.toml").write_text("seed = 7\nnum_steps = 2\nimages_every = 3\n")
    (epoch,) = train(config="mine.toml", epochs=1, num_steps=4)
    assert epoch.policy.schedule.num_steps == 4  # the argument's
    (same,) = train(seed=7, epochs=1, num_steps=4)
    assert numbers([epoch]) == numbers([same])  # the file's seed
    (other,) = train(epochs=1, num_steps=4)
    assert numbers([epoch]) != numbers([other])


# ---- epochs


def test_an_epoch_holds_its_pictures_prompts_and_scores():
    (epoch,) = train(epochs=1)
    assert epoch.images.shape == (8, 3, 8, 8) and epoch.images.dtype == torch.float32
    assert np.array_equal(
        np.asarray(epoch.pictures[3]), (epoch.images[3] * 255).round().byte().permute(1, 2, 0)
    )
    assert {prompt.text for prompt in epoch.prompts} == {"a cat", "a dog"}
    assert epoch.scores["brightness"].values == pytest.approx(epoch.images.mean((1, 2, 3)).numpy())


def test_nothing_is_printed_and_nothing_is_written(capfd, tmp_path):
    progress = []
    list(train(on_progress=progress.append))
    captured = capfd.readouterr()
    assert (captured.out, captured.err, list(tmp_path.iterdir())) == ("", "", [])
    assert {each.phase for each in progress} == {"rollout", "scores", "self-check", "update"}


def test_drawing_follows_the_seed_and_the_weights():
    drawn = []
    for epoch in train():
        first = epoch.draw(["a cat"] * 5, seed=1)[:2]
        assert torch.allclose(first, epoch.draw(["a cat", "a cat"], seed=1), atol=1e-6)
        assert not torch.equal(epoch.draw("a cat", seed=1), epoch.draw("a cat", seed=2))
        drawn.append(epoch.draw("a cat"))
    assert not torch.equal(*drawn)


def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path):
    whole = list(train(epochs=3))
    weights = whole[-1].capture().weights
    for resume in ("folder", "one", "state"):
        for epoch in train(epochs=2):
            written = epoch.checkpoint(tmp_path / "saved")
        state = {"folder": tmp_path / "saved", "one": str(written), "state": epoch.capture()}[resume]
        rest = list(train(epochs=3, resume=state))
        assert numbers(rest) == numbers(whole[2:])
        assert all(torch.equal(weights[name], w) for name, w in rest[-1].capture().weights.items())


def test_a_checkpoint_that_is_not_there_or_leaves_nothing_to_do_is_told_of(tmp_path):
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        next(train(resume=tmp_path))
    for epoch in train():
        epoch.checkpoint(tmp_path)
    with pytest.raises(UsageError, match="resume: epoch 2 is done, and epochs=2 leaves nothing to do"):
        next(train(resume=tmp_path))


def test_an_epoch_that_is_over_does_not_save_the_weights_of_another(tmp_path):
    first, second = train()
    for act in (
        first.capture,
        lambda: first.save("a"),
        lambda: first.checkpoint("a"),
        lambda: first.draw("a cat"),
    ):
        with pytest.raises(UsageError, match="epoch 1 is over: the weights are those of epoch 2 by now"):
            act()
    assert list(second.save("adapter").iterdir()) and first.images.shape == (8, 3, 8, 8)


@pytest.mark.parametrize("how", ["ends", "is closed", "is dropped", "fails"])
def test_rewards_that_were_built_are_closed_when_the_generator(how, plugin):
    run = train(["brightness", "fails"] if how == "fails" else "brightness", plugin=plugin)
    if how == "fails":
        with pytest.raises(RewardError, match="no judge today"):
            next(run)
    else:
        next(run)
        assert sys.modules["api_rewards"].CLOSED == []
    if how == "ends":
        list(run)
    elif how == "is closed":
        run.close()
    elif how == "is dropped":
        del run
        gc.collect()
    assert len(sys.modules["api_rewards"].CLOSED) == (2 if how == "fails" else 1)


def test_one_process_trains_in_one_precision_after_another():
    for mixed_precision in ("no", "bf16", "no"):
        (epoch,) = train(epochs=1, mixed_precision=mixed_precision)
        assert epoch.trainer.accelerator.mixed_precision == mixed_precision


# ---- models that are loaded


@pytest.fixture
def pipeline(tiny_pipeline):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(tiny_pipeline)


def test_a_loaded_pipeline_is_trained_in_place_like_its_folder(pipeline, tiny_pipeline):
    small = dict(lora_rank=2, epochs=1, self_check=False)
    before = {name: weight.clone() for name, weight in pipeline.unet.named_parameters()}
    (epoch,) = train(model=pipeline, **small)
    (same,) = train(model=str(tiny_pipeline), **small)
    assert numbers([epoch]) == numbers([same])
    assert any(parameter.any() for name, parameter in pipeline.unet.named_parameters() if "lora_B" in name)
    pipeline.unload_lora_weights()
    after = dict(pipeline.unet.named_parameters())
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_pipeline_with_a_lora_says_how_to_take_it_off(pipeline):
    small = dict(lora_rank=2, epochs=1, self_check=False)
    first = numbers(train(model=pipeline, **small))
    with pytest.raises(UsageError, match="this pipeline has a LoRA already") as raised:
        next(train(model=pipeline, **small))
    assert "pipe.unload_lora_weights()" in raised.value.hint
    pipeline.unload_lora_weights()
    assert numbers(train(model=pipeline, **small)) == first


@pytest.mark.parametrize("family", ["tiny_sdxl", "tiny_sd3", "tiny_flux"])
def test_every_family_adapts_a_pipeline_that_is_loaded(family, request):
    from diffusers import DiffusionPipeline

    loaded = DiffusionPipeline.from_pretrained(request.getfixturevalue(family))
    handover = Handover(Registry.of())
    spec = handover.model(loaded)
    denoiser = handover.registry.build("model", spec, device=torch.device("cpu"), dtype=torch.float32)
    info = handover.registry.find("model", spec)
    assert denoiser.process.path == info.path and denoiser.network is getattr(loaded, denoiser.part)


def test_half_precision_is_trained_as_it_was_loaded(pipeline):
    handover = Handover(Registry.of())
    spec = handover.model(pipeline.to(torch.bfloat16))
    assert handover.registry.find("model", spec).defaults["mixed_precision"] == "bf16"


def test_a_denoiser_stays_where_it_is():
    handover = Handover(Registry.of())
    spec = handover.model(ToyDenoiser())
    with pytest.raises(UsageError, match="the model is on cpu"):
        handover.registry.build("model", spec, device=torch.device("cuda"), dtype=torch.float32)


# ---- scoring


def grey(level, side):
    return Image.new("RGB", (side, side), (level,) * 3)


def test_pictures_of_any_kind_and_size_are_scored(tmp_path):
    grey(51, 8).save(tmp_path / "dark.png")
    images = [
        tmp_path / "dark.png",
        grey(102, 12),
        np.full((8, 8, 3), 153, np.uint8),
        torch.full((3, 8, 8), 0.8),
    ]
    scores = ddpo_core.score({"mine": (brightness, 0.5)}, images)
    assert scores["mine"].values == pytest.approx([0.2, 0.4, 0.6, 0.8])
    stacked = ddpo_core.score(brightness, torch.full((2, 3, 4, 4), 0.5))
    assert stacked["brightness"].values == pytest.approx([0.5, 0.5])


def test_prompts_of_scored_pictures_are_one_for_all_or_one_for_each():
    def length(images, prompts):
        return [len(prompt.text) for prompt in prompts]

    images = torch.zeros(2, 3, 4, 4)
    assert list(ddpo_core.score(length, images, "a cat")["length"].values) == [5, 5]
    assert list(ddpo_core.score(length, images, ["a", Prompt("abc")])["length"].values) == [1, 3]
    with pytest.raises(UsageError, match="one for all or one for each of 2 images; got 3"):
        ddpo_core.score(length, images, ["a", "b", "c"])


def test_a_reward_of_groups_scores_the_pictures_of_a_prompt_together():
    @ddpo_core.reward(scope="group")
    def count(images, prompts):
        return [len(images)] * len(images)

    images = torch.zeros(3, 3, 4, 4)
    assert list(ddpo_core.score(count, images, ["cat", "dog", "cat"])["count"].values) == [2, 1, 2]
    with pytest.raises(UsageError, match="of one size; got 4 × 4 and 8 × 8"):
        ddpo_core.score(count, [grey(0, 4), grey(0, 8)])


@pytest.mark.parametrize(
    "picture",
    [torch.zeros(8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), np.zeros((8, 8, 3)), "gone.png", 3],
)
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(UsageError):
        ddpo_core.score(brightness, [picture])


def test_rewards_that_were_built_to_score_are_closed(plugin):
    ddpo_core.score("brightness", torch.zeros(1, 3, 4, 4), plugin=plugin)
    assert len(sys.modules["api_rewards"].CLOSED) == 1


# ---- saying what a function is


def test_the_decorator_knows_its_words():
    with pytest.raises(UnknownName, match=r"got 'group_sise'; did you mean 'group_size'\?"):
        ddpo_core.reward(group_sise=3)
    with pytest.raises(UsageError, match="scope must be one of sample, group, batch; got 'groups'"):
        ddpo_core.reward(scope="groups")
    told = ddpo_core.reward(unit="kB", range=(0, 1))(brightness)
    assert replace(told.info, factory="") == RewardInfo(
        name="brightness", summary="", factory="", unit="kB", range=(0, 1)
    )
    assert told.__name__ == "brightness" and torch.equal(told(torch.ones(1, 3, 2, 2), []), torch.ones(1))
