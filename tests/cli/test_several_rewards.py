"""Several rewards from the command line: mixers, tasks, constraints, groups, and a model's own judges."""

import json
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from ddpo_cli import config_file
from ddpo_core.config import task_specs
from ddpo_core.config.constraint_specs import separate, split, written
from ddpo_core.config.resolve import Layer, from_file, resolve
from ddpo_core.config.task_specs import TaskText
from ddpo_core.errors import BatchError, SpecError, UnknownName, UsageError

TOY_WORLD = Path(__file__).with_name("toy_world.py")
SMALL = ("--epochs", 2, "--samples-per-epoch", 8, "--sample-batch-size", 4, "--images-every", 0)


def of(toys, **flags):
    return resolve([Layer("flag", {"model": "toy", **flags})], toys).config


def train(ddpo, *arguments):
    run = ddpo("train", "--plugin", TOY_WORLD, "--model", "toy", *SMALL, "--out", "run", *arguments)
    assert run.code == 0, run.err
    with open("run/metrics.jsonl") as file:
        return [json.loads(line) for line in file]


# tasks


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("--reward jpeg", TaskText("jpeg", ("jpeg",))),
        ("--reward=jpeg:0.5 --reward b --prompts animals", TaskText("jpeg+b", ("jpeg:0.5", "b"), "animals")),
        (
            "--name x --reward a --prompt 'a cat' --prompt dog",
            TaskText("x", ("a",), "", ("a cat", "dog")),
        ),
    ],
)
def test_a_task_is_written_as_for_train_and_reads_back_the_same(text, task):
    assert task_specs.parse(text) == task
    assert task_specs.parse(str(task)) == task


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--prompts animals", "a task needs a reward"),
        ("--reward", "--reward expects a value"),
        ("--reward a --group-size few", "--group-size must be a whole number; got 'few'"),
        ("--rewards jpeg", "got '--rewards'; did you mean '--reward'?"),
        ("--reward a --prompts b --prompt c", "one of them has to go"),
        ("--reward a --name b --name c", "--name is given twice"),
        ("--reward 'a", "No closing quotation"),
    ],
)
def test_a_task_that_cannot_be_read_says_why(text, message):
    with pytest.raises((UsageError, UnknownName)) as caught:
        task_specs.parse(text)
    assert message in str(caught.value)


def test_tasks_come_from_tables_and_from_a_file(toys, tmp_path):
    tables = [
        {"reward": "brightness", "prompts": "animals"},
        {"name": "two", "reward": ["brightness:-1,as=dark"], "prompt": ["a cat"]},
    ]
    expected = (
        "--name brightness --reward brightness --prompts animals",
        "--name two --reward brightness:-1,as=dark --prompt 'a cat'",
    )
    assert of(toys, task=tables).task == expected
    file = tmp_path / "tasks.toml"
    file.write_text(
        '[[task]]\nreward = "brightness"\nprompts = "animals"\n'
        '[[task]]\nname = "two"\nreward = ["brightness:-1,as=dark"]\nprompt = ["a cat"]\n'
    )
    assert of(toys, task=str(file)).task == expected


def test_a_file_without_tasks_is_refused(toys, tmp_path):
    file = tmp_path / "tasks.toml"
    file.write_text("epochs = 3")
    with pytest.raises(UsageError, match=r"has no \[\[task\]\] table"):
        of(toys, task=str(file))


def test_rewards_and_tasks_together_are_refused(toys):
    with pytest.raises(UsageError, match="--reward and --task were both given"):
        of(toys, reward="brightness", task="--reward brightness,as=b")


def test_a_reward_that_is_typed_takes_the_place_of_a_presets_tasks(toys):
    preset = Layer("preset p", {"model": "toy", "task": ["--reward variety"]})
    config = resolve([preset, Layer("flag", {"reward": "brightness"})], toys).config
    assert (config.reward, config.task) == (("brightness",), ())


def test_one_label_in_two_tasks_is_refused(toys):
    with pytest.raises(UsageError, match="both labelled 'brightness'"):
        of(toys, task=["--reward brightness", "--reward brightness"])


def test_each_reward_is_a_task_where_they_take_turns(toys):
    config = of(toys, reward=["brightness", "brightness:2,as=b"], mixer="sequential")
    assert [(task.name, task.reward, task.prompts) for task in task_specs.tasks_of(config)] == [
        ("brightness", ("brightness",), "animals"),
        ("b", ("brightness:2,as=b",), "animals"),
    ]


def test_a_config_with_tasks_and_constraints_reads_back_the_same(toys, tmp_path):
    first = resolve(
        [
            Layer(
                "flag",
                {
                    "model": "toy",
                    "task": ["--reward brightness --prompt 'a cat'", "--reward variety"],
                    "constraint": ["brightness,min=0.25,rate=1"],
                },
            )
        ],
        toys,
    )
    path = tmp_path / "config.toml"
    path.write_text(config_file.dumps(first))
    assert resolve([from_file(path)], toys).config == first.config
    assert tomllib.loads(path.read_text())["task"][1] == "--name variety --reward variety --group-size 4"
    assert [task.group_size for task in task_specs.tasks_of(first.config)] == [1, 4]


