"""Every checkpoint and every page says who gave which score; resuming with others names the difference."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
from PIL import Image

import ddpo_core
from ddpo_cli import givers
from ddpo_cli.run_folder import RunFolder
from ddpo_core.config import provenance

HERE = Path(__file__).parent
TOY = (
    "--plugin", HERE / "toy_world.py", "--model", "toy", "--device", "cpu", "--tracker", "none",
    "--image-count", 2, "--samples-per-epoch", 8, "--sample-batch-size", 4, "--updates-per-epoch", 2,
    "--images-every", 0,
)  # fmt: skip
REWARD = "ddpo-reward-brightness/brightness:1,gamma=2,as=glow"


@pytest.fixture
def package(ddpo, install):
    """The folder of a third party's package, installed so that it can be edited."""
    return install("good") / "ddpo_reward_brightness"


@pytest.fixture
def run(ddpo, package):
    """A run of one epoch with it."""
    done = ddpo("train", "--reward", REWARD, "--epochs", 1, "--out", "run", *TOY)
    assert done.code == 0, done.err
    return RunFolder(Path("run"))


def edit(package, comment="# another formula"):
    with (package / "reward.py").open("a") as file:
        file.write(f"{comment}\n")


# ---- the record -----------------------------------------------------------------------------------------


def test_a_checkpoint_has_the_record_of_the_run_it_is_of(run):
    record = run.checkpoint_plugins(1)
    assert record == json.loads(run.plugins.read_text())
    part = record["rewards"]["glow"]
    assert (part["name"], part["distribution"], part["version"]) == (
        "brightness", "ddpo-reward-brightness", "0.3.0",
    )  # fmt: skip
    assert len(part["files"]) == 64 and part["options"] == {"gamma": 2}
    assert (part["on_error"], part["tries"], part["time_limit"]) == ("raise", 1, None)


def test_the_hash_of_a_package_follows_every_file_of_it_but_bytecode(package):
    def edited(name, text):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
        return provenance.package_hash("ddpo_reward_brightness")

    before = provenance.package_hash("ddpo_reward_brightness")
    assert provenance.package_hash("ddpo_reward_brightness:somewhere") == before
    assert edited("__pycache__/reward.cpython-311.pyc", "x") == before
    words = edited("words.txt", "red")
    code = edited("inner/more.py", "a = 1")
    assert len({before, words, code, edited("inner/more.py", "a = 2")}) == 4


