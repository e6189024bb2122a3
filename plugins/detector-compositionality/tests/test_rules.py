"""Known boxes in, known scores out: each rule computed by hand."""

from __future__ import annotations

import pytest
from ddpo_reward_detector_compositionality.rules import (
    Found,
    count_score,
    distinct,
    iou,
    judge,
    position_score,
)
from ddpo_reward_detector_compositionality.scenes import Scene, Wanted

LEFT_HALF, RIGHT_HALF = (0.0, 0.2, 0.4, 0.8), (0.6, 0.2, 1.0, 0.8)


def box(name: str, score: float, place=LEFT_HALF) -> Found:
    return Found(name, score, place)


def scene(*names: str, relation: str | None = None, counts=None) -> Scene:
    return Scene(tuple(map(Wanted, names, counts or [None] * len(names))), relation)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([box("cat", 0.9), box("cat", 0.5), box("dog", 0.7)], 0.8),  # the best of each
        ([box("cat", 0.9)], 0.45),  # an absent object is a true 0
        ([], 0.0),
    ],
)
def test_presence_is_the_mean_of_the_best_confidences(boxes, expected):
    verdict = judge(scene("cat", "dog"), boxes)
    assert verdict.score == pytest.approx(expected)
    assert verdict.count is None and verdict.position is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 0.1, 0.1), (0, 0, 0.1, 0.1), 1.0),
        ((0, 0, 0.2, 0.1), (0.1, 0, 0.3, 0.1), 1 / 3),
        ((0, 0, 0.1, 0.1), (0.5, 0.5, 0.6, 0.6), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
    ],
)
def test_iou(first, second, expected):
    assert iou(first, second) == pytest.approx(expected)


def test_two_boxes_of_one_object_are_one():
    inside = (0.1, 0.3, 0.3, 0.7)
    boxes = [
        box("cat", 0.6, inside),  # lies wholly in the next: repeated
        box("cat", 0.9, LEFT_HALF),
        box("dog", 0.5, LEFT_HALF),  # another name
        box("cat", 0.4, (0.1, 0.2, 0.5, 0.8)),  # IoU 0.6, 0.75 of it shared: another cat
    ]
    assert [(found.name, found.score) for found in distinct(boxes)] == [
        ("cat", 0.9),
        ("dog", 0.5),
        ("cat", 0.4),
    ]


@pytest.mark.parametrize(
    ("found", "exact", "soft"),
    [((2, 1), 1.0, 1.0), ((1, 1), 0.5, 0.75), ((3, 0), 0.0, 0.25), ((9, 1), 0.5, 0.5)],
)
def test_counts_are_scored_exactly_or_softly(found, exact, soft):
    wanted = scene("cat", "dog", counts=[2, 1])
    assert count_score(wanted, found, soft=False) == pytest.approx(exact)
    assert count_score(wanted, found, soft=True) == pytest.approx(soft)


def test_objects_without_a_number_are_not_counted():
    assert count_score(scene("cat", "dog", counts=[2, None]), (2, 7), soft=False) == 1.0
    assert count_score(scene("cat"), (2,), soft=False) is None


def test_the_score_with_counts_is_the_mean_of_presence_and_count():
    boxes = [box("cat", 0.8), box("cat", 0.6, RIGHT_HALF)]
    assert judge(scene("cat", counts=[2]), boxes, count="exact").score == pytest.approx((0.8 + 1) / 2)
    assert judge(scene("cat", counts=[3]), boxes, count="exact").score == pytest.approx(0.4)
    assert judge(scene("cat", counts=[3]), boxes, count="soft").score == pytest.approx((0.8 + 2 / 3) / 2)
    assert judge(scene("cat"), boxes, count="soft").score == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("relation", "first", "second", "expected"),
    [
        ("near", LEFT_HALF, RIGHT_HALF, 1.0),  # level with each other: |dy| < 150 pixels suffices
        ("near", (0, 0, 0.2, 0.2), (0.8, 0.7, 1, 0.9), (150 / 512) / 0.8),  # far both ways
        ("left of", LEFT_HALF, RIGHT_HALF, 1.0),
        ("right of", LEFT_HALF, RIGHT_HALF, 0.0),
        ("right of", RIGHT_HALF, LEFT_HALF, 1.0),
        ("above", (0.4, 0, 0.6, 0.3), (0.4, 0.6, 0.6, 1), 1.0),
        ("below", (0.4, 0, 0.6, 0.3), (0.4, 0.6, 0.6, 1), 0.0),
        ("below", (0.4, 0.6, 0.6, 1), (0.4, 0, 0.6, 0.3), 1.0),
        ("left of", (0, 0, 0.2, 0.2), (0.3, 0.8, 0.5, 1), 0.0),  # more below than left
        ("left of", (0, 0, 0.4, 0.4), (0.2, 0, 0.6, 0.4), 0.1 / (1 / 3)),  # overlap
        ("left of", LEFT_HALF, LEFT_HALF, 0.0),
    ],
)
def test_positions_follow_t2i_compbench(relation, first, second, expected):
    assert position_score(relation, first, second) == pytest.approx(expected)


def test_distances_are_measured_in_widths():
    first, second = (0.0, 0.0, 0.1, 0.1), (0.2, 0.3, 0.3, 0.4)  # 0.2 widths right, 0.3 heights down
    assert position_score("left of", first, second, aspect=0.5) == 1.0
    assert position_score("left of", first, second, aspect=2.0) == 0.0
    assert position_score("above", first, second, aspect=2.0) == 1.0


def test_the_total_is_that_of_t2i_compbench():
    """0.25 · conf₁ + 0.25 · conf₂ + 0.5 · position; one object alone 0.25 · conf; below a half 0."""
    asked = scene("cat", "dog", relation="left of")
    both = [box("cat", 0.9), box("dog", 0.7, RIGHT_HALF)]
    wrong = [box("cat", 0.9, RIGHT_HALF), box("dog", 0.7)]
    assert judge(asked, both, spatial="graded").score == pytest.approx(0.25 * 0.9 + 0.25 * 0.7 + 0.5)
    assert judge(asked, both, spatial="t2i-compbench").score == pytest.approx(0.9)
    assert judge(asked, wrong, spatial="graded").score == pytest.approx(0.4)
    assert judge(asked, wrong, spatial="t2i-compbench").score == 0.0
    assert judge(asked, both[:1], spatial="graded").score == pytest.approx(0.25 * 0.9)
    assert judge(asked, both[:1], spatial="t2i-compbench").score == 0.0


def test_a_prompt_without_a_relation_is_scored_by_presence():
    both = [box("cat", 0.4), box("dog", 0.2, RIGHT_HALF)]
    assert judge(scene("cat", "dog"), both, spatial="t2i-compbench").score == pytest.approx(0.3)


def test_all_three_parts_weigh_alike():
    asked = scene("cat", "dog", relation="left of", counts=[1, 1])
    verdict = judge(asked, [box("cat", 0.9), box("dog", 0.7, RIGHT_HALF)], count="soft", spatial="graded")
    assert (verdict.presence, verdict.count, verdict.position) == (pytest.approx(0.8), 1.0, 1.0)
    assert verdict.score == pytest.approx((0.8 + 1 + 1) / 3)
