"""What is built and installed: wheels hold what they should, and files name no machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = [
    ROOT / name for name in ("pyproject.toml", "requirements.txt", "constraints.txt", "Makefile", ".ci/run")
]


def distribution(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_the_base_install_has_no_deep_learning_in_it() -> None:
    base = {distribution(requirement) for requirement in PROJECT["dependencies"]}
    assert not base & {"torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "pyarrow"}


def test_every_declared_dependency_is_pinned_in_the_constraints() -> None:
    declared = [
        *PROJECT["dependencies"],
        *(r for extra in PROJECT["optional-dependencies"].values() for r in extra),
    ]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {distribution(line) for line in lines if not line.startswith("#")}
    assert {distribution(requirement) for requirement in declared} <= pinned


def test_constraints_are_names_and_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_file_names_a_host_or_a_place_on_somebodys_machine(file: Path) -> None:
    assert not re.search(r"https?://|/home/|/root/|/work/|index-url|find-links", file.read_text())


def test_every_plugin_in_the_repository_is_in_the_requirements() -> None:
    listed = re.findall(
        r"^-e (plugins/[^\s\[]+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE
    )
    present = [f"plugins/{path.parent.name}" for path in (ROOT / "plugins").glob("*/pyproject.toml")]
    assert sorted(listed) == sorted(present)


@pytest.mark.parametrize(
    "pyproject", sorted((ROOT / "plugins").glob("*/pyproject.toml")), ids=lambda p: p.parent.name
)
def test_a_plugin_pins_the_contract_it_was_written_for(pyproject: Path) -> None:
    project = tomllib.loads(pyproject.read_text())["project"]
    assert "ddpo>=0.1,<0.2" in project["dependencies"]
    assert list(project["entry-points"]) == ["ddpo"]


# ---- wheels ------------------------------------------------------------------------------------------

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
GOOD = ("good", "sampler")  # of tests/third_party: a reward, and a sampler
BROKEN = ("broken-import", "exits", "misspelt-hook", "future-api")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of ddpo, of each plugin in the repository and of third parties, by distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = [ROOT, *PLUGINS, *(ROOT / "tests/third_party" / name for name in (*GOOD, *BROKEN))]
    done = subprocess.run(
        [*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, *sources],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {distribution(wheel.name.split("-")[0]): wheel for wheel in folder.glob("*.whl")}


def top_names(wheel: Path) -> set[str]:
    """What a wheel puts beside other packages."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    return {top for top in tops if not top.endswith(".dist-info")}


@pytest.mark.slow
def test_ddpos_wheel_holds_its_two_packages_and_all_that_git_has_of_them(wheels: dict[str, Path]) -> None:
    assert top_names(wheels["ddpo"]) == {"ddpo_core", "ddpo_cli"}
    listed = ["git", "-C", str(ROOT), "ls-files", "ddpo_core", "cli/ddpo_cli"]
    tracked = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
    with zipfile.ZipFile(wheels["ddpo"]) as archive:
        assert {name.removeprefix("cli/") for name in tracked} <= set(archive.namelist())


@pytest.mark.slow
@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_a_plugins_wheel_holds_its_own_package_and_nothing_else(
    plugin: Path, wheels: dict[str, Path]
) -> None:
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    wheel = wheels[distribution(project["name"])]
    assert top_names(wheel) == {project["name"].replace("-", "_")}
    for module in project["entry-points"]["ddpo"].values():
        assert module in top_names(wheel)


# ---- environments ------------------------------------------------------------------------------------


class Done(NamedTuple):
    """What a program did."""

    code: int
    out: str
    err: str


