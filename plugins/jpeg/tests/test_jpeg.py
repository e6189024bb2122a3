"""The score is the byte count of a JPEG file, whatever the batch, the dtype and the number of threads."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from ddpo_reward_jpeg import ddpo_rewards
from ddpo_reward_jpeg.reward import Compressibility, Incompressibility, to_uint8
from PIL import Image

from ddpo_core import Prompt, RewardError, UsageError
from ddpo_core.testing import check_reward

INFOS = {info.name: info for info in ddpo_rewards()}


def pictures(count: int, size: int = 48) -> torch.Tensor:
    """Pictures [count, 3, size, size] that grow noisier one by one."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, 3, size, size, generator=generator)
    strength = torch.linspace(0, 1, count).view(-1, 1, 1, 1)
    return 0.5 + strength * (noise - 0.5)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"picture {index}") for index in range(count)]


def score(reward, images) -> list[float]:
    return reward(images, prompts(len(images)))


def bytes_by_pillow(image: torch.Tensor, **options: int) -> int:
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return len(file.getvalue())


@pytest.mark.parametrize("quality", [1, 50, 95, 100])
def test_the_score_is_pillows_byte_count_over_a_thousand(quality):
    images = pictures(4)
    expected = [bytes_by_pillow(image, quality=quality) / 1000 for image in images]
    assert score(Incompressibility(quality=quality), images) == expected


def test_compressibility_is_the_negation_at_quality_95():
    images = pictures(3)
    assert score(Compressibility(), images) == [
        -bytes_by_pillow(image, quality=95) / 1000 for image in images
    ]


def test_a_flat_picture_is_more_compressible_than_noise():
    scores = score(Compressibility(), pictures(6))
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 2 * scores[-1] / 3 > scores[-1]


def test_pixels_are_rounded_and_clamped_not_truncated():
    levels = torch.tensor([-0.3, 0.4 / 255, 0.6 / 255, 127.6 / 255, 254.6 / 255, 1.7])
    assert to_uint8(levels.numpy()).tolist() == [0, 0, 1, 128, 255, 255]


def test_every_8_bit_level_survives_the_way_through_floats():
    levels = np.arange(256, dtype=np.uint8)
    assert (to_uint8(levels.astype(np.float32) / np.float32(255)) == levels).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_agree_where_they_can_hold_the_picture(dtype):
    levels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    levels[..., 16:] = 255
    images = levels.to(dtype) if not dtype.is_floating_point else (levels / 255).to(dtype)
    assert score(Incompressibility(), images) == score(Incompressibility(), levels / 255)


def test_numpy_arrays_and_tensors_score_alike():
    images = pictures(3)
    assert score(Incompressibility(), images.numpy()) == score(Incompressibility(), images.requires_grad_())


def test_scores_depend_neither_on_batch_nor_order_nor_threads():
    images = pictures(9)
    serial = score(Incompressibility(threads=1), images)
    assert score(Incompressibility(threads=4), images) == serial
    assert score(Incompressibility(), images.flip(0)) == serial[::-1]
    assert [score(Incompressibility(), images[i : i + 1])[0] for i in range(9)] == serial
    assert score(Incompressibility(), images[:0]) == []


def test_resize_encodes_a_square_of_that_side():
    flat = torch.full((1, 3, 20, 40), 0.5)
    square = torch.full((1, 3, 64, 64), 0.5)
    assert score(Incompressibility(resize=64), flat) == score(Incompressibility(), square)


@pytest.mark.parametrize("options", [{"quality": 0}, {"quality": 101}, {"resize": 0}, {"threads": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match="expects"):
        Compressibility(**options)


def test_wrong_shapes_and_broken_pictures_raise_instead_of_scoring():
    with pytest.raises(RewardError, match=r"expects images \[B, 3, H, W\], got \[2, 8, 8, 3\]"):
        score(Compressibility(), torch.zeros(2, 8, 8, 3))
    images = pictures(3)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(RewardError, match="in image 1"):
        score(Compressibility(), images)


@pytest.mark.parametrize(
    ("name", "factory"), [("jpeg", Compressibility), ("incompressibility", Incompressibility)]
)
def test_both_rewards_keep_the_contract(name, factory):
    check_reward(factory(), INFOS[name])
    assert INFOS[name].factory == f"{factory.__module__}:{factory.__name__}"


def test_the_alias_of_the_paper_is_registered():
    assert INFOS["jpeg"].aliases == ("compressibility",)
    assert {option.name: option.default for option in INFOS["jpeg"].options} == {
        "quality": 95,
        "resize": None,
        "threads": None,
    }


def test_metadata_imports_neither_numpy_nor_pillow_nor_torch():
    code = "import sys, ddpo_reward_jpeg; print(sorted({'numpy', 'PIL', 'torch'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_the_reward_itself_runs_without_torch():
    code = (
        "import sys, numpy\n"
        "from ddpo_reward_jpeg.reward import Compressibility\n"
        "assert Compressibility()(numpy.zeros((1, 3, 8, 8)), [])[0] < 0\n"
        "print('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "False"
