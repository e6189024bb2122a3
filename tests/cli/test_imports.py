"""Imports run one way, and what only lists stays light. Read from the source, not from a running program."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "ddpo_core").rglob("*.py"))
CLI = sorted((ROOT / "cli").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").glob("*/src/**/*.py"))

# What each layer of the core may import of the core besides itself: types, errors ← protocols ← the path's
# modules ← training ← config ← api. Finding plugins stands beside the path: it knows records, not what is
# done with them.
WORDS = {"errors", "types", "info", "batches", "constraints", "nearest"}
CONTRACT = WORDS | {"protocols", "hookspecs", "spec", "judges"}
PATH = {
    "advantages",
    "calls",
    "captions",
    "denoisers",
    "denoising",
    "estimators",
    "losses",
    "mixing",
    "pixels",
    "pretraining",
    "processes",
    "prompt_sets",
    "prompts",
    "rewards",
    "rollout",
    "samplers",
    "scoring",
    "timesteps",
}
FINDING = {"plugins", "options", "discovery", "builtin"}
TRAINING = {
    "training",
    "checkpoint",
    "diagnostics",
    "epoch",
    "judgement",
    "selfcheck",
    "sharing",
    "tasks",
    "updating",
}
CONFIG = {"config"}
API = {"api"}
LAYERS = [
    (WORDS, WORDS),
    (CONTRACT, CONTRACT),
    (PATH, CONTRACT | PATH),
    (FINDING, CONTRACT | FINDING | {"prompt_sets", ""}),
    (TRAINING, CONTRACT | PATH | TRAINING),
    (CONFIG, CONTRACT | PATH | FINDING | TRAINING | CONFIG),
    (API, CONTRACT | PATH | FINDING | TRAINING | CONFIG | API),
]


def imported(file: Path, *, typing_only: bool = False) -> Iterator[str]:
    """The modules a file imports anywhere in it, dotted; those under `if TYPE_CHECKING` only if asked for."""
    tree = ast.parse(file.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing_only:
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the direction"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def core_module(dotted: str) -> str:
    """`ddpo_core.samplers.ddim` → `samplers`; the package itself → ``."""
    parts = dotted.split(".")
    known = {path.stem for path in (ROOT / "ddpo_core").iterdir()}
    return parts[1] if len(parts) > 1 and parts[1] in known else ""


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", CORE, ids=name_of)
def test_the_core_imports_in_one_direction(file: Path) -> None:
    module = file.relative_to(ROOT / "ddpo_core").parts[0].removesuffix(".py")
    allowed = next((may for names, may in LAYERS if module in names), None)
    if allowed is None:
        return  # __init__ and what is shipped for plugin authors look at everything
    used = {core_module(name) for name in imported(file) if name.split(".")[0] == "ddpo_core"}
    assert used <= allowed, f"{name_of(file)} must not import {sorted(used - allowed)}"


def test_training_receives_its_parts_and_imports_none() -> None:
    used = set(imported(ROOT / "ddpo_core" / "training.py"))
    parts = ("samplers", "estimators", "denoisers", "prompt_sets", "plugins", "discovery", "builtin")
    assert not {name for name in used if name.startswith(tuple(f"ddpo_core.{part}" for part in parts))}


@pytest.mark.parametrize("file", CORE, ids=name_of)
def test_the_core_knows_no_plugin_and_no_terminal(file: Path) -> None:
    strangers = ("ddpo_cli", "ddpo_pocket", "ddpo_reward", "typer", "rich")
    assert not [name for name in imported(file, typing_only=True) if name.startswith(strangers)]


@pytest.mark.parametrize("file", CLI, ids=name_of)
def test_the_cli_reaches_plugins_through_discovery_only(file: Path) -> None:
    assert not [name for name in imported(file) if name.startswith(("ddpo_pocket", "ddpo_reward"))]


@pytest.mark.parametrize("file", PLUGINS, ids=name_of)
def test_a_plugin_imports_the_core_and_itself_and_no_other_plugin(file: Path) -> None:
    own = file.relative_to(ROOT / "plugins").parts[2]
    ours = {name.split(".")[0] for name in imported(file) if name.startswith("ddpo_")}
    assert ours <= {own, "ddpo_core"}


@pytest.mark.parametrize("file", [*CORE, *CLI, *PLUGINS], ids=name_of)
def test_click_is_never_imported(file: Path) -> None:
    # Typer 0.26 took Click into itself: what leans on the package `click` breaks on one side or the other
    assert not [name for name in imported(file, typing_only=True) if name.split(".")[0] == "click"]


def test_the_public_names_of_the_core_come_without_torch() -> None:
    names = "ddpo_core, ddpo_core.api, ddpo_core.discovery, ddpo_core.protocols"
    code = f"import sys, {names}; ddpo_core.train; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
