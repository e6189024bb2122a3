"""`ddpo rewards score`: pictures that are there already."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOY_WORLD = Path(__file__).parent / "toy_world.py"
TOY = ("--plugin", TOY_WORLD)


@pytest.fixture
def pictures(tmp_path):
    """Grey pictures of known brightness; the first has a caption beside it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, grey, size in (("a", 51, 8), ("b", 102, 8), ("c", 204, 12)):
        Image.new("L", (size, size), grey).save(folder / f"{name}.png")
    (folder / "a.txt").write_text("a cat\n")
    (folder / "notes.md").write_text("no picture")
    return folder


def scored(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_folder_is_scored_by_name_with_mean_and_standard_error(ddpo, pictures):
    found = scored(ddpo("rewards", "score", "brightness", "--images", pictures, "--json", *TOY))
    assert [Path(each["file"]).name for each in found["images"]] == ["a.png", "b.png", "c.png"]
    assert [each["score"] for each in found["images"]] == pytest.approx([0.2, 0.4, 0.8])
    assert [each["prompt"] for each in found["images"]] == ["a cat", "", ""]
    values = np.array([0.2, 0.4, 0.8])
    assert (found["mean"], found["count"]) == (pytest.approx(values.mean()), 3)
    assert found["stderr"] == pytest.approx(values.std(ddof=1) / 3**0.5)


def test_the_table_has_a_line_for_each_and_the_mean_below(ddpo, pictures):
    done = ddpo("rewards", "score", "brightness,gamma=2", "--images", pictures / "b.png", *TOY)
    assert done.out.splitlines()[1].split() == ["b.png", "0.16"]
    assert done.out.splitlines()[-1] == "mean 0.16 of 1"


def test_transparency_lies_on_white(ddpo, tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    found = scored(ddpo("rewards", "score", "brightness", "--images", tmp_path, "--json", *TOY))
    assert found["mean"] == 1.0


def test_prompts_and_what_else_is_known_come_from_a_file(ddpo, pictures, tmp_path):
    lines = [{"file": f"{name}.png", "prompt": f"{name} dog", "objects": ["dog"]} for name in "abc"]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = ("--images", pictures, "--prompts", tmp_path / "p.jsonl", "--json", *TOY)
    found = scored(ddpo("rewards", "score", "brightness", *flags))
    assert [each["prompt"] for each in found["images"]] == ["a dog", "b dog", "c dog"]


def test_a_reward_of_groups_judges_the_pictures_of_one_prompt_together(ddpo, pictures):
    flags = (
        "--images",
        pictures / "a.png",
        "--images",
        pictures / "b.png",
        "--prompt",
        "grey",
        "--json",
        *TOY,
    )
    found = scored(ddpo("rewards", "score", "variety", *flags))
    # each is 0.1 from the mean of the two
    assert [each["score"] for each in found["images"]] == pytest.approx([0.01, 0.01], abs=1e-6)


def test_pictures_that_are_judged_together_have_to_be_of_one_size(ddpo, pictures):
    done = ddpo("rewards", "score", "variety", "--images", pictures, "--prompt", "grey", *TOY)
    assert done.code == 2 and "12 × 12 and 8 × 8" in done.err


def test_the_page_holds_the_pictures_best_first(ddpo, pictures, tmp_path, checked):
    page = tmp_path / "page.html"
    done = ddpo("rewards", "score", "brightness", "--images", pictures, "--html", page, *TOY)
    assert done.code == 0 and str(page) in done.out
    text = page.read_text()
    checked(text)
    assert text.count("data:image/png;base64,") == 3
    assert text.index("c.png") < text.index("b.png") < text.index("a.png")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--images", "nowhere"), "there is no file or folder nowhere"),
        (("--images", "."), "expected .png"),
        (("--images", "broken.png"), "cannot read broken.png"),
    ],
)
def test_what_is_no_picture_is_one_clear_line(ddpo, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    if "broken.png" in flags:
        Path("broken.png").write_text("not a picture")
    done = ddpo("rewards", "score", "brightness", *flags, *TOY)
    assert done.code == 2 and message in done.err


def test_a_typo_in_the_reward_gets_the_nearest(ddpo, pictures):
    done = ddpo("rewards", "score", "brightnes", "--images", pictures, *TOY)
    assert done.code == 2 and "brightness" in done.err
