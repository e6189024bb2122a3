"""The reward with a detector of known boxes, and the three kinds of real detector classes on small models."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from ddpo_reward_detector_compositionality import ddpo_rewards
from ddpo_reward_detector_compositionality.detectors import GroundingDino, Labelled, Owl, asked, load
from ddpo_reward_detector_compositionality.reward import DetectorCompositionality
from ddpo_reward_detector_compositionality.rules import Found

from ddpo_core import EnvironmentFault, Prompt, RewardError, UsageError
from ddpo_core.judges import to_pil
from ddpo_core.testing import check_reward, example_images

(INFO,) = ddpo_rewards()
TEXTS = ("a cat", "two wolves and a dog", "a red ball next to a person", "a cat, a dog and an owl", "a dog")
NAMES = [["cat"], ["wolf", "dog"], ["red ball", "person"], ["cat", "dog", "owl"], ["dog"]]


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(text) for text in texts]


class KnownBoxes:
    """Finds what its pictures' brightness says: a picture of grey level g shows `boxes[g]`."""

    overlap = 0.9

    def __init__(self, *boxes: list[Found]) -> None:
        self.boxes = boxes

    def __call__(self, pictures, names):
        levels = [picture.getpixel((0, 0))[0] for picture in pictures]
        return [
            [box for box in self.boxes[level] if box.name in some]
            for level, some in zip(levels, names, strict=True)
        ]


def grey(*levels: int) -> torch.Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, 8, 8) / 255


CAT_LEFT, DOG_RIGHT = Found("cat", 0.9, (0.0, 0.2, 0.4, 0.8)), Found("dog", 0.7, (0.6, 0.2, 1.0, 0.8))


def test_known_boxes_give_known_scores_and_records():
    reward = DetectorCompositionality(
        detector=KnownBoxes([CAT_LEFT, DOG_RIGHT], [CAT_LEFT], []),
        spatial="graded",
        count="exact",
        batch_size=2,
    )
    scores = reward(grey(0, 1, 2, 0), prompts(*["a cat left of a dog"] * 3, "two cats"))
    assert scores.values == pytest.approx([(0.8 + 1 + 1) / 3, (0.45 + 0.5 + 0) / 3, 0, (0.9 + 0) / 2])
    detail = json.loads(json.dumps(scores.details))[1]
    assert detail["objects"] == [
        {"name": "cat", "confidence": 0.9, "found": 1, "asked": 1},
        {"name": "dog", "confidence": 0.0, "found": 0, "asked": 1},
    ]
    assert detail["parts"] == {"presence": 0.45, "count": 0.5, "position": 0.0}
    assert detail["boxes"] == [{"label": "cat", "score": 0.9, "box": [0.0, 0.2, 0.4, 0.8]}]
    assert detail["caption"] == "cat 0.90, no dog"


def test_repeated_boxes_are_counted_once_from_the_overlap_asked_for():
    cats = [CAT_LEFT, Found("cat", 0.6, (0.1, 0.2, 0.5, 0.8))]  # IoU 0.6
    for overlap, found in ((None, 2), (0.5, 1)):
        reward = DetectorCompositionality(detector=KnownBoxes(cats), overlap=overlap)
        assert reward(grey(0), prompts("a cat")).details[0]["objects"][0]["found"] == found


def test_a_prompt_that_names_nothing_is_an_error_not_a_zero():
    with pytest.raises(RewardError, match="'sunset over there'") as caught:
        DetectorCompositionality(detector=KnownBoxes([]), vocabulary=["cat"])(
            grey(0), prompts("sunset over there")
        )
    assert "metadata" in caught.value.hint


@pytest.mark.parametrize("folder", ["owlv2", "owlvit", "grounding_dino"])
def test_open_vocabulary_rewards_keep_the_contract(folder, request):
    reward = DetectorCompositionality(weights=str(request.getfixturevalue(folder)), min_score=0, device="cpu")
    check_reward(reward, INFO)


