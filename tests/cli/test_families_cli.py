"""`ddpo train --model FOLDER` for every family: all that is said is the folder."""

from pathlib import Path

import pytest

from ddpo_cli.run_folder import RunFolder

TOY_WORLD = Path(__file__).parent / "toy_world.py"
RUN = (
    "--reward", "brightness", "--plugin", TOY_WORLD, "--prompt", "a cat", "--device", "cpu",
    "--tracker", "none", "--image-count", 2, "--samples-per-epoch", 8, "--sample-batch-size", 4,
    "--num-steps", 2, "--epochs", 2, "--lora-rank", 2, "--out", "run",
)  # fmt: skip


@pytest.mark.parametrize(
    ("fixture", "family", "options", "estimator", "sampler"),
    [
        ("tiny_pipeline", "stable-diffusion", "", "ddpo-is", "ddim"),
        ("tiny_pipeline", "stable-diffusion", "", "rwr", "ddim"),
        ("tiny_sdxl", "sdxl", "", "grpo", "ddim"),
        ("tiny_sdxl", "sdxl", "", "nft", "ddim"),
        ("tiny_sd3", "sd3", ",max_sequence_length=12", "ddpo-is", "flow-sde"),
        ("tiny_sd3", "sd3", ",max_sequence_length=12", "awm", "flow-ode"),
        ("tiny_flux", "flux", ",max_sequence_length=12,size=16", "ddpo-is", "flow-sde"),
        ("tiny_flux", "flux", ",max_sequence_length=12,size=16", "nft", "flow-ode"),
    ],
)
def test_two_epochs_of_a_family(ddpo, request, fixture, family, options, estimator, sampler):
    folder = request.getfixturevalue(fixture)
    model = f"{family},pretrained={folder}{options}" if options else folder
    done = ddpo("train", "--model", model, "--estimator", estimator, *RUN)
    assert done.code == 0, done.err
    run = RunFolder(Path("run"))
    config = run.config.read_text()
    assert f'model = "{family},' in config and f'sampler = "{sampler}"' in config
    first, second = run.read_metrics()
    assert first["self_check/ratio_error"] <= 1e-6
    assert second["grad_norm"] > 0
    assert any(run.adapter.iterdir())


def test_a_pretraining_step_is_taken_once_an_epoch(ddpo, tiny_pipeline, tmp_path):
    from PIL import Image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, colour in (("one", "red"), ("two", "blue")):
        Image.new("RGB", (20, 24), colour).save(pictures / f"{name}.png")
        (pictures / f"{name}.txt").write_text(f"a {colour} square")
    flags = ("--pretrain", pictures, "--pretrain-batch-size", 4, "--pretrain-weight", 0.5)
    done = ddpo("train", "--model", tiny_pipeline, *flags, *RUN)
    assert done.code == 0, done.err
    for line in RunFolder(Path("run")).read_metrics():
        assert line["pretraining/loss"] == pytest.approx(0.5 * line["pretraining/denoising_error"])
        assert line["seconds/pretraining"] > 0


def test_pictures_that_are_not_there_are_known_before_the_model_is_loaded(ddpo, tiny_pipeline):
    done = ddpo("train", "--model", tiny_pipeline, "--pretrain", "nowhere", *RUN)
    assert done.code == 2
    assert "there is no file or folder nowhere" in done.err
    assert not Path("run").exists()
