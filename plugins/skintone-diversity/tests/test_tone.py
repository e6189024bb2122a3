"""Colours and buckets against published values; the 8-bit Lab trap stays shut."""

from __future__ import annotations

import numpy as np
import pytest
from ddpo_reward_skintone_diversity.tone import (
    MONK,
    SkinLimits,
    even_edges,
    hex_to_lab,
    individual_typology_angle,
    is_skin,
    ita_scale,
    palette_scale,
    skin_tone,
    srgb_to_lab,
)

FULL = (0.0, 0.0, 1.0, 1.0)


def flat(colour: str, size: int = 16) -> np.ndarray:
    digits = colour.removeprefix("#")
    return np.full((size, size, 3), [int(digits[i : i + 2], 16) for i in (0, 2, 4)], dtype=np.uint8)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # Lindbloom's calculator, sRGB, D65, no adaptation
        ([255, 255, 255], (100, 0, 0)),
        ([0, 0, 0], (0, 0, 0)),
        ([255, 0, 0], (53.24, 80.09, 67.20)),
        ([0, 255, 0], (87.73, -86.18, 83.18)),
        ([0, 0, 255], (32.30, 79.19, -107.86)),
        ([119, 119, 119], (50.03, 0, 0)),
    ],
)
def test_lab_is_that_of_the_standard(rgb, lab):
    assert srgb_to_lab(np.array(rgb)) == pytest.approx(np.array(lab), abs=0.02)


def test_the_angles_of_the_monk_tones_are_those_published_for_them():
    angles = individual_typology_angle(hex_to_lab(MONK))
    expected = [83.0, 80.2, 71.7, 64.7, 50.3, 10.9, -20.1, -55.4, -78.3, -84.3]
    assert angles == pytest.approx(np.array(expected), abs=0.1)


def test_eight_bit_lab_and_swapped_channels_would_give_other_angles():
    rgb = np.array([160, 126, 86])  # MST 6
    l8, _, b8 = srgb_to_lab(rgb) * [255 / 100, 1, 1] + [0, 128, 128]
    trap = np.degrees(np.arctan((l8 - 50) / b8))
    swapped = individual_typology_angle(srgb_to_lab(rgb[::-1]))
    assert individual_typology_angle(srgb_to_lab(rgb)) == pytest.approx(10.9, abs=0.1)
    assert abs(trap - 10.9) > 10
    assert abs(swapped - 10.9) > 90


@pytest.mark.parametrize(("place", "colour"), list(enumerate(MONK)))
def test_each_monk_tone_falls_into_its_own_bucket(place, colour):
    tone = skin_tone(flat(colour), FULL)
    assert tone is not None
    assert palette_scale(MONK).bucket(tone) == place
    assert palette_scale(MONK, buckets=4).bucket(tone) == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3][place]


def test_ita_cuts_split_the_monk_scale_badly():
    buckets = [
        ita_scale().bucket(tone) for tone in (skin_tone(flat(colour), FULL) for colour in MONK) if tone
    ]
    assert buckets == [0, 0, 0, 0, 0, 1, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("count", "buckets", "edges"), [(10, 4, [3, 5, 7]), (10, 3, [3, 7]), (10, 5, [2, 4, 6, 8]), (5, 2, [3])]
)
def test_colours_are_cut_evenly(count, buckets, edges):
    assert even_edges(count, buckets) == edges


def test_names_say_what_is_in_a_bucket():
    assert palette_scale(MONK, buckets=4, prefix="MST ").names == (
        "MST 1–3",
        "MST 4–5",
        "MST 6–7",
        "MST 8–10",
    )
    assert palette_scale(MONK, [1, 9]).names == ("1", "2–9", "10")
    assert ita_scale().names == ("ITA above 41°", "ITA 10 to 41°", "ITA -30 to 10°", "ITA to -30°")


@pytest.mark.parametrize(
    "call",
    [
        lambda: palette_scale(MONK, [3, 3]),
        lambda: palette_scale(MONK, [3, 10]),
        lambda: palette_scale(MONK, [3], buckets=4),
        lambda: palette_scale(MONK, buckets=11),
        lambda: palette_scale(["brown"]),
        lambda: ita_scale([10, 41]),
        lambda: ita_scale(buckets=7),
        lambda: ita_scale([10], buckets=4),
    ],
)
def test_impossible_scales_are_refused(call):
    with pytest.raises(ValueError):
        call()


def test_background_eyes_and_mouth_do_not_move_the_tone():
    skin, size = "#a07e56", 100
    picture = flat("#3060c0", size)
    y, x = np.mgrid[:size, :size] + 0.5
    picture[((x - 50) / 30) ** 2 + ((y - 50) / 40) ** 2 <= 1] = flat(skin, 1)[0, 0]
    picture[38:44, 34:44] = picture[38:44, 56:66] = 255  # eyes
    picture[62:68, 40:60] = [150, 30, 40]  # mouth
    tone = skin_tone(picture, (0.2, 0.1, 0.8, 0.9))
    assert tone is not None
    assert tone.lab == pytest.approx(tuple(hex_to_lab([skin])[0]))
    assert 0.8 < tone.skin < 1


@pytest.mark.parametrize("colour", ["#3060c0", "#30a040", "#808080", "#ffffff", "#000000", "#c040c0"])
def test_what_is_not_skin_has_no_tone(colour):
    assert skin_tone(flat(colour), FULL) is None


def test_every_monk_tone_is_skin_and_limits_can_be_narrowed():
    lab = hex_to_lab(MONK)
    assert is_skin(lab, SkinLimits()).all()
    assert is_skin(lab, SkinLimits(lightness=(50, 98))).tolist() == [True] * 6 + [False] * 4


def test_an_empty_box_has_no_tone():
    assert skin_tone(flat("#a07e56"), (0.5, 0.5, 0.5, 0.5)) is None
