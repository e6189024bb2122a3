"""Prompt sets and streams: the paper's lists, a stream is its position, long files cost no memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ddpo_core.errors import CheckpointError, RunError, UsageError
from ddpo_core.prompt_sets import PROMPT_SETS, files, words
from ddpo_core.prompt_sets.files import open_prompts
from ddpo_core.prompts import PromptStream, resolve_prompt_source
from ddpo_core.protocols import PromptSet
from ddpo_core.types import Prompt


def texts(prompts) -> list[str]:
    return [prompts[index].text for index in range(len(prompts))]


def write(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_bytes(text.encode())
    return str(file)


# --- the sets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "count", "first", "last"),
    [
        (words.animals(), 45, "cat", "kangaroo"),
        (words.animals_activities(), 135, "a cat washing the dishes", "a kangaroo playing chess"),
        (words.counting(), 154, "two cats", "eight pigs"),
        (words.imagenet_animals(), 398, "tench, Tinca tinca", "puffer, pufferfish, blowfish, globefish"),
    ],
)
def test_the_papers_sets_have_their_size_and_ends(prompts, count, first, last):
    assert (len(prompts), prompts[0].text, prompts[-1].text) == (count, first, last)
    assert len({prompt.text for prompt in prompts}) == count
    assert isinstance(prompts, PromptSet)


def test_articles_and_plurals_are_english():
    activities = {prompt.text for prompt in words.animals_activities()}
    assert {"an ant playing chess", "a wolf riding a bike"} <= activities
    counted = {prompt.text for prompt in words.counting()}
    assert {"two wolves", "three sheep", "four fish", "five foxes", "six monkeys"} <= counted
    assert words.animals(article=True)[20].text == "an ant"


@pytest.mark.parametrize(
    ("index", "label"),  # well-known class numbers of ImageNet-1k
    [(1, "goldfish, Carassius auratus"), (207, "golden retriever"), (281, "tabby, tabby cat")],
)
def test_imagenet_labels_stand_at_their_class_index(index, label):
    prompt = words.imagenet_animals()[index]
    assert prompt.text == label
    assert prompt.metadata == {"animal": label.split(",")[0], "class_index": index}


def test_metadata_tells_what_a_prompt_is_made_of():
    wolves = next(prompt for prompt in words.counting() if prompt.text == "two wolves")
    assert wolves.metadata == {
        "count": 2,
        "number": "two",
        "animal": "wolf",
        "plural": "wolves",
        "objects": ["wolf"],
    }
    assert words.animals_activities()[1].metadata == {
        "animal": "cat",
        "activity": "riding a bike",
        "objects": ["cat"],
    }


def test_every_registered_set_names_a_factory_that_exists():
    for info in PROMPT_SETS:
        module, attribute = info.factory.split(":")
        __import__(module)
        assert callable(getattr(sys.modules[module], attribute))


def test_listing_the_sets_imports_nothing_heavy():
    code = (
        "import sys, ddpo_core.prompts\n"
        "print(sorted({'torch', 'numpy', 'inflect', 'pyarrow', 'csv'} & set(sys.modules)))"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "[]"


def test_inline_prompts_are_taken_as_typed_and_refused_when_they_are_no_list():
    assert texts(words.inline(texts=["a cat", " ", "owl "], article=False)) == ["a cat", "owl"]
    assert texts(words.inline(texts=["owl"], article=True)) == ["an owl"]
    for wrong in ("a cat", [1], [], ["  "]):
        with pytest.raises(UsageError, match="inline"):
            words.inline(texts=wrong)


# --- streams ----------------------------------------------------------------------------------------------

LETTERS = [Prompt(letter) for letter in "abcdefg"]


def test_prompts_do_not_depend_on_how_many_are_taken_at_once():
    whole = PromptStream(LETTERS, seed=3, group_size=4).take(60)
    stream = PromptStream(LETTERS, seed=3, group_size=4)
    assert [prompt for n in (1, 2, 0, 7, 50) for prompt in stream.take(n)] == whole


def test_a_stream_resumes_at_any_position():
    whole = PromptStream(LETTERS, seed=3, group_size=3).take(40)
    for position in range(40):
        stream = PromptStream(LETTERS, seed=3, group_size=3)
        stream.load_state_dict({"position": position})
        assert stream.take(40 - position) == whole[position:]
        assert stream.state_dict() == {"position": 40}


def test_a_far_position_is_reached_at_once():
    stream = PromptStream(LETTERS, seed=0)
    assert stream.at(10**15 + 1, 3) == stream.at(10**15, 4)[1:]
    assert stream.position == 0


def test_group_k_holds_the_positions_from_k_times_its_size():
    single = PromptStream(LETTERS, seed=5).take(8)
    grouped = PromptStream(LETTERS, seed=5, group_size=3).take(24)
    assert grouped == [prompt for prompt in single for _ in range(3)]


def test_random_prompts_are_uniform():
    counts = Counter(prompt.text for prompt in PromptStream(LETTERS, seed=1).take(70_000))
    chi_square = sum((count - 10_000) ** 2 / 10_000 for count in counts.values())
    assert len(counts) == 7
    assert chi_square < 22.5  # 99.9 % of χ² with 6 degrees of freedom lie below


def test_seeds_give_different_prompts():
    assert PromptStream(LETTERS, seed=1).take(30) != PromptStream(LETTERS, seed=2).take(30)


def test_a_sequential_stream_walks_the_set_again_and_again():
    stream = PromptStream(LETTERS, seed=0, order="sequential")
    assert "".join(prompt.text for prompt in stream.take(10)) == "abcdefgabc"


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 0, "group_size": 0}, {"seed": 0, "order": "shuffled"}]
)
def test_a_stream_that_cannot_be_is_refused(wrong):
    with pytest.raises(UsageError, match="expects"):
        PromptStream(LETTERS, **wrong)


def test_an_empty_set_and_a_damaged_state_are_refused():
    with pytest.raises(UsageError, match="empty set"):
        PromptStream([], seed=0)
    with pytest.raises(CheckpointError, match="position"):
        PromptStream(LETTERS, seed=0).load_state_dict({"index": 3})


# --- files ------------------------------------------------------------------------------------------------


def test_a_text_file_has_one_prompt_a_line_and_blank_lines_do_not_count(tmp_path):
    path = write(tmp_path, "prompts.txt", "\ufeffcat\r\n\n  \n a red dog \nowl, große Eule")
    assert texts(open_prompts(path=path)) == ["cat", "a red dog", "owl, große Eule"]
    assert texts(open_prompts(path=path, article=True))[2] == "an owl, große Eule"


def test_quoted_csv_fields_may_hold_commas_quotes_and_line_ends(tmp_path):
    path = write(
        tmp_path, "prompts.csv", 'id,prompt\r\n7,"a ""red"", round\nball"\r\n\r\n8, \r\n9,a 5" nail\r\n'
    )
    prompts = open_prompts(path=path)
    assert texts(prompts) == ['a "red", round\nball', 'a 5" nail']
    assert prompts[0].metadata == {"id": "7"}


def test_json_lines_keep_the_other_keys_as_metadata(tmp_path):
    path = write(tmp_path, "prompts.jsonl", '{"text": "two cats", "count": 2}\n\n{"text": "", "count": 0}\n')
    prompts = open_prompts(path=path)
    assert len(prompts) == 1
    assert prompts[0] == Prompt("two cats", {"count": 2})


def test_parquet_is_read_across_row_groups_and_skips_nulls(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    captions = [None if index % 7 == 3 else f"prompt {index}" for index in range(5000)]
    table = pyarrow.table({"caption": captions, "index": list(range(5000))})
    path = tmp_path / "prompts.parquet"
    parquet.write_table(table, path, row_group_size=1500)
    prompts = open_prompts(path=str(path))
    kept = [caption for caption in captions if caption]
    assert texts(prompts) == kept
    for index in (4000, 0, 1023, 1024, len(kept) - 1):
        assert prompts[index] == Prompt(kept[index], {"index": int(kept[index].split()[1])})


def test_columns_are_found_by_name_or_by_custom(tmp_path):
    path = write(tmp_path, "prompts.csv", "caption,words,text\na cat,other,a dog\n")
    assert texts(open_prompts(path=path)) == ["a dog"]  # text comes before caption
    assert texts(open_prompts(path=path, column="words")) == ["other"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", "", "holds no prompt"),
        ("a.txt", " \n\n", "holds no prompt"),
        ("a.csv", "", "holds no prompt"),
        ("a.csv", "prompt\n", "holds no prompt"),
        ("a.csv", "name,size\ncat,3\n", "'prompt', 'text', 'caption', got 'name', 'size'"),
        ("a.csv", "prompt,size\na cat, sitting,3\n", "line 2 .* expects 2 fields"),
        ("a.csv", 'prompt\n"never closed\n', "well-formed CSV"),
        ("a.jsonl", '{"prompt": "cat"}\n{"prompt": 3}\n', "line 2 .* expects a string under 'prompt', got 3"),
        ("a.jsonl", '{"prompt": "cat"}\nnonsense\n', "line 2 .* expects a JSON object"),
        ("a.jsonl", "[1]\n", "got a list"),
        ("a.parquet", "PAR1 not", "is no parquet file"),
        ("a.xlsx", "cat", "expects .txt, .csv, .jsonl or .parquet, got .xlsx"),
        ("prompts", "cat", "got no suffix"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_what_was_found(tmp_path, name, content, complaint):
    with pytest.raises(UsageError, match=complaint):
        open_prompts(path=write(tmp_path, name, content))


def test_other_refusals_name_the_cause(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        open_prompts(path=str(tmp_path / "missing.txt"))
    with pytest.raises(UsageError, match="is a folder"):
        open_prompts(path=str(tmp_path))
    with pytest.raises(UsageError, match="has no columns"):
        open_prompts(path=write(tmp_path, "a.txt", "cat\n"), column="prompt")
    (tmp_path / "latin.txt").write_bytes(b"cat\ngro\xdfe Katze\n")
    with pytest.raises(UsageError, match=r"line 2 .* expects UTF-8 text, got the byte 0xdf"):
        open_prompts(path=str(tmp_path / "latin.txt"))


def test_a_line_too_long_to_be_a_prompt_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_LINE", 100)
    with pytest.raises(UsageError, match="a line of at most 100 bytes"):
        open_prompts(path=write(tmp_path, "a.txt", "x" * 101))


def test_a_file_that_changes_during_a_run_is_an_error(tmp_path):
    path = write(tmp_path, "a.txt", "cat\n")
    prompts = open_prompts(path=path)
    Path(path).write_text("dog and cat\n")
    with pytest.raises(RunError, match="changed while it was in use"):
        _ = prompts[0]


def test_an_index_outside_the_file_is_an_index_error(tmp_path):
    prompts = open_prompts(path=write(tmp_path, "a.txt", "cat\ndog\n"))
    for index in (2, -1):
        with pytest.raises(IndexError):
            _ = prompts[index]


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_random_access_returns_the_right_record_across_strides(tmp_path, suffix):
    path = numbered_file(tmp_path / f"prompts{suffix}", 5000)
    prompts = open_prompts(path=path)
    assert len(prompts) == 5000
    for index in (4999, 0, 1023, 1024, 2047, 2048, 1, 3333):
        assert prompts[index].text == f"prompt {index}"


def numbered_file(file: Path, count: int) -> str:
    """`count` prompts 'prompt 0', 'prompt 1', …; a blank line after each hundredth."""
    render = {
        ".txt": lambda index: f"prompt {index}\n",
        ".csv": lambda index: f'"x\n{index}",prompt {index}\n',
        ".jsonl": lambda index: json.dumps({"prompt": f"prompt {index}", "index": index}) + "\n",
    }[file.suffix]
    with file.open("w") as stream:
        stream.write("id,prompt\n" if file.suffix == ".csv" else "")
        stream.writelines(render(index) + ("\n" if index % 100 == 99 else "") for index in range(count))
    return str(file)


def assert_a_long_file_costs_no_memory(path: str, count: int) -> None:
    assert np.__version__  # imported by now: its own 4 MB are not the file's
    tracemalloc.start()
    try:
        prompts = open_prompts(path=path)
        drawn = PromptStream(prompts, seed=0, group_size=4).take(40)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(prompts) == count
    assert len(drawn) == 40
    for index in (0, 1, count // 2, count - 1):
        assert prompts[index].text == f"prompt {index}"
    assert peak < 2e6  # bytes: 80 kB of offsets for ten million, and one block of prompts


def test_a_hundred_thousand_lines_cost_no_memory(tmp_path):
    path = numbered_file(tmp_path / "long.txt", 100_000)
    assert_a_long_file_costs_no_memory(path, 100_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "count"),
    [(".txt", 2_000_000), (".csv", 2_000_000), (".jsonl", 2_000_000), (".txt", 10_000_000)],
)
def test_millions_of_records_cost_no_memory(tmp_path, suffix, count):
    path = numbered_file(tmp_path / f"long{suffix}", count)
    assert_a_long_file_costs_no_memory(path, count)


# --- what the user types ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["prompts.txt", "my data/prompts.CSV", "a.jsonl", "/x/y.parquet"])
def test_a_bare_path_means_the_file_set(text):
    assert resolve_prompt_source(text) == ("file", {"path": text})


@pytest.mark.parametrize("text", ["animals", "file,path=a.txt,column=b", "file,path=a.txt", "plugin/people"])
def test_a_spec_is_left_alone(text):
    assert resolve_prompt_source(text) is None


def test_a_file_that_exists_is_one_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("animals", "a,b.txt"):
        write(tmp_path, name, "cat\n")
    assert resolve_prompt_source("./animals") == ("file", {"path": "./animals"})
    assert resolve_prompt_source("a,b.txt") == ("file", {"path": "a,b.txt"})
    assert resolve_prompt_source("animals") is None
