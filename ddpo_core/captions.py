"""Pictures with captions for the pretraining step: from a folder, a .jsonl or a .parquet file.

    folder    name.png (jpg, jpeg, webp) with its caption in name.txt beside it, in subfolders too
    .jsonl    an object a line with a picture's path, relative to the file, and its caption
    .parquet  the same in columns; the picture as a path, as bytes, or as the struct of both that Hugging Face
              datasets write

Pictures are opened when they are asked for. A .jsonl file keeps the byte offset of every 64th line; of a
.parquet file the row group with the wanted row is read, so small ones are faster.
"""

from __future__ import annotations

import io
import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ddpo_core.errors import EnvironmentFault, RunError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
IMAGE_COLUMNS = ("image", "file_name", "image_path", "path", "jpg", "png")
CAPTION_COLUMNS = ("caption", "text", "prompt", "txt")
STRIDE = 64  # lines between two remembered offsets


class _Pairs(Protocol):
    """Where pictures and captions come from."""

    def __len__(self) -> int: ...

    def pair(self, index: int) -> tuple[Path | bytes, str]:
        """A picture, as a file or as the contents of one, and its caption."""


class CaptionedFiles:
    """`pretraining.CaptionedImages` of files: pictures are made as large as the model's, and cropped.

    The shorter side is resized to fit and the middle of the longer one kept; transparency lies on white.
    """

    def __init__(self, source: str, pairs: _Pairs, size: tuple[int, int]) -> None:
        self.source = source
        self.pairs = pairs
        self.size = size  # height, width

    def of_size(self, size: tuple[int, int]) -> CaptionedFiles:
        """The same pairs, pictures of another height and width."""
        return CaptionedFiles(self.source, self.pairs, size)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        """A picture [3, H, W] float32 in [0, 1], and its caption. Raises `RunError` for a broken one."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.source} holds pairs 0 to {len(self) - 1}, got {index}")
        picture, caption = self.pairs.pair(index)
        try:
            with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
                return fitted(image, self.size), caption
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            where = f"{len(picture)} bytes" if isinstance(picture, bytes) else str(picture)
            raise RunError(
                f"the captioned pictures {self.source!r}: number {index} is no picture that can be read"
                f" ({where}): {error}"
            ) from error


def open_captioned(
    path: str, *, size: tuple[int, int], image: str | None = None, caption: str | None = None
) -> CaptionedFiles:
    """The pairs of a folder, a .jsonl or a .parquet file, as pictures of `size` (height, width).

    `image` and `caption` name the columns; where they are None, the first usual name that is there does.
    Raises `UsageError` where the source is missing, empty, malformed, or has no such column.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        return CaptionedFiles(path, _Folder(source), size)
    if not source.is_file():
        raise UsageError(
            f"the captioned pictures {path!r} do not exist",
            hint="give a folder of pictures with .txt files, a .jsonl or a .parquet file",
        )
    kinds: Mapping[str, Callable[[Path, str | None, str | None], _Pairs]] = {
        ".jsonl": _JsonLines,
        ".parquet": _Parquet,
    }
    if source.suffix.lower() not in kinds:
        raise UsageError(
            f"the captioned pictures {path!r} expect a folder, .jsonl or .parquet,"
            f" got {source.suffix or 'no suffix'}"
        )
    return CaptionedFiles(path, kinds[source.suffix.lower()](source, image, caption), size)