def test_a_lone_module_and_a_namespace_package_are_hashed_and_a_loose_file_has_its_version(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lone_reward.py").write_text("a = 1")
    (tmp_path / "their_company" / "their_reward").mkdir(parents=True)
    (tmp_path / "their_company" / "their_reward" / "__init__.py").write_text("")
    (tmp_path / "their_company" / "unrelated.py").write_text("a = 1")
    lone, inside = (provenance.package_hash(name) for name in ("lone_reward", "their_company.their_reward"))
    (tmp_path / "their_company" / "unrelated.py").write_text("a = 2")
    assert provenance.package_hash("their_company.their_reward") == inside
    (tmp_path / "lone_reward.py").write_text("a = 2")
    assert provenance.package_hash("lone_reward") != lone
    assert provenance.package_hash(str(tmp_path / "lone_reward.py")) == ""
    assert provenance.package_hash("not_installed_at_all") == ""


# ---- going on -------------------------------------------------------------------------------------------


def test_an_edited_package_of_the_same_version_is_refused_by_name(ddpo, run, package):
    was = run.checkpoint_plugins(1)["rewards"]["glow"]["files"][:12]
    edit(package)
    refused = ddpo("train", "--resume", "run", "--epochs", 2)
    assert refused.code == 2
    assert "this run was made with other plugins" in refused.err
    assert f"reward glow: hash of its files was {was}, is " in refused.err
    assert "--allow-plugin-change" in refused.err
    assert len(run.read_metrics()) == 1


def test_where_it_is_allowed_the_difference_is_warned_of_and_kept_with_its_epoch(ddpo, run, package):
    edit(package)
    done = ddpo("train", "--resume", "run", "--epochs", 2, "--allow-plugin-change")
    assert done.code == 0
    assert "warning: this run goes on with other plugins than it had" in done.err
    assert "reward glow: hash of its files was" in done.err
    (change,) = run.checkpoint_plugins(2)["changes"]
    assert change["after_epoch"] == 1 and "reward glow: hash of its files" in change["what"][0]
    page = run.report.read_text()
    assert "After epoch 1 the run went on with other plugins." in page and change["what"][0] in page
    again = ddpo("train", "--resume", "run", "--epochs", 3)  # as it is now, it is no change any more
    assert again.code == 0 and "warning" not in again.err
    assert run.checkpoint_plugins(3)["changes"] == [change]


def killed_before_it_saved(run):
    """What a resumed run leaves that was killed before its first checkpoint: its record, and nothing else."""
    saved = run.checkpoint_plugins(1)
    shutil.rmtree(run.checkpoint(2))
    run.truncate_metrics(1)
    return saved


def test_a_change_that_was_allowed_and_never_saved_is_asked_for_again(ddpo, run, package):
    edit(package)
    ddpo("train", "--resume", "run", "--epochs", 2, "--allow-plugin-change")
    saved = killed_before_it_saved(run)
    assert json.loads(run.plugins.read_text())["rewards"] != saved["rewards"]
    refused = ddpo("train", "--resume", "run", "--epochs", 2)
    assert refused.code == 2
    assert f"was {saved['rewards']['glow']['files'][:12]}, is " in refused.err
    allowed = ddpo("train", "--resume", "run", "--epochs", 2, "--allow-plugin-change")
    assert allowed.code == 0 and "warning" in allowed.err
    assert len(run.checkpoint_plugins(2)["changes"]) == 1


def test_going_back_to_what_the_checkpoint_had_is_told_and_is_no_change_of_the_run(ddpo, run, package):
    text = (package / "reward.py").read_text()
    edit(package)
    ddpo("train", "--resume", "run", "--epochs", 2, "--allow-plugin-change")
    killed_before_it_saved(run)
    (package / "reward.py").write_text(text)
    refused = ddpo("train", "--resume", "run", "--epochs", 2)
    assert refused.code == 2 and "(since the checkpoint of epoch 1)" in refused.err
    assert ddpo("train", "--resume", "run", "--epochs", 2, "--allow-plugin-change").code == 0
    assert "changes" not in run.checkpoint_plugins(2)


def test_what_an_older_record_does_not_know_is_not_compared(ddpo, run, package):
    for place in (run.plugins, run.checkpoint(1) / "plugins.json"):
        record = json.loads(place.read_text())
        del record["rewards"]["glow"]["files"]
        place.write_text(json.dumps(record))
    edit(package)
    assert ddpo("train", "--resume", "run", "--epochs", 2).code == 0


def test_a_checkpoint_of_an_older_ddpo_goes_by_the_record_of_its_run(ddpo, run, package):
    (run.checkpoint(1) / "plugins.json").unlink()
    edit(package)
    assert ddpo("train", "--resume", "run", "--epochs", 2).code == 2


@pytest.mark.parametrize(
    ("was", "is_now", "told"),
    [
        ({"version": "1"}, {"version": "2"}, ["reward a: version was 1, is 2"]),
        ({"distribution": "d"}, {"distribution": ""}, ["reward a: distribution was d, is unknown"]),
        (
            {"weights": {"clip": "ab" * 32, "head": "ee" * 32}},
            {"weights": {"clip": "cd" * 32, "head": "ee" * 32}},
            ["reward a: hash of weights was clip abababababab, is clip cdcdcdcdcdcd"],
        ),
        ({"weights": {"clip": "ab" * 32}}, {"weights": {}}, []),
        ({"files": "ab" * 32}, {"files": "ab" * 32}, []),
    ],
)
def test_differences_are_named_in_one_line_each(was, is_now, told):
    assert list(provenance.changes({"rewards": {"a": was}}, {"rewards": {"a": is_now}})) == told


def test_a_checkpoint_that_python_wrote_has_it_and_going_on_with_others_warns_by_name(package, tmp_path):
    def run(epochs, **more):
        settings = {"samples_per_epoch": 8, "sample_batch_size": 4, "updates_per_epoch": 2, "device": "cpu"}
        settings |= {"plugin": str(HERE / "toy_world.py"), "model": "toy", "epochs": epochs}
        for epoch in ddpo_core.train({"glow": "bright:2", "mine": (mean, 0.5)}, **settings, **more):
            epoch.checkpoint(tmp_path / "kept")

    def mean(images, prompts):
        return images.mean((1, 2, 3))

    run(1)
    part = json.loads((tmp_path / "kept" / "epoch-000001" / "plugins.json").read_text())["rewards"]
    assert part["glow"]["distribution"] == "ddpo-reward-brightness" and len(part["glow"]["files"]) == 64
    assert (part["mine"]["version"], part["mine"]["files"]) == ("", "")
    edit(package)
    with pytest.warns(UserWarning, match="reward glow: hash of its files was"):
        run(2, resume=tmp_path / "kept")
    record = json.loads((tmp_path / "kept" / "epoch-000002" / "plugins.json").read_text())
    assert [change["after_epoch"] for change in record["changes"]] == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(3, resume=tmp_path / "kept")


# ---- pages and JSON -------------------------------------------------------------------------------------


def test_the_report_has_a_row_for_each_reward(run):
    part = run.checkpoint_plugins(1)["rewards"]["glow"]
    page = run.report.read_text()
    assert "Who gave which score" in page
    for text in ("ddpo-reward-brightness 0.3.0", part["files"][:12], "gamma=2"):
        assert text in page
    assert part["files"] not in page  # short


def test_weights_that_options_name_are_told_with_their_hash(tmp_path):
    (tmp_path / "head.bin").write_bytes(b"weights")
    options = {"head": str(tmp_path / "head.bin"), "size": 3}
    found = dict(provenance._judges(options))
    assert found == {
        "head": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    }  # printf weights | sha256sum
    part = {"name": "a", "distribution": "d", "version": "1", "weights": found, "options": options}
    (giver,) = givers.rows({"a": part})
    assert giver.weights == ["head 9a129038d9a0"]
    assert giver.options[1] == "size=3"


def test_eval_and_score_tell_it_too(ddpo, run, tmp_path):
    Image.new("L", (8, 8), 51).save(tmp_path / "a.png")
    flags = ("--images", tmp_path / "a.png", "--json", "--html", "page.html")
    done = ddpo("rewards", "score", REWARD, *flags)
    told = json.loads(done.out)["provenance"]
    assert (told["distribution"], told["version"]) == ("ddpo-reward-brightness", "0.3.0")
    assert told["files"][:12] in Path("page.html").read_text()
    done = ddpo("eval", "run", "--samples", 4, "--reward", REWARD, "--device", "cpu", "--out", "eval")
    assert done.code == 0, done.err
    assert json.loads(Path("eval/eval.json").read_text())["provenance"]["glow"]["files"] == told["files"]
    assert told["files"][:12] in Path("eval/eval.html").read_text()
