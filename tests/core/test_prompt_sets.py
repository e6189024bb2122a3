"""The sets of the large-scale paper, and files with prompts held out."""

from __future__ import annotations

import pytest

from ddpo_core.discovery import Registry
from ddpo_core.errors import UsageError
from ddpo_core.prompt_sets import pairs, words
from ddpo_core.prompt_sets.files import open_prompts
from ddpo_core.prompt_sets.pairs import object_pairs
from ddpo_core.protocols import PromptSet


def texts(prompts) -> list[str]:
    return [prompts[index].text for index in range(len(prompts))]


# --- occupations ------------------------------------------------------------------------------------------


def test_there_are_a_hundred_occupations_with_the_right_article():
    prompts = words.occupations()
    assert len(prompts) == len(set(texts(prompts))) == 100
    assert prompts[0].text == "a portrait of an accountant"
    assert {"a portrait of a PR person", "a portrait of an optician"} <= set(texts(prompts))
    assert prompts[0].metadata == {"occupation": "accountant"}


def test_an_occupation_may_stand_in_another_sentence():
    assert words.occupations(template="{}")[4].text == "an architect"
    for wrong in ("a portrait", "{} and {}"):
        with pytest.raises(UsageError, match=r"must hold \{\} once"):
            words.occupations(template=wrong)


# --- pairs of objects -------------------------------------------------------------------------------------


def test_the_objects_are_the_papers_532():
    objects = pairs.objects()
    assert len(objects) == len(set(objects)) == 532
    assert (objects[0], objects[-1]) == ("accordion", "zucchini")
    assert "rifle, gun" in objects
    assert set(objects) >= pairs.BARE


@pytest.mark.parametrize(
    ("split", "count"),
    [("seen", 450 * 449 * 5), ("held_out", 82 * 81 * 5), ("all", 532 * 531 * 5)],  # the paper: > 1 million
)
def test_a_split_has_all_ordered_pairs_in_all_relations(split, count):
    prompts = object_pairs(split=split)
    assert len(prompts) == count
    assert isinstance(prompts, PromptSet)
    assert prompts[count - 1].metadata["relation"] == "beside"
    for wrong in (-1, count):
        with pytest.raises(IndexError):
            _ = prompts[wrong]


def test_every_pair_of_different_objects_comes_once_in_each_relation():
    prompts = pairs.ObjectPairs(("cat", "dog", "scissors"))
    assert len(set(texts(prompts))) == len(prompts) == 3 * 2 * 5
    assert texts(prompts)[:6] == [
        "a cat and a dog",
        "a cat next to a dog",
        "a cat near a dog",
        "a cat on side of a dog",
        "a cat beside a dog",
        "a cat and scissors",
    ]
    assert all(prompts[index].metadata["objects"][0] != prompts[index].metadata["objects"][1]
               for index in range(len(prompts)))  # fmt: skip
    assert prompts[29].metadata == {"objects": ["scissors", "dog"], "relation": "beside"}


def test_seen_and_held_out_objects_share_nothing_and_follow_from_the_seed():
    seen, held_out = (set(pairs.split_objects(split, 0)) for split in ("seen", "held_out"))
    assert (len(seen), len(held_out)) == (450, 82)
    assert seen | held_out == set(pairs.objects()) and not seen & held_out
    assert pairs.split_objects("held_out", 0) == pairs.split_objects("held_out", 0)
    assert pairs.split_objects("held_out", 1) != pairs.split_objects("held_out", 0)
    # pinned: another Python must hold out the same objects, or trained models would know them
    assert pairs.split_objects("held_out", 0)[:4] == ("air conditioner", "ball", "beetle", "bicycle wheel")


def test_articles_of_objects_are_english():
    prompts = pairs.ObjectPairs(("suv", "egg", "scissors"))
    assert {"an suv and an egg", "scissors near an suv"} <= set(texts(prompts))
    assert "suv and egg" in texts(pairs.ObjectPairs(("suv", "egg"), article=False))


# --- held-out parts of files ------------------------------------------------------------------------------


@pytest.fixture
def letters(tmp_path) -> str:
    file = tmp_path / "letters.txt"
    file.write_text("\n".join("abcdefghijklmnopqrst"))
    return str(file)


def test_a_file_is_split_into_two_parts_in_the_order_of_the_file(letters):
    seen = texts(open_prompts(path=letters, split="seen", held_out=6))
    held_out = texts(open_prompts(path=letters, split="held_out", held_out=6))
    assert (len(seen), len(held_out)) == (14, 6)
    assert sorted(seen + held_out) == texts(open_prompts(path=letters))
    assert (seen, held_out) == (sorted(seen), sorted(held_out))
    assert held_out != texts(open_prompts(path=letters, split="held_out", held_out=6, seed=1))


@pytest.mark.parametrize("seed", range(5))
def test_the_others_are_found_between_those_held_out(letters, seed):
    part = open_prompts(path=letters, split="seen", held_out=17, seed=seed)
    others = set(texts(open_prompts(path=letters, split="held_out", held_out=17, seed=seed)))
    assert texts(part) == [letter for letter in "abcdefghijklmnopqrst" if letter not in others]


def test_a_file_too_short_to_hold_prompts_out_is_refused(letters):
    with pytest.raises(UsageError, match="holds 20 prompts, too few to hold 2000 of them out"):
        open_prompts(path=letters, split="seen")


def test_unique_takes_the_first_of_each_text(tmp_path):
    file = tmp_path / "typed.csv"
    file.write_text("prompt,user\n" + "".join(f"p{index % 7},{index}\n" for index in range(3000)))
    prompts = open_prompts(path=str(file), unique=True)
    assert texts(prompts) == [f"p{index}" for index in range(7)]
    assert prompts[6].metadata == {"user": "6"}


def test_diffusiondb_is_the_file_set_with_the_papers_defaults(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "metadata.parquet"
    table = pyarrow.table({"image_name": ["a.png"] * 9000, "prompt": [f"p{i // 2}" for i in range(9000)]})
    parquet.write_table(table, path, row_group_size=1000)
    registry = Registry.of()
    seen = registry.build("prompts", f"diffusiondb,path={path}")
    held_out = registry.build("prompts", f"diffusiondb,path={path},split=held_out")
    assert (len(seen), len(held_out)) == (2500, 2000)
    assert {seen[index].text for index in range(0, 2500, 25)}.isdisjoint(texts(held_out))
