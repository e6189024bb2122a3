"""What is built and installed: wheels hold what they should, and files name no machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

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


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """ddpo's own wheel and that of a third-party reward."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run(
        [*command, str(ROOT), str(ROOT / "tests/third_party/good")], check=True, capture_output=True
    )
    return tmp_path


@pytest.mark.slow
def test_wheels_hold_their_packages_and_a_pip_installed_reward_is_listed(
    wheels: Path, tmp_path: Path
) -> None:
    (wheel,) = wheels.glob("ddpo-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        assert "ddpo_core/py.typed" in archive.namelist()
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ddpo_core", "ddpo_cli"}

    # an environment of its own that borrows the dependencies of this one
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    subprocess.run([*install, *map(str, wheels.glob("*.whl"))], check=True, capture_output=True)
    listed = subprocess.run(
        [python, "-m", "ddpo_cli.main", "rewards", "list", "--json"],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    names = {reward["qualified"] for reward in json.loads(listed.stdout)["rewards"]}
    assert "ddpo-reward-brightness/brightness" in names