class Environment:
    """A virtual environment of its own, with nothing of this one in it.

    `borrowing`: ddpo is installed from its sources, and finds what it needs in this one.
    """

    def __init__(self, folder: Path, *, borrowing: bool = False) -> None:
        venv.create(folder, with_pip=True)
        self.folder = folder
        ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        self.variables = {
            name: value
            for name, value in os.environ.items()
            if name not in ours and not name.startswith("DDPO_")
        }
        if borrowing:
            (site,) = folder.glob("lib/python*/site-packages")
            here = [path for path in sys.path if path.endswith("site-packages")]
            (site / "borrowed.pth").write_text("\n".join(here))
            self.pip("install", "-q", "--no-deps", "--no-build-isolation", "--ignore-installed", ROOT)

    def run(self, program: str, *arguments: object, cwd: Path | None = None) -> Done:
        done = subprocess.run(
            [self.folder / "bin" / program, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=self.variables,
            cwd=cwd or self.folder,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def pip(self, *arguments: object) -> None:
        done = self.run("python", "-m", "pip", "--disable-pip-version-check", *arguments)
        assert done.code == 0, done.err

    def ddpo(self, *arguments: object, cwd: Path | None = None) -> Done:
        return self.run("ddpo", *arguments, cwd=cwd)

    def rewards(self) -> set[str]:
        """What `ddpo rewards list` lists, qualified."""
        listed = json.loads(self.ddpo("rewards", "list", "--json").out)["rewards"]
        return {reward["qualified"] for reward in listed}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where pip reaches no package index."""
    folder = tmp_path_factory.mktemp("asked")
    asked = [*PIP, "download", "-q", "--no-deps", "--no-cache-dir", "-d", folder, "pluggy"]
    if subprocess.run(asked, capture_output=True).returncode:
        pytest.skip("pip reaches no package index from here: it cannot download pluggy")


@pytest.fixture(scope="module")
def strangers(index: None, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """ddpo without extras, a reward and a sampler of third parties, and four that are broken."""
    environment = Environment(tmp_path_factory.mktemp("strangers") / "env")
    environment.pip("install", "-q", wheels["ddpo"], wheels["ddpo-reward-brightness"])
    # the sampler needs ddpo[train], and listing it must not
    broken = ("broken", "exits", "misspelt", "future")
    rest = ["acme-sampler", *(f"ddpo-reward-{name}" for name in broken)]
    environment.pip("install", "-q", "--no-deps", *(wheels[name] for name in rest))
    return environment


@pytest.fixture(scope="module")
def from_sources(index: None, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """ddpo and a reward that asks for no torch, from their sources, in an empty environment."""
    environment = Environment(tmp_path_factory.mktemp("from-sources") / "env")
    environment.pip("install", "-q", ROOT, ROOT / "tests/third_party/good")
    return environment


@pytest.mark.slow
def test_third_party_parts_are_listed_beside_broken_ones_and_without_torch(strangers: Environment) -> None:
    assert strangers.rewards() == {"ddpo-reward-brightness/brightness"}
    samplers = strangers.ddpo("samplers", "list")
    assert "guess-again" in samplers.out and "acme-sampler 1.2.0" in samplers.out
    assert strangers.run("python", "-c", "import torch").code != 0


@pytest.mark.slow
def test_each_broken_one_is_listed_with_its_reason(strangers: Environment) -> None:
    listed = json.loads(strangers.ddpo("plugins", "list", "--json").out)["plugins"]
    assert {plugin["distribution"]: plugin["status"] for plugin in listed} == {
        "ddpo": "ok",
        "ddpo-reward-brightness": "ok",
        "acme-sampler": "ok",
        "ddpo-reward-broken": "broken",
        "ddpo-reward-exits": "broken",
        "ddpo-reward-misspelt": "broken",
        "ddpo-reward-future": "incompatible",
    }
    reasons = {plugin["distribution"]: plugin["reason"] for plugin in listed}
    assert "package_that_nobody_has" in reasons["ddpo-reward-broken"]
    assert "exits when imported" in reasons["ddpo-reward-exits"]
    assert "did you mean 'ddpo_rewards'" in reasons["ddpo-reward-misspelt"]
    assert "contract 2.0" in reasons["ddpo-reward-future"]


@pytest.mark.slow
def test_doctor_names_every_fault_and_exits_with_3(strangers: Environment) -> None:
    done = strangers.ddpo("doctor", "--json")
    assert done.code == 3
    report = json.loads(done.out)
    faults = [fault["what"] for fault in report["faults"]]
    for name in ("broken", "exits", "misspelt", "future"):
        assert any(what.startswith(f"plugin ddpo-reward-{name} is not loaded") for what in faults)
    assert "package 'torch' is missing; needed by sampler guess-again" in faults
    assert report["versions"]["torch"] is None and not report["ok"]


@pytest.mark.slow
def test_what_is_uninstalled_is_gone_from_every_list(strangers: Environment, wheels: dict[str, Path]) -> None:
    leaving = ("ddpo-reward-brightness", "ddpo-reward-exits")
    strangers.pip("uninstall", "-q", "-y", *leaving)
    try:
        assert strangers.rewards() == set()
        done = strangers.ddpo("rewards", "show", "brightness")
        assert done.code == 2 and "no reward named 'brightness' is installed" in done.err
        listed = json.loads(strangers.ddpo("plugins", "list", "--json").out)["plugins"]
        assert not {plugin["distribution"] for plugin in listed} & set(leaving)
    finally:
        strangers.pip("install", "-q", "--no-deps", *(wheels[name] for name in leaving))


@pytest.mark.slow
def test_root_and_plugin_in_one_command_list_and_show_it(from_sources: Environment) -> None:
    assert from_sources.rewards() == {"ddpo-reward-brightness/brightness"}
    shown = from_sources.ddpo("rewards", "show", "brightness")
    assert shown.code == 0 and "white pictures" in shown.out and "gamma" in shown.out


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["score", "check", "bench", "train"])
def test_without_torch_one_line_says_what_is_missing(
    verb: str, from_sources: Environment, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    commands = {
        "score": ("rewards", "score", "brightness", "--images", tmp_path / "a.png"),
        "check": ("rewards", "check", "brightness"),
        "bench": ("rewards", "bench", "brightness"),
        "train": ("train", "--reward", "brightness", "--model", "stable-diffusion,pretrained=."),
    }
    done = from_sources.ddpo(*commands[verb], cwd=tmp_path)
    assert done.code == 3
    error, hint = done.err.splitlines()
    assert "the package 'torch'" in error and "not installed" in error
    assert hint == 'hint:  pip install "ddpo[train]"'


@pytest.mark.slow
def test_a_new_reward_is_written_installed_for_editing_and_listed(
    from_sources: Environment, tmp_path: Path
) -> None:
    assert from_sources.ddpo("rewards", "new", "redness", "--kind", "group", cwd=tmp_path).code == 0
    from_sources.pip("install", "-q", "-e", tmp_path / "ddpo-reward-redness")
    assert "ddpo-reward-redness/redness" in from_sources.rewards()
    info = tmp_path / "ddpo-reward-redness/src/ddpo_reward_redness/__init__.py"
    info.write_text(info.read_text().replace("how far a prompt's pictures", "EDITED"))
    assert "EDITED" in from_sources.ddpo("rewards", "list").out
    from_sources.pip("uninstall", "-q", "-y", "ddpo-reward-redness")
    assert "ddpo-reward-redness/redness" not in from_sources.rewards()


@pytest.mark.slow
def test_a_new_reward_with_torch_beside_it_passes_its_tests_and_trains(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env", borrowing=True)
    assert environment.ddpo("rewards", "new", "redness", "--kind", "model", cwd=tmp_path).code == 0
    folder = tmp_path / "ddpo-reward-redness"
    environment.pip("install", "-q", "--no-deps", "--no-build-isolation", "-e", folder)
    own = environment.run("python", "-m", "pytest", "-q", "-p", "no:xdist", cwd=folder)
    assert own.code == 0, own.out
    toy = ("--plugin", ROOT / "tests/cli/toy_world.py", "--model", "toy", "--device", "cpu")
    few = ("--epochs", 1, "--samples-per-epoch", 8, "--sample-batch-size", 4, "--tracker", "none")
    trained = environment.ddpo("train", "--reward", "redness", "--out", "run", *toy, *few, cwd=tmp_path)
    assert trained.code == 0, trained.err
    assert "ddpo-reward-redness" in (tmp_path / "run/plugins.json").read_text()
