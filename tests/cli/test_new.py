"""`ddpo rewards new`: what it writes is a distribution that is listed, keeps the contract and trains."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ddpo_cli.rewards import new as module
from ddpo_cli.run_folder import RunFolder
from ddpo_core import __version__
from ddpo_core.discovery import registry

ROOT = Path(__file__).parents[2]
KINDS = tuple(module.KINDS)
TOY_WORLD = Path(__file__).parent / "toy_world.py"
TOY = (
    "--plugin", TOY_WORLD, "--model", "toy", "--device", "cpu", "--tracker", "none", "--epochs", 1,
    "--samples-per-epoch", 8, "--sample-batch-size", 4, "--updates-per-epoch", 1,
)  # fmt: skip
HEAVY = {"torch", "numpy", "PIL", "httpx2", "safetensors", "jinja2"}


@pytest.fixture
def written(ddpo, tmp_path):
    """`written("group")`: the folder of a distribution with the reward `my-group`."""

    def write(kind, *flags, name=""):
        done = ddpo("rewards", "new", name or f"my-{kind}", "--kind", kind, *flags)
        assert done.code == 0, done.err
        return tmp_path / f"ddpo-reward-{name or f'my-{kind}'}"

    return write


@pytest.fixture
def installed(written, install, monkeypatch):
    """`installed("group")`: the folder, once what pip would install of it is on the path."""

    def write(*kinds):
        folders = [written(kind) for kind in kinds]
        site = install(*map(str, folders))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
        return folders

    return write


# ---- what is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_distribution_has_these_files_and_no_others(kind, written):
    folder = written(kind)
    more = {"model": ["src/ddpo_reward_my_model/weights.safetensors"], "remote": ["tests/little_server.py"]}
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == sorted(
        [
            ".github/workflows/test.yml",
            ".gitignore",
            "README.md",
            "pyproject.toml",
            f"src/ddpo_reward_my_{kind}/__init__.py",
            f"src/ddpo_reward_my_{kind}/reward.py",
            f"tests/test_my_{kind}.py",
            *more.get(kind, []),
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_ruff_with_its_own_defaults_has_nothing_to_say(kind, written):
    folder = written(kind)
    ruff = [sys.executable, "-m", "ruff"]
    checks = [["check", "--isolated", "--extend-select", "I,UP,B,SIM"], ["format", "--isolated", "--check"]]
    for check in checks:
        done = subprocess.run([*ruff, *check, "."], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_mypy_strict_has_nothing_to_say(written):
    sources = [str(written(kind) / "src") for kind in KINDS]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *sources],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": os.pathsep.join(sources)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_no_template_is_left_unused():
    used = {module.template(kind, path) for kind in module.KINDS.values() for path in module.FILES}
    used |= {module.template(kind, path) for kind in module.KINDS.values() for path in kind.files}
    used |= {module.TEMPLATES / f"readme/{kind}.md.jinja" for kind in KINDS}
    assert used == {file for file in module.TEMPLATES.rglob("*") if file.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_project_pins_this_contract_and_names_one_entry_point(kind, written):
    project = tomllib.loads((written(kind) / "pyproject.toml").read_text())["project"]
    assert __version__.startswith("0.1.") and project["dependencies"][0] == "ddpo>=0.1,<0.2"
    assert project["entry-points"] == {"ddpo": {f"my-{kind}": f"ddpo_reward_my_{kind}"}}
    assert "license" not in project and "authors" not in project


def test_any_line_of_text_may_be_summary_and_author(written, install):
    text = 'a "quoted" \\ path, {{ braces }} {% too %} and σ'
    folder = written("sample", "--summary", text, "--author", 'Ada O\'Hara "x"')
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert (project["description"], project["authors"]) == (text, [{"name": 'Ada O\'Hara "x"'}])
    install(str(folder))
    assert registry().find("reward", "my-sample").summary == text


def test_the_models_weights_are_the_laplacian_and_have_the_declared_checksum(installed):
    import torch
    from safetensors.torch import load_file

    (folder,) = installed("model")
    file = folder / "src/ddpo_reward_my_model/weights.safetensors"
    laplacian = torch.tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 4
    assert torch.equal(load_file(file)["filter.weight"], laplacian[None, None])
    (weights,) = registry().find("reward", "my-model").weights
    assert weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_readme_asks_what_a_user_has_to_know(written):
    readme = (written("sample") / "README.md").read_text()
    for question in ("What is measured", "In which unit", "How it is fooled", "How fast", "Licence"):
        assert question in readme


def test_the_next_commands_are_told(ddpo):
    lines = ddpo("rewards", "new", "redness").out.splitlines()
    assert lines[0] == "ddpo-reward-redness/"
    assert lines[lines.index("next:") :] == [
        "next:",
        "  cd ddpo-reward-redness",
        '  pip install -e ".[test]"',
        "  ddpo rewards check redness",
        "  pytest",
        "  ddpo train --reward redness --epochs 4",
    ]


def test_the_folder_may_be_another(ddpo, tmp_path):
    (tmp_path / "mine").mkdir()
    assert ddpo("rewards", "new", "redness", "--out", "mine").code == 0
    assert (tmp_path / "mine/src/ddpo_reward_redness/reward.py").is_file()


# ---- what it does as it stands -----------------------------------------------------------------------


def test_every_kind_is_listed_and_shown_without_importing_anything_heavy(installed):
    installed(*KINDS)
    code = (
        "import sys\n"
        "from ddpo_cli.main import main\n"
        "assert main(['rewards', 'list', '--json']) == 0\n"
        f"print({HEAVY!r} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed = {reward["name"]: reward["missing"] for reward in json.loads(done.stdout)["rewards"]}
    assert listed == {f"my-{kind}": [] for kind in KINDS}
    assert done.stderr.strip() == "set()"


def test_every_kind_passes_the_tests_it_came_with(installed):
    folders = installed(*KINDS)
    pytest_of = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    own_config = ["-c", str(folders[0] / "pyproject.toml"), "--rootdir", str(folders[0].parent)]
    done = subprocess.run(
        [*pytest_of, *own_config, *(str(folder / "tests") for folder in folders)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 20 * len(KINDS), done.stdout  # each holds its reward to the contract


@pytest.mark.parametrize("kind", ["sample", "group", "model"])
def test_it_trains_as_it_stands(kind, ddpo, installed):
    installed(kind)
    done = ddpo("train", "--reward", f"my-{kind}", "--out", "run", *TOY)
    assert done.code == 0, done.err
    (epoch,) = RunFolder(Path("run")).read_metrics()
    assert 0 < epoch[f"reward/my-{kind}/mean"] < 1
    assert f"ddpo-reward-my-{kind}" in Path("run/plugins.json").read_text()


def test_a_remote_one_trains_against_the_server_it_came_with(ddpo, installed):
    (folder,) = installed("remote")
    spec = importlib.util.spec_from_file_location("little_server", folder / "tests/little_server.py")
    assert spec is not None and spec.loader is not None
    little_server = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(little_server)
    with little_server.serving(little_server.Handler) as url:
        done = ddpo("train", "--reward", f"my-remote,endpoint={url}", "--out", "run", *TOY)
    assert done.code == 0, done.err
    assert 0 < RunFolder(Path("run")).read_metrics()[0]["reward/my-remote/mean"] < 1


def test_a_remote_one_without_its_server_ends_the_run_with_one_line(ddpo, installed):
    installed("remote")
    done = ddpo("train", "--reward", "my-remote,endpoint=http://127.0.0.1:9,retries=0", "--out", "run", *TOY)
    assert done.code == 1
    assert "reward 'my-remote': no answer from http://127.0.0.1:9, tried 1 ×" in done.err


# ---- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Redness", "redness"),
        ("red_ness", "red-ness"),
        ("RedPixels", "red-pixels"),
        ("red ness!", "red-ness"),
        ("-red", None),
        ("3d-look", "d-look"),
        ("red--ness", "red-ness"),
        ("ddpo-reward-redness", "redness"),
        ("rötlich", "r-tlich"),
        ("???", ""),
    ],
)
def test_a_name_that_is_none_gets_the_nearest_that_is(name, near, ddpo, tmp_path):
    done = ddpo("rewards", "new", "--", name)
    assert done.code == 2
    if near is not None:
        assert (f"ddpo rewards new {near}\n" in done.err) == bool(near)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_an_installed_reward_has_is_refused_unless_forced(ddpo, install, tmp_path):
    install("good")
    for name in ("brightness", "bright"):
        done = ddpo("rewards", "new", name)
        assert done.code == 2
        assert f"'{name}' is taken by ddpo-reward-brightness 0.3.0, which is installed" in done.err
    assert not list(tmp_path.glob("ddpo-reward-*"))
    assert ddpo("rewards", "new", "brightness", "--force").code == 0


def test_nothing_is_overwritten(ddpo, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for out in ("mine", "file"):
        done = ddpo("rewards", "new", "redness", "--out", out)
        assert done.code == 2 and f"{out} is there already, and nothing is overwritten" in done.err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_typo_in_the_kind_gets_the_nearest(ddpo, tmp_path):
    done = ddpo("rewards", "new", "redness", "--kind", "gruop")
    assert done.code == 2
    assert (
        "--kind expects one of sample, group, model, remote; got 'gruop'; did you mean 'group'?" in done.err
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--summary", "--author"])
def test_a_text_of_two_lines_is_refused(flag, ddpo, tmp_path):
    done = ddpo("rewards", "new", "redness", flag, "one\ntwo")
    assert done.code == 2 and f"{flag} expects one line of text" in done.err
    assert list(tmp_path.iterdir()) == []
