"""A typo in any name, option, key or path is answered with the nearest valid one, and with exit code 2."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpo_core.nearest import did_you_mean, nearest_path

TOYS = Path(__file__).parent / "toy_world.py"
TRAIN = f"train --plugin {TOYS} --model toy --dry-run --no-measure"
BRIGHT = f"{TRAIN} --reward brightness"

COMMANDS = [
    ("tran", "train"),
    ("evl", "eval"),
    ("docter", "doctor"),
    ("rewrds", "rewards"),
    ("modles list", "models"),
    ("rewards lst", "list"),
    ("rewards shwo ddim", "show"),
    ("rewards scor jpeg", "score"),
    ("rewards chek jpeg", "check"),
    ("plugins lits", "list"),
    ("score jpeg", "rewards score"),  # the verb without its noun
]
FLAGS = [
    ("--versoin", "--version"),
    ("train --rewrad jpeg", "--reward"),
    ("train --epoch 3", "--epochs"),
    ("train --steps 3", "--num-steps"),
    ("train --lr 1e-4", "--learning-rate"),
    ("train --no-selfcheck", "--no-self-check"),
    ("train --dryrun", "--dry-run"),
    ("train --pluging x.py", "--plugin"),
    ("sample toy --promt x", "--prompt"),
    ("eval toy --reword jpeg", "--reward"),
    ("report runs/mine --hlep", "--help"),
    ("rewards list --jsn", "--json"),
    ("rewards score jpeg --image x", "--images"),
    ("rewards new mine --knd group", "--kind"),
    ("rewards check jpeg --bettr x", "--better"),
    ("rewards bench jpeg --size 1", "--sizes"),
    ("doctor --jsno", "--json"),
]
CHOICES = [
    (f"{BRIGHT} --mixer gpdo", "gdpo"),
    (f"{BRIGHT} --device cdua", "cuda"),
    (f"{BRIGHT} --optimizer adamv", "adamw"),
    (f"{BRIGHT} --mixed-precision bf61", "bf16"),
    (f"{BRIGHT} --tracker tensorbord", "tensorboard"),
    (f"{BRIGHT} --advantages promt", "prompt"),
    (f"{BRIGHT} --prompts object-pairs,split=heldout", "held_out"),
    (f"{TRAIN} --reward brightness,on_error=drp", "drop"),
    ("sample pocket --prompt x --device cdua", "cuda"),
    ("rewards new mine --kind modl", "model"),
    ("--show-completion --shell bsh", "bash"),
]
NAMES = [
    (f"{TRAIN} --reward brightnes", "brightness"),
    (f"{TRAIN} --reward BRIGHTNESS:0.5", "brightness"),
    (f"{TRAIN} --reward brightness --watch varyety", "variety"),
    (f"{BRIGHT} --constraint varity,min=3", "variety"),
    (f"{BRIGHT} --sampler dimm", "ddim"),
    (f"{BRIGHT} --estimator grop", "grpo"),
    (f"{BRIGHT} --estimator ddpo/ddpo-iss", "ddpo/ddpo-is"),
    (f"{BRIGHT} --prompts animls", "animals"),
    (f"{TRAIN} --reward brightness --model flow-toi", "flow-toy"),
    (f"{BRIGHT} --preset demmo", "demo"),
    ("train --preset asthetic", "paper/aesthetic"),
    ("samplers show dimm", "ddim"),
    ("estimators show ddpo_iss", "ddpo-is"),
    ("models show sdlx", "sdxl"),
    ("prompts show animls", "animals"),
    ("sample sdlx --prompt x", "sdxl"),
    (f"rewards score brightnes --images here.png --plugin {TOYS}", "brightness"),
    (f"rewards check variaty --plugin {TOYS}", "variety"),
    (f"rewards bench variaty --plugin {TOYS}", "variety"),
]
KEYS = [
    (f"{TRAIN} --reward brightness,gama=2", "gamma"),
    (f"{TRAIN} --reward brightness,on_eror=drop", "on_error"),
    (f"{TRAIN} --reward brightness,timelimit=3", "time_limit"),
    (f"{BRIGHT} --constraint brightness,mim=3", "min"),
    (f"{BRIGHT} --constraint brightness,min=3,lmit=3", "limit"),
    (f"{BRIGHT} --sampler ddim,etta=1", "eta"),
    (f"{BRIGHT} --estimator ddpo-is,clip_rang=1", "clip_range"),
    (f"{BRIGHT} --advantages group,sise=3", "size"),
    (f"{BRIGHT} --prompts animals,artcle=true", "article"),
    (f"{TRAIN} --task '--rewrd brightness'", "--reward"),
    (f"{TRAIN} --task '--reward brightness --prompts animls'", "animals"),
]
PATHS = [
    (f"{BRIGHT} --config mien.toml", "mine.toml"),
    (f"{BRIGHT} --prompts cat.txt", "cats.txt"),
    (f"{BRIGHT} --prompts cats.tx", "cats.txt"),
    (f"{BRIGHT} --prompts file,path=cat.txt", "cats.txt"),
    (f"{BRIGHT} --pretrain cats", "cats.txt"),
    ("train --resume runs/mien", "runs/mine"),
    ("report runs/mien", "runs/mine"),
    ("sample runs/mien --prompt x", "runs/mine"),
    ("eval runs/mien", "runs/mine"),
    (f"rewards score brightness --images her.png --plugin {TOYS}", "here.png"),
    ("train --plugin mine.tml", "mine.toml"),
]


@pytest.fixture
def here(tmp_path: Path) -> None:
    """A few files for paths to be near to."""
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "cats.txt").write_text("a cat\n")
    (tmp_path / "mine.toml").touch()
    (tmp_path / "here.png").touch()


@pytest.mark.parametrize(("line", "meant"), [*COMMANDS, *FLAGS, *CHOICES, *NAMES, *KEYS, *PATHS])
def test_a_typo_is_answered_with_the_nearest(ddpo: Callable, here: None, line: str, meant: str) -> None:
    shell = ddpo(*shlex.split(line))
    told = shell.err.replace(str(Path.cwd()) + "/", "")
    assert (shell.code, shell.out) == (2, "")
    assert told.startswith("error: ")
    assert f"did you mean '{meant}'?" in told


SETTINGS = [
    ("num_step = 3", "num_steps"),
    ('mixer = "gpdo"', "gdpo"),
    ('estimator = "dppo-is"', "ddpo-is"),
    ('[[reward]]\nnam = "brightness"', "name"),
    ('[[reward]]\nname = "brightness"\nwieght = 2', "weight"),
    ('[[reward]]\nname = "brightness"\non_error = "drp"', "drop"),
    ('[[reward]]\nname = "brightness"\noptions = { gama = 2 }', "gamma"),
    ('[[task]]\nrewrd = "brightness"', "--reward"),
]


@pytest.mark.parametrize(("text", "meant"), SETTINGS)
def test_a_typo_in_a_file_is_answered_with_the_nearest(
    ddpo: Callable, tmp_path: Path, text: str, meant: str
) -> None:
    (tmp_path / "mine.toml").write_text(text)
    rewards = [] if text.startswith("[[") else ["--reward", "brightness"]
    shell = ddpo(*shlex.split(TRAIN), *rewards, "--config", "mine.toml")
    assert (shell.code, shell.out) == (2, "")
    assert f"did you mean '{meant}'?" in shell.err


def test_with_json_the_nearest_is_told_there(ddpo: Callable) -> None:
    error = json.loads(ddpo("samplers", "show", "dimm", "--json").out)["error"]
    assert error["kind"] == "UnknownName"
    assert error["message"] == "no sampler named 'dimm' is installed; did you mean 'ddim'?"


def test_a_weight_among_the_options_is_told_where_it_stands(ddpo: Callable) -> None:
    assert "a weight stands behind the name: brightness:2" in ddpo(*shlex.split(f"{BRIGHT},weight=2")).err


def test_a_distribution_that_is_blocked_in_vain_is_answered_with_the_nearest(
    install: Callable, ddpo: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("good")
    monkeypatch.setenv("DDPO_ONLY", "ddpo-reward-brigthness")
    assert "did you mean 'ddpo-reward-brightness'?" in ddpo("rewards", "list").err


# ---- what is near ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "valid", "meant"),
    [
        ("jpge", ["jpeg", "ddim"], "; did you mean 'jpeg'?"),
        ("num-steps", ["num_steps"], "; did you mean 'num_steps'?"),
        ("lr", ["lora_rank_two", "learning_rate"], "; did you mean 'learning_rate'?"),
        ("zzz", ["jpeg"], ""),
        ("jpge", [], ""),
    ],
)
def test_near_is_spelled_alike_or_begins_alike(typed: str, valid: list[str], meant: str) -> None:
    assert did_you_mean(typed, valid) == meant


def test_a_path_is_looked_for_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "cats.txt").touch()
    assert nearest_path(tmp_path / "cat.txt") == f"; did you mean '{tmp_path}/cats.txt'?"
    assert nearest_path(tmp_path / "nowhere" / "cat.txt") == ""
