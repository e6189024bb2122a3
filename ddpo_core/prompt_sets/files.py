"""Prompts from a file of any length: one pass finds where the records are, then each is read where it stands.

Text files (.txt, .csv, .jsonl) keep the byte offset of every 1024th record: 80 kB for ten million. A
.parquet file keeps the number of records before each row group. What is read last stays in memory, so walking
a file in order reads each part of it once.
"""

from __future__ import annotations

import csv
import importlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ddpo_core.errors import EnvironmentFault, RunError, UsageError
from ddpo_core.prompt_sets.words import with_articles
from ddpo_core.protocols import PromptSet
from ddpo_core.types import Prompt

STRIDE = 1024  # records between two remembered places
LONGEST_LINE = 1 << 20  # bytes; a longer one is another kind of file, and is refused before it fills the memory
TEXT_COLUMNS = ("prompt", "text", "caption")
_BOM = b"\xef\xbb\xbf"


class _Format(Protocol):
    """How a kind of file holds prompts."""

    def prompts(self, start: int) -> Iterator[tuple[int, Prompt]]:
        """The prompts from `start` on (0: the first), each with the place that reads it again."""


def open_prompts(*, path: str, column: str | None = None, article: bool = False) -> PromptSet:
    """The prompts of a .txt, .csv, .jsonl or .parquet file.

    `column` names the one that holds the prompt; without it the first of prompt, text and caption that is there.
    Raises `UsageError` where the file is missing, empty, malformed, or has no such column.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"the prompt file {path!r} {'is a folder' if file.is_dir() else 'does not exist'}")
    suffix = file.suffix.lower()
    if suffix == ".txt" and column:
        raise UsageError(f"the prompt file {path!r} has no columns, got column={column}", hint="leave column out")
    if suffix == ".parquet":
        return FilePrompts(file, _Parquet(file, column), article=article)
    if suffix not in _TEXT_FORMATS:
        raise UsageError(f"the prompt file {path!r} expects .txt, .csv, .jsonl or .parquet, got {suffix or 'no'} suffix")
    return FilePrompts(file, _TEXT_FORMATS[suffix](file, column), article=article)


class FilePrompts:
    """A `PromptSet` over a file that stays on the disk."""

    def __init__(self, file: Path, contents: _Format, *, article: bool = False) -> None:
        self._file = file
        self._contents = contents
        self._article = article
        self._stamp = _stamp(file)
        self._places = array("Q")  # of records 0, 1024, 2048, …
        self._length = 0
        for self._length, (place, _) in enumerate(contents.prompts(0), start=1):
            if self._length % STRIDE == 1:
                self._places.append(place)
        if self._length == 0:
            raise UsageError(f"the prompt file {str(file)!r} holds no prompt: it is empty or all blank")
        self._block_number = -1
        self._block: Sequence[Prompt] = ()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Prompt:
        if not 0 <= index < self._length:
            raise IndexError(f"{self._file.name} holds prompts 0 to {self._length - 1}, got {index}")
        number, place = divmod(index, STRIDE)
        if number != self._block_number:
            self._block = self._read(number)
            self._block_number = number
        return self._block[place]

    def _read(self, number: int) -> Sequence[Prompt]:
        if _stamp(self._file) != self._stamp:
            raise RunError(
                f"the prompt file {str(self._file)!r} changed while it was in use",
                hint="put the old file back and resume, or start a new run",
            )
        prompts = [prompt for _, prompt in islice(self._contents.prompts(self._places[number]), STRIDE)]
        return with_articles(prompts) if self._article else prompts


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