def fitted(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture [3, H, W] float32 in [0, 1] of just this size, nothing stretched."""
    upright = ImageOps.exif_transpose(image).convert("RGBA")
    opaque = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    height, width = size
    cropped = ImageOps.fit(opaque, (width, height), method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float() / 255


# ---- where pairs come from ---------------------------------------------------------------------------


class _Folder:
    """Pictures with a .txt file of the same name beside each."""

    def __init__(self, folder: Path) -> None:
        self._pictures = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not self._pictures:
            raise UsageError(
                f"the folder {str(folder)!r} expects pictures ({', '.join(SUFFIXES)}) with captions, got none"
            )
        bare = [file for file in self._pictures if not file.with_suffix(".txt").is_file()]
        if bare:
            raise UsageError(
                f"the folder {str(folder)!r} expects a caption beside each of its {len(self._pictures)}"
                f" pictures, got none for {len(bare)} of them",
                hint=f"write the first one's to {bare[0].with_suffix('.txt')}",
            )

    def __len__(self) -> int:
        return len(self._pictures)

    def pair(self, index: int) -> tuple[Path | bytes, str]:
        picture = self._pictures[index]
        try:
            caption = picture.with_suffix(".txt").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"the caption of {picture} cannot be read: {error}") from error
        return picture, caption


class _JsonLines:
    """One JSON object per line; a path in it is relative to the file."""

    def __init__(self, file: Path, image: str | None, caption: str | None) -> None:
        self._file = file
        self._image, self._caption = image or "", caption or ""
        self._offsets = array("Q")  # of records 0, 64, 128, …
        self._count = 0
        for offset, record in self._records(0):
            if not self._count:
                self._image = _column(file, list(record), image, IMAGE_COLUMNS, "image")
                self._caption = _column(file, list(record), caption, CAPTION_COLUMNS, "caption")
            _check_text(file, f"record {self._count + 1}", record, (self._image, self._caption))
            if self._count % STRIDE == 0:
                self._offsets.append(offset)
            self._count += 1
        if not self._count:
            raise UsageError(f"the file {str(file)!r} holds no pair: it is empty or all blank")

    def __len__(self) -> int:
        return self._count

    def pair(self, index: int) -> tuple[Path | bytes, str]:
        block, place = divmod(index, STRIDE)
        for number, (_, record) in enumerate(self._records(self._offsets[block])):
            if number == place:
                return self._file.parent / record[self._image], record[self._caption].strip()
        raise RunError(f"the file {str(self._file)!r} changed while it was in use")

    def _records(self, offset: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Offset and contents of each line from a place on that is not blank."""
        with self._file.open("rb") as stream:
            stream.seek(offset)
            for number, line in enumerate(stream, start=1):
                start, offset = offset, offset + len(line)
                if line.isspace():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UsageError(
                        f"line {number} of {str(self._file)!r} expects a JSON object, got {str(error)!r}"
                    ) from error
                if not isinstance(record, dict):
                    raise UsageError(
                        f"line {number} of {str(self._file)!r} expects a JSON object,"
                        f" got a {type(record).__name__}"
                    )
                yield start, record


class _Parquet:
    """A table in row groups, one of which is in memory."""

    def __init__(self, file: Path, image: str | None, caption: str | None) -> None:
        self._file = file
        self._table = _open_parquet(file)
        names = self._table.schema_arrow.names
        self._image = _column(file, names, image, IMAGE_COLUMNS, "image")
        self._caption = _column(file, names, caption, CAPTION_COLUMNS, "caption")
        metadata = self._table.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._first_rows: list[int] = [0, *accumulate(sizes)]
        if not len(self):
            raise UsageError(f"the file {str(file)!r} holds no pair: it has no rows")
        self._group = -1
        self._rows: Mapping[str, Any] = {}

    def __len__(self) -> int:
        return self._first_rows[-1]

    def pair(self, index: int) -> tuple[Path | bytes, str]:
        group = bisect_right(self._first_rows, index) - 1
        if group != self._group:
            columns = [self._image, self._caption]
            self._rows = {
                name: self._table.read_row_group(group, columns=columns).column(name) for name in columns
            }
            self._group = group
        row = index - self._first_rows[group]
        picture, caption = (self._rows[name][row].as_py() for name in (self._image, self._caption))
        if isinstance(picture, Mapping):  # as Hugging Face datasets write pictures
            picture = picture.get("bytes") or picture.get("path")
        if not isinstance(caption, str) or not isinstance(picture, (bytes, str)):
            raise RunError(
                f"row {index} of {str(self._file)!r} expects a picture's bytes or path under"
                f" {self._image!r} and text under {self._caption!r},"
                f" got {type(picture).__name__} and {type(caption).__name__}"
            )
        return picture if isinstance(picture, bytes) else self._file.parent / picture, caption.strip()


def _open_parquet(file: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise EnvironmentFault(
            f"the file {str(file)!r} needs the package pyarrow, which is not installed",
            hint="pip install pyarrow",
        ) from error
    try:
        return parquet.ParquetFile(file)
    except ValueError as error:  # pyarrow's own ArrowInvalid is one
        raise UsageError(f"the file {str(file)!r} is no parquet file: {error}") from error


def _column(file: Path, found: Sequence[str], wanted: str | None, usual: Sequence[str], what: str) -> str:
    """The column of pictures or captions. Raises `UsageError` that names those there are."""
    for name in (wanted,) if wanted else usual:
        if name in found:
            return name
    expected = repr(wanted) if wanted else "one of " + ", ".join(usual)
    raise UsageError(
        f"the file {str(file)!r} expects the {what} under {expected}; got {', '.join(found) or 'no column'}"
    )


def _check_text(file: Path, where: str, record: Mapping[str, object], names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(record.get(name), str):
            raise UsageError(
                f"{where} of {str(file)!r} expects text under {name!r}, got {record.get(name)!r}"
            )