def test_a_labelled_reward_keeps_the_contract(detr):
    reward = DetectorCompositionality(weights=str(detr), min_score=0, device="cpu")
    check_reward(reward, INFO, prompts=prompts("a cat", "two dogs", "a sofa and a bike", "a person", "a cat"))


@pytest.mark.parametrize("folder", ["owlv2", "owlvit", "grounding_dino"])
def test_neither_the_batch_nor_others_lists_of_names_change_a_box(folder, request):
    detector = load("zero-shot", str(request.getfixturevalue(folder)), min_score=0.0, device="cpu")
    pictures = to_pil(example_images(5, 48))
    together = detector(pictures, NAMES)
    assert {box.name for boxes in together for box in boxes} - {
        "cat",
        "dog",
        "wolf",
        "owl",
        "red ball",
        "person",
    } == set()
    for picture, names, boxes in zip(pictures, NAMES, together, strict=True):
        (alone,) = detector([picture], [names])
        assert best(alone, names) == pytest.approx(best(boxes, names), abs=2e-5)


def best(boxes: list[Found], names: list[str]) -> list[float]:
    return [max((box.score for box in boxes if box.name == name), default=0.0) for name in names]


@pytest.mark.parametrize("folder", ["owlv2", "owlvit"])
@pytest.mark.parametrize("shape", [(40, 40), (24, 48), (48, 24)])
def test_owls_boxes_are_those_of_its_own_post_processing(folder, shape, request):
    """With equally many names no query is a filling one, and transformers' own function is right."""
    detector = load("zero-shot", str(request.getfixturevalue(folder)), min_score=0.05, device="cpu")
    assert isinstance(detector, Owl)
    height, width = shape
    picture = to_pil(torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)))[0]
    (found,) = detector([picture], [["cat", "dog"]])
    processor, model = detector.network.processor, detector.network.model
    inputs = processor(text=[["a photo of a cat", "a photo of a dog"]], images=picture, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    (answer,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.05, target_sizes=[(height, width)], text_labels=[["cat", "dog"]]
    )
    assert found and len(found) == len(answer["scores"])
    sides = torch.tensor([width, height, width, height])
    expected = (answer["boxes"] / sides).clamp(0, 1)
    for name in ("cat", "dog"):
        mine = sorted((box.score, *box.box) for box in found if box.name == name)
        chosen = [place for place, label in enumerate(answer["text_labels"]) if label == name]
        theirs = torch.cat([answer["scores"][chosen, None], expected[chosen]], dim=1)
        assert torch.tensor(mine) == pytest.approx(torch.tensor(sorted(theirs.tolist())), abs=1e-5)


def test_grounding_dino_scores_a_name_by_its_own_tokens(grounding_dino):
    """By hand: the sentence is spelt letter by letter here, so tokens can be counted off."""
    detector = load("grounding-dino", str(grounding_dino), min_score=0.0, device="cpu")
    assert isinstance(detector, GroundingDino)
    picture = to_pil(example_images(1, 48))[0]
    (found,) = detector([picture], [["cat", "dog"]])
    processor, model = detector.network.processor, detector.network.model
    inputs = processor(images=picture, text="cat. dog.", return_tensors="pt")
    assert processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]) == [
        "[CLS]", "c", "##a", "##t", ".", "d", "##o", "##g", ".", "[SEP]",
    ]  # fmt: skip
    with torch.no_grad():
        scores = model(**inputs).logits[0].sigmoid()
    cat, dog = scores[:, 1:4].amax(1), scores[:, 5:8].amax(1)
    expected = [cat[cat >= dog].max().item() if (cat >= dog).any() else 0.0]
    expected += [dog[dog > cat].max().item() if (dog > cat).any() else 0.0]
    assert best(found, ["cat", "dog"]) == pytest.approx(expected, abs=1e-5)


