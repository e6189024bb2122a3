"""`ddpo train` and `ddpo sample` from the shell to the folder, on a toy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from ddpo_cli.run_folder import RunFolder

TOY_WORLD = Path(__file__).parent / "toy_world.py"
TOY = (
    "--plugin", TOY_WORLD, "--model", "toy", "--device", "cpu", "--tracker", "none", "--image-count", 3,
    "--samples-per-epoch", 8, "--sample-batch-size", 4, "--updates-per-epoch", 2,
)  # fmt: skip


def timeless(folder):
    """The metrics, without the clock and without the check that a resumed run repeats."""
    passing = ("seconds/", "self_check/")
    return [
        {key: value for key, value in line.items() if not key.startswith(passing)}
        for line in RunFolder(Path(folder)).read_metrics()
    ]


def weights(folder):
    (file,) = Path(folder, "adapter").iterdir()
    return {name: tensor.tolist() for name, tensor in load_file(file).items()}


def test_a_run_leaves_the_whole_folder(ddpo):
    done = ddpo("train", "--reward", "brightness", "--epochs", 2, "--images-every", 1, "--out", "run", *TOY)
    assert done.code == 0, done.err
    assert "adapter  run/adapter" in done.out
    kept = sorted(str(path.relative_to("run")) for path in Path("run").rglob("*") if path.is_file())
    assert kept == [
        "adapter/diffusion_pytorch_model.safetensors",
        "checkpoints/epoch-000002/optimizer.pt",
        "checkpoints/epoch-000002/plugins.json",
        "checkpoints/epoch-000002/state.json",
        "checkpoints/epoch-000002/weights.safetensors",
        "config.toml",
        "images/epoch-000000.png",
        "images/epoch-000001.png",
        "images/epoch-000002.png",
        "images/grid.json",
        "metrics.jsonl",
        "plugins.json",
        "records/epoch-000000.json",
        "records/epoch-000001.json",
        "records/epoch-000002.json",
        "report.html",
    ]
    lines = [line for line in done.err.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2 and "brightness" in lines[0]


def test_metrics_have_what_is_promised(ddpo):
    ddpo(
        "train",
        "--reward",
        "brightness",
        "--watch",
        "brightness,gamma=2,as=dark",
        "--epochs",
        1,
        "--out",
        "run",
        *TOY,
    )
    (line,) = RunFolder(Path("run")).read_metrics()
    promised = {"epoch", "reward_queries", "loss", "approx_kl", "clip_fraction", "grad_norm"}
    promised |= {
        f"reward/{label}/{what}" for label in ("brightness", "dark") for what in ("mean", "stderr", "share")
    }
    promised |= {f"seconds/{phase}" for phase in ("rollout", "scores", "update")}
    assert promised <= set(line)
    assert (line["reward/brightness/share"], line["reward/dark/share"]) == (1.0, 0.0)


def test_a_run_that_died_between_checkpoints_goes_on_to_the_same_end(ddpo, monkeypatch):
    settings = ("--reward", "stops", "--epochs", 4, "--checkpoint-every", 2, *TOY)
    assert ddpo("train", *settings, "--out", "whole").code == 0
    monkeypatch.setenv("TOY_CRASH_AT", "8")  # the grid, two calls an epoch: in the middle of epoch 4
    died = ddpo("train", *settings, "--out", "killed")
    assert died.code == 1 and "the judge has left the room" in died.err
    monkeypatch.delenv("TOY_CRASH_AT")
    with Path("killed/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "torn')
    assert RunFolder(Path("killed")).latest_checkpoint() == 2
    assert len(RunFolder(Path("killed")).read_metrics()) == 3
    resumed = ddpo("train", "--resume", "killed")
    assert resumed.code == 0, resumed.err
    assert timeless("killed") == timeless("whole")
    assert weights("killed") == weights("whole")


def test_a_run_that_died_before_its_first_checkpoint_begins_again(ddpo, monkeypatch):
    settings = ("--reward", "stops", "--epochs", 2, *TOY)
    ddpo("train", *settings, "--out", "whole")
    monkeypatch.setenv("TOY_CRASH_AT", "3")
    assert ddpo("train", *settings, "--out", "killed").code == 1
    monkeypatch.delenv("TOY_CRASH_AT")
    assert ddpo("train", "--resume", "killed").code == 0
    assert timeless("killed") == timeless("whole")


def test_a_run_that_died_after_its_last_checkpoint_still_gets_its_adapter(ddpo):
    ddpo("train", "--reward", "brightness", "--epochs", 2, "--out", "run", *TOY)
    trained = weights("run")
    for lost in (*Path("run/adapter").iterdir(), Path("run/report.html")):
        lost.unlink()
    assert ddpo("train", "--resume", "run").code == 0
    assert weights("run") == trained
    assert Path("run/report.html").is_file()


def test_ctrl_c_finishes_the_epoch_saves_and_says_how_to_go_on(ddpo, monkeypatch):
    monkeypatch.setenv("TOY_CTRL_C_AT", "4")  # the grid, two calls an epoch: in the middle of epoch 2
    done = ddpo("train", "--reward", "stops", "--epochs", 9, "--out", "run", *TOY)
    assert done.code == 130
    assert "Ctrl-C again stops at once" in done.err
    assert "Stopped after epoch 2 of 9, saved. To go on: ddpo train --resume run" in done.err
    assert RunFolder(Path("run")).checkpoint_epochs() == [2]
    assert Path("run/report.html").is_file()


def test_epochs_may_be_raised_and_nothing_that_changes_numbers(ddpo):
    ddpo("train", "--reward", "brightness", "--epochs", 1, "--out", "run", *TOY)
    refused = ddpo("train", "--resume", "run", "--learning-rate", 0.5)
    assert refused.code == 2
    assert "--learning-rate: a resumed run keeps what it began with, 0.01; got 0.5" in refused.err
    assert "ddpo train --config run/config.toml --learning-rate" in refused.err
    assert ddpo("train", "--resume", "run", "--epochs", 2).code == 0
    assert len(RunFolder(Path("run")).read_metrics()) == 2
    lowered = ddpo("train", "--resume", "run", "--epochs", 1)
    assert lowered.code == 2 and "has done 2 already" in lowered.err


def test_other_plugins_are_refused_unless_allowed(ddpo):
    ddpo("train", "--reward", "brightness", "--epochs", 1, "--out", "run", *TOY)
    record = json.loads(Path("run/plugins.json").read_text())
    record["rewards"]["brightness"]["version"] = "0.0.1"
    Path("run/plugins.json").write_text(json.dumps(record))
    refused = ddpo("train", "--resume", "run", "--epochs", 2)
    assert refused.code == 2
    assert "reward brightness: version was 0.0.1, is sha256:" in refused.err
    assert ddpo("train", "--resume", "run", "--epochs", 2, "--allow-plugin-change").code == 0


def test_a_folder_in_use_is_refused_with_what_to_type(ddpo):
    ddpo("train", "--reward", "brightness", "--epochs", 1, "--out", "run", *TOY)
    again = ddpo("train", "--reward", "brightness", "--epochs", 1, "--out", "run", *TOY)
    assert again.code == 2
    assert "hint:  to go on with that run: ddpo train --resume run" in again.err


def test_the_config_of_a_run_runs_it_again(ddpo):
    ddpo("train", "--reward", "brightness", "--epochs", 1, "--out", "first", *TOY)
    assert ddpo("train", "--config", "first/config.toml", "--out", "second").code == 0
    assert timeless("first") == timeless("second")


def test_the_dry_run_counts_and_writes_nothing(ddpo):
    done = ddpo(
        "train", "--reward", "brightness", "--epochs", 3, "--guidance-scale", 2, "--dry-run", "--json", *TOY
    )
    assert done.code == 0, done.err
    plan = json.loads(done.out)["plan"]
    # 8 samples × 4 steps × 2 for guidance = 64 passes an epoch
    assert plan["per_epoch"] == {"sampling": 64, "training": 64}
    assert plan["in_all"] == {"sampling": 192, "training": 192}
    assert (plan["samples"], plan["updates"], plan["samples_per_update"]) == (24, 6, 4)
    assert list(Path().iterdir()) == []


def test_the_dry_run_tells_every_default_and_who_chose_it(ddpo):
    done = ddpo("train", "--reward", "brightness", "--dry-run", *TOY)
    rows = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    assert rows["sampler"].split() == ["sampler", "ddim", "default"]
    assert rows["num_steps"].split() == ["num_steps", "4", "model", "toy"]
    assert rows["samples_per_epoch"].split() == ["samples_per_epoch", "8", "flag"]


def test_the_dry_run_counts_a_lora_as_peft_does(ddpo, tiny_pipeline):
    from ddpo_core.denoisers.stable_diffusion import load

    flags = ("--reward", "brightness", "--plugin", TOY_WORLD, "--model", tiny_pipeline, "--dry-run", "--json")
    for targets in ("attention", "all"):
        denoiser = load(pretrained=str(tiny_pipeline))
        denoiser.adapt(lora_rank=3, lora_targets=(targets,))
        trained = sum(parameter.numel() for parameter in denoiser.trainable_parameters())
        done = ddpo("train", *flags, "--lora-rank", 3, "--lora-targets", targets, "--no-measure")
        assert json.loads(done.out)["plan"]["sizes"]["trainable_weights"] == trained


@pytest.mark.parametrize(
    ("estimator", "size", "latents"),
    [
        ("ddpo-is", 16, 6 * 4 * 8 * 8),  # five steps and the noise before them
        ("nft", 16, 4 * 8 * 8),  # the finished ones alone
        ("nft", 32, 4 * 16 * 16),
    ],
)
def test_the_dry_run_counts_the_trajectories_that_are_kept(ddpo, tiny_pipeline, estimator, size, latents):
    model = f"stable-diffusion,pretrained={tiny_pipeline},size={size}"
    done = ddpo(
        "train", "--reward", "brightness", "--plugin", TOY_WORLD, "--model", model, "--estimator", estimator,
        "--num-steps", 5, "--samples-per-epoch", 8, "--dry-run", "--json", "--no-measure",
    )  # fmt: skip
    assert json.loads(done.out)["plan"]["sizes"]["trajectory_bytes"] == 8 * 4 * (latents + 3 * size * size)


def test_a_failure_with_json_is_json(ddpo):
    done = ddpo("train", "--reward", "brightnes", "--dry-run", "--json", *TOY)
    assert done.code == 2
    assert json.loads(done.out)["error"]["kind"] == "UnknownName"


def test_samples_of_a_run_are_its_own_and_repeat(ddpo):
    ddpo("train", "--reward", "brightness", "--epochs", 2, "--learning-rate", 0.5, "--out", "run", *TOY)
    done = ddpo("sample", "run", "--prompt", "a cat", "-n", 2, "--seed", 7, "--device", "cpu")
    assert done.code == 0, done.err
    assert done.out.split() == ["samples/a-cat-7.png", "samples/a-cat-8.png"]
    ddpo("sample", "run", "--prompt", "a cat", "--seed", 8, "--out", "again", "--device", "cpu")
    assert Path("again/a-cat-8.png").read_bytes() == Path("samples/a-cat-8.png").read_bytes()
    ddpo(
        "sample", "run", "--prompt", "a cat", "--seed", 8, "--out", "before", "--epoch", 0, "--device", "cpu"
    )
    assert Image.open("before/a-cat-8.png").tobytes() != Image.open("again/a-cat-8.png").tobytes()


def test_samples_of_an_epoch_that_is_not_kept_say_which_are(ddpo):
    ddpo("train", "--reward", "brightness", "--epochs", 1, "--out", "run", *TOY)
    done = ddpo("sample", "run", "--prompt", "a cat", "--epoch", 7)
    assert done.code == 2 and "no checkpoint of epoch 7; kept: 1" in done.err


def test_a_dry_run_of_a_model_without_files_imports_no_torch(tmp_path):
    flags = ["--reward", "brightness", "--plugin", str(TOY_WORLD), "--model", "toy", "--dry-run"]
    program = (
        "import sys; from ddpo_cli.main import main; "
        f"main(['train', *{flags!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("flag", ["--config", "--preset", "--out"])
def test_resuming_takes_no_other_settings(ddpo, flag):
    ddpo("train", "--reward", "brightness", "--epochs", 1, "--out", "run", *TOY)
    done = ddpo("train", "--resume", "run", flag, "demo")
    assert done.code == 2 and "leave --config, --preset and --out out" in done.err
