"""`ddpo eval`: the same prompts and noise for every model, whole groups, results for people and programs."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ddpo_cli.eval_matrix import BASE, Column, Matrix, Row, plan_pictures
from ddpo_core.types import Prompt

HERE = Path(__file__).parent
TOYS = ("--plugin", HERE / "toy_world.py", "--plugin", HERE / "toy_judges.py")
TRAIN = (
    *TOYS, "--model", "toy", "--device", "cpu", "--tracker", "none", "--image-count", 2, "--epochs", 6,
    "--samples-per-epoch", 16, "--sample-batch-size", 16, "--updates-per-epoch", 2, "--learning-rate", 0.05,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of six epochs towards brightness, on letters."""
    from ddpo_cli.main import main
    from ddpo_core.discovery import registry

    folder = tmp_path_factory.mktemp("trained") / "bright"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPO_ONLY", "")
        registry.cache_clear()
        flags = ("train", "--reward", "brightness", "--prompts", "letters", "--out", folder, *TRAIN)
        assert main([str(flag) for flag in flags]) == 0
    registry.cache_clear()
    return folder


@pytest.fixture
def run(ddpo, trained):
    """That run, in the present folder."""
    shutil.copytree(trained, "bright")
    return "bright"


def lines(folder):
    return list(csv.DictReader(Path(folder, "eval.csv").open()))


def only(folder, **wanted):
    (line,) = [line for line in lines(folder) if all(line[key] == value for key, value in wanted.items())]
    return line


# --- which pictures ---------------------------------------------------------------------------------------


def test_groups_are_whole_and_prompts_come_once_while_there_are_more():
    letters = [Prompt(letter) for letter in "abcdefgh"]
    plan = plan_pictures("letters", letters, 10, 4, seed=0)
    texts = [prompt.text for prompt in plan.prompts]
    assert [texts[start : start + 4] for start in (0, 4, 8)] == [[texts[start]] * 4 for start in (0, 4, 8)]
    assert len(texts) == 12 and len(set(texts)) == 3
    assert len(set(plan.seeds)) == 12
    more = plan_pictures("letters", letters, 20, 1, seed=0)
    assert {texts.count(text) for texts in [[p.text for p in more.prompts]] for text in "abcdefgh"} == {2, 3}


def test_a_million_prompts_are_drawn_from_without_being_read():
    from ddpo_core.prompt_sets.pairs import object_pairs

    plan = plan_pictures("pairs", object_pairs(), 64, 1, seed=1)
    assert len({prompt.text for prompt in plan.prompts}) == 64


# --- a run ------------------------------------------------------------------------------------------------


def test_a_run_is_compared_with_its_base_on_seen_and_held_out_prompts(ddpo, run):
    done = ddpo("eval", run, "--samples", 8, "--device", "cpu", "--plugin", HERE / "toy_judges.py")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-3:] == [f"bright/eval/eval.{kind}" for kind in ("csv", "json", "html")]
    assert {line["prompts"] for line in lines("bright/eval")} == {"letters", "letters,split=held_out"}
    before = only("bright/eval", prompts="letters", reward="brightness", model="base")
    after = only("bright/eval", prompts="letters", reward="brightness", model="bright")
    assert float(after["change"]) == pytest.approx(float(after["mean"]) - float(before["mean"]))
    assert float(after["change"]) > 0
    assert 0 < float(after["change_stderr"]) < float(after["stderr"])  # pairs tell more
    assert (before["change"], after["epoch"]) == ("", "6")


def test_what_cannot_be_built_is_listed_with_its_reason_and_stops_nothing(ddpo, run):
    done = ddpo("eval", run, "--samples", 4, "--device", "cpu")
    assert "not scored: absent: the weights of absent are not here (fetch them)" in done.out
    record = json.loads(Path("bright/eval/eval.json").read_text())
    assert {"reward": "absent", "reason": "the weights of absent are not here (fetch them)"} in (
        record["not_scored"]
    )
    refused = ddpo("eval", run, "--samples", 4, "--device", "cpu", "--reward", "absent")
    assert refused.code == 3 and "the weights of absent are not here" in refused.err


def test_a_judge_that_fails_is_fatal_where_it_was_named(ddpo, run):
    done = ddpo("eval", run, "--samples", 4, "--device", "cpu", "--reward", "picky,crash=true")
    assert done.code == 1 and "the judge has left the room" in done.err


