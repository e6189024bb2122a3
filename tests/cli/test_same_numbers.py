"""`ddpo train` and `ddpo_core.train`, asked the same, give the same numbers bit for bit."""

import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ddpo_core
from ddpo_cli.run_folder import RunFolder
from ddpo_core.prompt_sets.words import animals

TOY_WORLD = Path(__file__).parent / "toy_world.py"
SMALL = dict(epochs=2, samples_per_epoch=8, sample_batch_size=4, updates_per_epoch=2, device="cpu", seed=3)
FLAGS = [word for key, value in SMALL.items() for word in (f"--{key.replace('_', '-')}", value)]
TOY = (
    "--plugin",
    TOY_WORLD,
    "--model",
    "toy",
    "--tracker",
    "none",
    "--image-count",
    3,
    "--out",
    "run",
    *FLAGS,
)


def timeless(lines):
    return [{key: value for key, value in line.items() if not key.startswith("seconds/")} for line in lines]


def brightness(images, prompts):
    return images.mean((1, 2, 3)).tolist()


def asked_twice(ddpo, flags, **arguments):
    """Metrics and weights of both."""
    done = ddpo("train", *flags, *TOY)
    assert done.code == 0, done.err
    epochs = list(ddpo_core.train(model="toy", plugin=TOY_WORLD, **(SMALL | arguments)))
    epochs[-1].save("adapter")
    files = [next(Path(folder).iterdir()) for folder in ("run/adapter", "adapter")]
    return (
        timeless(RunFolder(Path("run")).read_metrics()),
        timeless([e.metrics for e in epochs]),
        *map(load_file, files),
    )


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        (("--reward", "brightness"), dict(rewards="brightness")),
        (("--reward", "brightness"), dict(rewards={"brightness": 1})),
        (("--reward", "brightness"), dict(rewards={"brightness": brightness})),
        (("--reward", "brightness:-1,gamma=2,as=dark", "--reward", "variety:0.5"),
         dict(rewards={"dark": ("brightness", -1, {"gamma": 2}), "variety": 0.5})),
        (("--reward", "brightness", "--prompt", "a cow", "--prompt", "a pig", "--estimator", "grpo"),
         dict(rewards="brightness", prompts=["a cow", "a pig"], estimator="grpo")),
        (("--reward", "brightness", "--watch", "variety", "--constraint", "variety,min=0.5"),
         dict(rewards="brightness", watch="variety", constraints={"variety": {"min": 0.5}})),
        (("--task", "--name lit --reward brightness --prompt cow",
          "--task", "--reward variety --group-size 4"),
         dict(tasks={"lit": {"rewards": "brightness", "prompts": ["cow"]},
                     "variety": {"rewards": ["variety"], "group_size": 4}})),
        (("--reward", "brightness", "--mixed-precision", "bf16", "--clip-range", "0.1"),
         dict(rewards="brightness", mixed_precision="bf16", clip_range=0.1)),
    ],
    ids=["a spec", "a weight", "a function", "two rewards", "prompts", "a bound", "tasks", "bf16"],
)  # fmt: skip
def test_both_give_the_same_numbers(ddpo, flags, arguments):
    lines, metrics, run_weights, own_weights = asked_twice(ddpo, flags, **arguments)
    assert lines == metrics and len(lines) == 2
    assert run_weights.keys() == own_weights.keys()
    assert all(torch.equal(weight, own_weights[name]) for name, weight in run_weights.items())


def test_another_seed_gives_others(ddpo):
    lines, metrics, *_ = asked_twice(ddpo, ("--reward", "brightness"), rewards="brightness", seed=4)
    assert lines != metrics


def test_the_models_own_prompts_may_be_handed_over(ddpo):
    prompts = [animals()[index] for index in range(len(animals()))]
    lines, metrics, *_ = asked_twice(ddpo, ("--reward", "brightness"), rewards="brightness", prompts=prompts)
    assert lines == metrics


def test_python_goes_on_with_a_run_of_the_command_line(ddpo):
    done = ddpo("train", "--reward", "brightness", *TOY)
    assert done.code == 0, done.err
    settings = tomllib.loads(Path("run/config.toml").read_text())
    assert settings["epochs"] == 2
    (third,) = ddpo_core.train(config="run/config.toml", resume="run", epochs=3)
    ddpo("train", "--resume", "run", "--epochs", 3)
    told = ("seconds/", "self_check/")
    line = RunFolder(Path("run")).read_metrics()[-1]
    assert {k: v for k, v in line.items() if not k.startswith(told)} == {
        k: v for k, v in third.metrics.items() if not k.startswith(told)
    }