def test_detr_scores_a_name_by_the_softmax_of_its_label(detr):
    detector = load("detr", str(detr), min_score=0.0, device="cpu")
    assert isinstance(detector, Labelled)
    picture = to_pil(example_images(2, 48))[1]
    (found,) = detector([picture], [["sofa", "cat"]])
    model, processor = detector.network.model, detector.network.processor
    with torch.no_grad():
        outputs = model(**processor(images=picture, return_tensors="pt"))
    scores, labels = outputs.logits[0].softmax(-1)[:, :-1].max(-1)
    expected = [max((scores[labels == label].tolist()), default=0.0) for label in (4, 2)]
    assert best(found, ["sofa", "cat"]) == pytest.approx(expected, abs=1e-5)


def test_a_name_that_the_labels_lack_is_an_error_with_the_nearest(detr):
    detector = load("detr", str(detr), device="cpu")
    pictures = to_pil(example_images(1, 48))
    for name in ("bike", "bicycles", "two", "cats"):
        if name == "two":
            with pytest.raises(RewardError, match="'two' is none of them"):
                detector(pictures, [[name]])
        else:
            detector(pictures, [[name]])
    with pytest.raises(RewardError, match=r"5 names, and 'coach'.*nearest: couch") as caught:
        detector(pictures, [["coach"]])
    assert "zero-shot" in caught.value.hint


def test_the_config_says_which_kind_of_detector_a_folder_is(owlv2, grounding_dino, detr):
    kinds = [type(load("zero-shot", str(folder), device="cpu")) for folder in (owlv2, grounding_dino, detr)]
    assert kinds == [Owl, GroundingDino, Labelled]


def test_one_copy_of_a_model_serves_all_rewards(owlv2):
    first, second = (DetectorCompositionality(weights=str(owlv2), device="cpu") for _ in range(2))
    assert first.detector.network is second.detector.network
    first.close()
    assert first.detector is None


def test_queries_take_a_name_with_or_without_its_article():
    assert asked("a photo of a {object}", "owl") == "a photo of a owl"
    assert asked("{a_object}, drawn", "owl") == "an owl, drawn"


def test_what_cannot_be_asked_or_loaded_is_refused(owlv2, detr, tmp_path):
    for query in ("an animal", "a {thing}", "a {object} {"):
        with pytest.raises(UsageError, match="expects query="):
            DetectorCompositionality(weights=str(owlv2), query=query, device="cpu")
    with pytest.raises(UsageError, match="takes no query="):
        DetectorCompositionality(weights=str(detr), query="{object}", device="cpu")
    with pytest.raises(UsageError, match="a list of names"):
        DetectorCompositionality(detector=KnownBoxes([]), vocabulary="cat")
    with pytest.raises(EnvironmentFault, match="does not hold the weights that weights= expects"):
        DetectorCompositionality(weights=str(tmp_path), device="cpu")
    with pytest.raises(EnvironmentFault, match="could not be fetched"):
        DetectorCompositionality(weights="nobody/nothing", device="cpu")


def test_every_option_is_an_argument_with_the_same_default():
    arguments = inspect.signature(DetectorCompositionality).parameters
    assert {option.name: option.default for option in INFO.options} == {
        name: argument.default for name, argument in arguments.items()
    }
    assert INFO.factory == f"{DetectorCompositionality.__module__}:{DetectorCompositionality.__name__}"
    assert (INFO.name, INFO.aliases, INFO.scope) == (
        "detector-compositionality",
        ("compositionality",),
        "sample",
    )


def test_metadata_imports_nothing_heavy():
    code = (
        "import sys, ddpo_reward_detector_compositionality as plugin; plugin.ddpo_rewards()\n"
        "print(sorted({'numpy', 'torch', 'transformers', 'inflect', 'PIL'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


@pytest.mark.real
def test_pockets_own_detector_keeps_the_contract():
    if find_spec("ddpo_pocket") is None:
        pytest.skip("the package ddpo-pocket is not installed")
    reward = DetectorCompositionality(weights="ddpo_pocket:judges/detector", min_score=0, device="cpu")
    assert isinstance(reward.detector, Owl)
    check_reward(
        reward, INFO, prompts=prompts("a cat", "a cat and a dog", "two lions", "a bee", "a fox, a cow")
    )