def test_two_tasks_train_in_turns(ddpo):
    rows = train(
        ddpo,
        "--task",
        "--reward brightness --prompt 'a cat'",
        "--task",
        "--reward brightness:-1,as=dark --prompts animals",
    )
    assert [row["reward_queries"] for row in rows] == [16, 32]
    assert {"reward/brightness/mean", "reward/dark/mean"} <= set(rows[0])
    assert rows[0]["reward/dark/share"] == rows[0]["reward/brightness/share"] == 1


# mixers and constraints


@pytest.mark.parametrize("mixer", ["gdpo", "sum", "sequential", "pcgrad"])
def test_every_mixer_runs(ddpo, mixer):
    rewards = ("--reward", "brightness:0.5", "--reward", "brightness:0.5,gamma=2,as=squared")
    rows = train(ddpo, *rewards, "--mixer", mixer)
    assert len(rows) == 2
    shares = [rows[0][f"reward/{label}/share"] for label in ("brightness", "squared")]
    assert shares == [1, 1] if mixer == "sequential" else sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--reward", "brightness:1", "--reward", "brightness:-2,gamma=2,as=squared"),
            ("(20% of", "(80% of"),
        ),
        (("--reward", "brightness:2", "--watch", "brightness,gamma=2,as=squared"), ()),
        (("--reward", "brightness", "--reward", "brightness,gamma=2,as=squared", "--mixer", "sum"), ()),
        (("--task", "--reward brightness", "--task", "--reward brightness,gamma=2,as=squared"), ()),
    ],
    ids=["1 beside -2", "one alone", "raw scores", "tasks"],
)
def test_a_run_begins_with_the_shares_that_weights_stand_for(ddpo, arguments, said):
    run = ddpo("train", "--plugin", TOY_WORLD, "--model", "toy", *SMALL, "--out", "run", *arguments)
    lines = [line for line in run.err.splitlines() if line.startswith("reward ")]
    assert len(lines) == 2 and run.err.count("of the variance, unless rewards correlate") == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=False))


def test_a_constraint_scores_its_reward_and_raises_its_weight(ddpo):
    rows = train(ddpo, "--reward", "brightness", "--constraint", "brightness,as=b2,gamma=2,max=0.0001")
    assert rows[0]["constraint/b2/weight"] > rows[1]["constraint/b2/weight"]  # ever more against brightness
    assert rows[0]["reward/b2/share"] != 0


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("a,min=5.5", "a,min=5.5"),
        ("a,max=1", "a,max=1.0"),
        ("a,min=0,max=2,rate=0.1", "a,min=0.0,max=2.0,rate=0.1"),
        ("a,min=1,limit=3", "a,min=1.0,limit=3.0"),
    ],
)
def test_a_constraint_is_written_as_it_is_read(text, again):
    assert written(split(text)[1]) == again
    assert split(again)[1] == split(text)[1]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("brightness", UsageError, "expects a bound in the reward's unit"),
        ("brightness,min=high", SpecError, "'min' must be a number; got high"),
        ("brightness,min=2,max=1", UsageError, "expects min ≤ max"),
        ("brightnes,min=2", UnknownName, "did you mean 'brightness'?"),
    ],
)
def test_a_constraint_that_cannot_be_read_says_why(toys, text, error, message):
    with pytest.raises(error) as caught:
        of(toys, reward="brightness,as=other", constraint=text)
    assert message in str(caught.value)


def test_a_constrained_reward_that_the_run_lacks_is_scored_too():
    assert separate(["a,min=1", "b,gamma=2,max=3"], ["a"]) == (["a,min=1.0", "b,max=3.0"], ["b,gamma=2"])


def test_options_of_a_reward_of_the_run_belong_to_the_reward():
    with pytest.raises(UsageError, match="a is a reward of this run; give its options there"):
        separate(["a,min=1,gamma=2"], ["a"])


# groups


def test_a_reward_of_groups_sets_the_group_size(toys):
    resolved = resolve([Layer("flag", {"model": "toy", "reward": "variety"})], toys)
    assert resolved.config.group_size == 4
    assert resolved.origins["group_size"] == "reward variety"


def test_a_group_size_that_is_given_stands(toys):
    assert of(toys, reward="variety", group_size=8).group_size == 8
    with pytest.raises(BatchError, match="does not divide by the group size 5"):
        of(toys, reward="variety", group_size=5)


def test_a_group_reward_trains_beside_one_of_single_pictures(ddpo):
    rows = train(ddpo, "--reward", "variety:0.5", "--reward", "brightness:0.5")
    assert sum(rows[0][f"reward/{label}/share"] for label in ("variety", "brightness")) == pytest.approx(1)


# a model's own judges


def test_a_model_brings_judges_for_options_that_are_left_open(toys):
    config = of(toys, model="dim-toy", reward=["brightness", "brightness:2,gamma=1,as=plain"])
    assert config.reward == ("brightness,gamma=3.0", "brightness:2,gamma=1,as=plain")
    assert "gamma" not in asdict(of(toys, reward="brightness"))["reward"][0]
