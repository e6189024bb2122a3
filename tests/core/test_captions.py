import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddpo_core.captions import fitted, open_captioned
from ddpo_core.errors import RunError, UsageError

SIZE = (8, 8)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def png(colour, size=(8, 8)):
    """The bytes of a picture of one colour; `size` is width and height."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def colour_of(image):
    return tuple(round(255 * value) for value in image[:, 4, 4].tolist())


@pytest.fixture
def folder(tmp_path):
    for name, colour in zip("abc", COLOURS, strict=True):
        (tmp_path / f"{name}.png").write_bytes(png(colour))
        (tmp_path / f"{name}.txt").write_text(f"  picture {name}\n", encoding="utf-8")
    return tmp_path


def write_jsonl(file, records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def write_parquet(file, columns, row_group_size):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), file, row_group_size=row_group_size)
    return str(file)


def check_three(pairs):
    assert len(pairs) == 3
    assert [(colour_of(image), caption) for image, caption in map(pairs.__getitem__, (0, 1, 2))] == [
        (colour, f"picture {name}") for name, colour in zip("abc", COLOURS, strict=True)
    ]
    assert all(pairs[index][0].shape == (3, *SIZE) for index in (2, 0, 1))
    with pytest.raises(IndexError, match="0 to 2, got 3"):
        pairs[3]


# ---- sources -----------------------------------------------------------------------------------------


def test_a_folder_holds_pictures_with_captions_beside_them_also_in_subfolders(folder):
    (folder / "below").mkdir()
    for suffix in (".png", ".txt"):
        (folder / f"c{suffix}").rename(folder / "below" / f"c{suffix}")
    pairs = open_captioned(str(folder), size=SIZE)
    assert {(colour_of(pairs[index][0]), pairs[index][1]) for index in range(3)} == {
        (colour, f"picture {name}") for name, colour in zip("abc", COLOURS, strict=True)
    }


def test_a_jsonl_file_names_pictures_relative_to_itself(folder):
    records = [{"file_name": f"{name}.png", "text": f"picture {name}", "seed": 1} for name in "abc"]
    check_three(open_captioned(write_jsonl(folder / "all.jsonl", records), size=SIZE))


def test_a_line_of_a_long_jsonl_file_is_found_where_it_stands(folder):
    records = [{"image": f"{'abc'[i % 3]}.png", "caption": f"nr {i} ä"} for i in range(1000)]
    file = folder / "all.jsonl"
    write_jsonl(file, records)
    file.write_text("\n" + file.read_text().replace("}\n", "}\n\n", 100))  # blank lines count for nothing
    pairs = open_captioned(str(file), size=SIZE)
    assert len(pairs) == 1000
    assert [pairs[index][1] for index in (999, 0, 64, 63, 500)] == [
        f"nr {i} ä" for i in (999, 0, 64, 63, 500)
    ]


@pytest.mark.parametrize("form", ["bytes", "struct", "path"])
def test_a_parquet_file_holds_pictures_or_paths_to_them(folder, form):
    forms = {
        "bytes": [png(colour) for colour in COLOURS],
        "struct": [{"bytes": png(colour), "path": "elsewhere.png"} for colour in COLOURS],
        "path": [f"{name}.png" for name in "abc"],
    }
    columns = {"image": forms[form], "caption": [f"picture {name}" for name in "abc"]}
    check_three(open_captioned(write_parquet(folder / "all.parquet", columns, 2), size=SIZE))


def test_other_columns_can_be_named(folder):
    records = [{"still": "b.png", "image": "a.png", "said": "that", "caption": "this"}]
    file = write_jsonl(folder / "all.jsonl", records)
    image, caption = open_captioned(file, size=SIZE, image="still", caption="said")[0]
    assert (colour_of(image), caption) == (COLOURS[1], "that")


# ---- pictures ----------------------------------------------------------------------------------------


def test_the_middle_of_the_longer_side_is_kept_and_nothing_is_stretched():
    stripes = np.zeros((8, 24, 3), np.uint8)
    stripes[:, 8:16] = 255
    assert fitted(Image.fromarray(stripes), SIZE).min() == 1
    assert fitted(Image.fromarray(stripes.transpose(1, 0, 2)), SIZE).min() == 1
    assert fitted(Image.fromarray(stripes[:, 4:20]), (4, 8)).shape == (3, 4, 8)


def test_transparency_lies_on_white_and_grey_has_three_channels():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert torch.equal(fitted(clear, SIZE), torch.ones(3, *SIZE))
    grey = fitted(Image.new("L", (20, 20), 51), SIZE)
    torch.testing.assert_close(grey, torch.full((3, *SIZE), 0.2))


def test_a_turned_photograph_is_upright(tmp_path):
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was held upright: turn it to the right to look at it
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    (tmp_path / "a.txt").write_text("a")
    upright, _ = open_captioned(str(tmp_path), size=(8, 4))[0]
    assert upright[:, :3].min() > 0.9 and upright[:, 5:].max() < 0.1


# ---- errors ------------------------------------------------------------------------------------------


def test_a_picture_without_a_caption_is_an_error_that_names_it(folder):
    (folder / "b.txt").unlink()
    with pytest.raises(UsageError, match="a caption beside each of its 3 pictures, got none for 1") as error:
        open_captioned(str(folder), size=SIZE)
    assert str(folder / "b.txt") in error.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pair: it is empty or all blank"),
        ('{"image": "a.png"', "line 1 of .* expects a JSON object"),
        ("[1]", "expects a JSON object, got a list"),
        (
            '{"image": "a.png", "words": "x"}',
            "the caption under one of caption, text.* got image, words",
        ),
        ('{"picture": "a.png", "caption": "x"}', "expects the image under one of image, file_name"),
        ('{"image": "a.png", "caption": 7}', "record 1 of .* expects text under 'caption', got 7"),
    ],
)
def test_a_malformed_jsonl_file_is_an_error_that_says_where(tmp_path, text, message):
    (tmp_path / "all.jsonl").write_text(text)
    with pytest.raises(UsageError, match=message):
        open_captioned(str(tmp_path / "all.jsonl"), size=SIZE)


def test_what_is_no_source_of_pairs_is_refused(tmp_path):
    with pytest.raises(UsageError, match="do not exist"):
        open_captioned(str(tmp_path / "none"), size=SIZE)
    with pytest.raises(UsageError, match=r"expects pictures .* with captions, got none"):
        open_captioned(str(tmp_path), size=SIZE)
    (tmp_path / "all.csv").write_text("image,caption\n")
    with pytest.raises(UsageError, match=r"a folder, \.jsonl or \.parquet, got \.csv"):
        open_captioned(str(tmp_path / "all.csv"), size=SIZE)
    pytest.importorskip("pyarrow")
    (tmp_path / "all.parquet").write_text("no")
    with pytest.raises(UsageError, match="is no parquet file"):
        open_captioned(str(tmp_path / "all.parquet"), size=SIZE)


def test_a_parquet_file_without_captions_is_refused_and_a_missing_one_found(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", {"image": [b""], "label": [1]}, 1)
    with pytest.raises(UsageError, match=r"the caption under one of .*; got image, label"):
        open_captioned(file, size=SIZE)
    columns = {"image": [png(COLOURS[0])] * 2, "caption": ["a", None]}
    pairs = open_captioned(write_parquet(tmp_path / "b.parquet", columns, 1), size=SIZE)
    assert pairs[0][1] == "a"
    with pytest.raises(
        RunError, match=r"row 1 of .* expects .* text under 'caption', got bytes and NoneType"
    ):
        pairs[1]


def test_a_broken_picture_is_an_error_that_names_it(folder):
    (folder / "b.png").write_bytes(b"no picture")
    pairs = open_captioned(str(folder), size=SIZE)
    with pytest.raises(RunError, match=r"number 1 is no picture that can be read \(.*b\.png\)"):
        pairs[1]
    pairs = open_captioned(write_jsonl(folder / "all.jsonl", [{"image": "gone.png", "text": "x"}]), size=SIZE)
    with pytest.raises(RunError, match=r"gone\.png"):
        pairs[0]