def test_pictures_without_a_score_are_counted_and_left_out(ddpo, run):
    done = ddpo(
        "eval", run, "--samples", 8, "--device", "cpu", "--reward", "picky", "--prompts", "letters",
        "--out", "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    line = only("out", model="bright")
    assert (line["failures"], line["count"]) == ("4", "4")
    assert "4 failed" in done.out


def test_groups_are_judged_together_and_count_once(ddpo, run):
    done = ddpo(
        "eval", run, "--samples", 8, "--device", "cpu", "--reward", "spread", "--reward", "brightness",
        "--prompts", "letters", "--out", "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    spread = only("out", reward="spread", statistic="", model="bright")
    assert spread["count"] == "2"  # groups of four
    assert only("out", reward="spread", statistic="size", model="bright")["mean"] == "4.0"
    assert only("out", reward="brightness", model="bright")["count"] == "8"
    record = json.loads(Path("out/eval.json").read_text())
    (row,) = [r for r in record["results"] if r["reward"] == "spread" and not r["statistic"]]
    assert len(row["models"]["bright"]["units"]) == 2


def test_a_rewards_numbers_do_not_depend_on_which_others_are_asked(ddpo, run):
    common = ("eval", run, "--samples", 8, "--device", "cpu", "--prompts", "letters")
    ddpo(*common, "--reward", "brightness", "--out", "one")
    ddpo(*common, "--reward", "spread", "--reward", "brightness", "--batch-size", 3, "--out", "two")
    one, two = (only(out, reward="brightness", model="bright") for out in ("one", "two"))
    assert float(one["mean"]) == pytest.approx(float(two["mean"]), abs=1e-7)


def test_the_base_column_is_the_model_itself(ddpo, run):
    ddpo("eval", run, "--samples", 4, "--device", "cpu", "--reward", "brightness", "--prompts", "letters")
    ddpo(
        "eval",
        "toy",
        *TOYS,
        "--samples",
        4,
        "--device",
        "cpu",
        "--reward",
        "brightness",
        "--prompts",
        "letters",
    )
    of_run, of_model = only("bright/eval", model="base"), only("eval", model="base")
    assert of_run["mean"] == of_model["mean"]


def test_a_negative_weight_wants_less(ddpo, run):
    ddpo("eval", run, "--samples", 64, "--device", "cpu", "--reward", "brightness:-1", "--prompts", "letters")
    record = json.loads(Path("bright/eval/eval.json").read_text())
    assert record["results"][0]["wanted"] == "lower"
    assert 'class="delta bad"' in Path("bright/eval/eval.html").read_text()


def test_the_page_is_whole_and_shows_captions_boxes_and_both_pictures(ddpo, run, checked):
    ddpo("eval", run, "--samples", 4, "--device", "cpu", "--reward", "describes", "--prompts", "letters")
    page = Path("bright/eval/eval.html").read_text()
    checker = checked(page)
    assert checker.fetched == [] and "script" not in checker.tags
    assert len(checker.images) == 4 * 2
    assert page.count('<rect class="box" x="80.0" y="80.0" width="160.0" height="160.0"/>') == 8
    assert "&lt;b&gt;" in page and "prefers-color-scheme: dark" in page


def test_sources_that_cannot_be_compared_are_refused(ddpo, run):
    ddpo("train", "--reward", "brightness", "--num-steps", 3, "--out", "other", *TRAIN)
    done = ddpo("eval", run, "other", "--device", "cpu")
    assert done.code == 2
    assert "bright and other cannot be compared: num_steps is 4 in one and 3 in the other" in done.err
    assert "--num-steps" in done.err
    assert ddpo("eval", run, "toy").code == 2
    assert "--epoch belongs to a run" in ddpo("eval", "toy", *TOYS, "--epoch", 1).err
    assert "has no checkpoint of epoch 9; kept: 5, 6" in ddpo("eval", run, "--epoch", 9).err


# --- several runs -----------------------------------------------------------------------------------------


def test_several_runs_are_told_as_shares_of_the_specialists(ddpo, run, checked):
    ddpo("train", "--reward", "describes", "--prompts", "letters", "--out", "red", *TRAIN)
    ddpo(
        "train",
        "--reward",
        "describes",
        "--reward",
        "brightness",
        "--prompts",
        "letters",
        "--out",
        "joint",
        *TRAIN,
    )
    done = ddpo(
        "eval", "joint", "red", "bright", "--reward", "describes", "--reward", "brightness",
        "--samples", 8, "--device", "cpu", "--prompts", "letters",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {line["model"] for line in lines("eval")} == {"base", "joint", "red", "bright"}
    joint = only("eval", reward="brightness", model="joint")
    assert joint["specialist"] == "bright"
    mean = {
        name: float(only("eval", reward="brightness", model=name)["mean"])
        for name in ("base", "joint", "bright")
    }
    assert float(joint["raw_share"]) == pytest.approx(mean["joint"] / mean["bright"])
    gain = (mean["joint"] - mean["base"]) / (mean["bright"] - mean["base"])
    assert float(joint["gain_share"]) == pytest.approx(gain)
    assert float(joint["gain_share_stderr"]) > 0
    own = only("eval", reward="brightness", model="bright")
    assert (own["raw_share"], own["raw_share_stderr"]) == ("1.0", "0.0")
    checked(Path("eval/eval.html").read_text())


def test_without_a_run_of_that_reward_alone_the_best_is_the_specialist():
    units = {name: np.full(4, value) for name, value in {BASE: 1.0, "a": 2.0, "b": 3.0}.items()}
    row = Row("p", "r", "r", "", "", 1, units, {})
    columns = [Column(BASE), Column("a", 1, "a", ("x",)), Column("b", 1, "b", ("y",))]
    shares = Matrix(columns, [], rows=[row]).shares()
    assert [(share.specialist, share.alone, share.gain.mean) for share in shares] == [
        ("b", False, 0.5),
        ("b", False, 1.0),
    ]
