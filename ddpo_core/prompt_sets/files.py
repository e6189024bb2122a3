"""Prompts from a file of any length: one pass finds where the records are, then each is read where it stands.

Text files (.txt, .csv, .jsonl) keep the byte offset of every 1024th record: 80 kB for ten million. A
.parquet file keeps the number of records before each row group. What is read last stays in memory, so walking
a file in order reads each part of it once.

A split holds some prompts out by their numbers alone: the last n of a seeded shuffle are a seeded sample of
n, so no shuffle is made. Taking each text once costs 8 bytes a record.
"""

from __future__ import annotations

import csv
import json
import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from ddpo_core.errors import EnvironmentFault, RunError, UsageError
from ddpo_core.prompt_sets.words import with_articles
from ddpo_core.protocols import PromptSet
from ddpo_core.types import Prompt

Split = Literal["seen", "held_out", "all"]
STRIDE = 1024  # records between two remembered places
LONGEST_LINE = 1 << 20  # bytes; a longer one is no prompt, and is refused before it fills the memory
TEXT_COLUMNS = ("prompt", "text", "caption")
_BOM = b"\xef\xbb\xbf"


class _Format(Protocol):
    """How a kind of file holds prompts. A place is what `prompts` needs to start there."""

    def entries(self) -> Iterator[tuple[int, str]]:
        """Place and text of each prompt. Raises `UsageError` at the first record that is malformed."""

    def prompts(self, place: int) -> Iterator[Prompt]:
        """The prompts from a place on, in the order of the file."""


def open_prompts(
    *,
    path: str,
    column: str | None = None,
    article: bool = False,
    split: Split = "all",
    held_out: int = 2000,
    seed: int = 0,
    unique: bool = False,
) -> PromptSet:
    """The prompts of a .txt, .csv, .jsonl or .parquet file, or one part of them.

    `column` holds the prompt; where it is None, the first of prompt, text and caption that is there does.
    Raises `UsageError` where the file is missing, empty, malformed, has no such column, or is too short to
    hold that many prompts out.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"the prompt file {path!r} {'is a folder' if file.is_dir() else 'does not exist'}")
    prompts: PromptSet = FilePrompts(file, _format(file, column), article=article, unique=unique)
    if split == "all":
        return prompts
    if len(prompts) <= held_out:
        raise UsageError(
            f"the prompt file {path!r} holds {len(prompts)} prompts, too few to hold {held_out} of them out",
            hint="give a smaller held_out=",
        )
    return _Part(prompts, sorted(random.Random(seed).sample(range(len(prompts)), held_out)), split)


def _format(file: Path, column: str | None) -> _Format:
    suffix = file.suffix.lower()
    if suffix == ".txt" and column:
        raise UsageError(
            f"the prompt file {str(file)!r} has no columns, got column={column}", hint="leave it out"
        )
    if suffix == ".parquet":
        return _Parquet(file, column)
    if suffix not in _TEXT_FORMATS:
        raise UsageError(
            f"the prompt file {str(file)!r} expects .txt, .csv, .jsonl or .parquet,"
            f" got {suffix or 'no suffix'}"
        )
    return _TEXT_FORMATS[suffix](file, column)


class _Part:
    """The prompts of a set that stand at some indices, or those at all others."""

    def __init__(self, prompts: PromptSet, held_out: Sequence[int], split: Split) -> None:
        self._prompts = prompts
        self._held_out = held_out  # ascending
        # how many of the others stand before each held-out one: ascending, so that it can be searched
        self._others_before = [index - rank for rank, index in enumerate(held_out)]
        self._is_held_out = split == "held_out"

    def __len__(self) -> int:
        held_out = len(self._held_out)
        return held_out if self._is_held_out else len(self._prompts) - held_out

    def __getitem__(self, index: int) -> Prompt:
        if not 0 <= index < len(self):
            raise IndexError(f"this part holds prompts 0 to {len(self) - 1}, got {index}")
        if self._is_held_out:
            return self._prompts[self._held_out[index]]
        return self._prompts[index + bisect_right(self._others_before, index)]


class FilePrompts:
    """A `PromptSet` over a file that stays on the disk."""

    def __init__(self, file: Path, contents: _Format, *, article: bool = False, unique: bool = False) -> None:
        self._file = file
        self._contents = contents
        self._article = article
        self._stamp = _stamp(file)
        self._places = array("Q")  # of records 0, 1024, 2048, …
        records, digests = 0, array("Q")
        for place, text in contents.entries():
            if records % STRIDE == 0:
                self._places.append(place)
            records += 1
            if unique:
                digests.append(_digest(text))
        if records == 0:
            raise UsageError(f"the prompt file {str(file)!r} holds no prompt: it is empty or all blank")
        self._records: Sequence[int] = _first_of_each(digests) if unique else range(records)
        self._block_number = -1
        self._block: Sequence[Prompt] = ()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Prompt:
        if not 0 <= index < len(self):
            raise IndexError(f"{self._file.name} holds prompts 0 to {len(self) - 1}, got {index}")
        number, place = divmod(self._records[index], STRIDE)
        if number != self._block_number:
            self._block = self._read(number)
            self._block_number = number
        prompt = self._block[place]
        return with_articles([prompt])[0] if self._article else prompt

    def _read(self, number: int) -> Sequence[Prompt]:
        if _stamp(self._file) != self._stamp:
            raise RunError(
                f"the prompt file {str(self._file)!r} changed while it was in use",
                hint="put the old file back and resume, or start a new run",
            )
        return list(islice(self._contents.prompts(self._places[number]), STRIDE))


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _digest(text: str) -> int:
    """64 bits of a text: two of ten million texts are alike with a chance of 3e-6."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _first_of_each(digests: array[int]) -> array[int]:
    """Where each digest comes for the first time, in the order of the file."""
    import numpy as np

    _, firsts = np.unique(np.frombuffer(digests, np.uint64), return_index=True)
    return array("Q", np.sort(firsts).astype(np.uint64).tobytes())


class _Lines:
    """The decoded lines of a file, with the byte offset of the line that comes next."""

    def __init__(self, file: Path, stream: BinaryIO, offset: int = 0) -> None:
        self._file = file
        self._stream = stream
        self.offset = max(offset, len(_BOM)) if stream.read(len(_BOM)) == _BOM else offset
        self.number = 0  # of the line last given, counted from where the reading began
        stream.seek(self.offset)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(LONGEST_LINE + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > LONGEST_LINE:
            raise self.error(f"a line of at most {LONGEST_LINE} bytes", "a longer one")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error("UTF-8 text", f"the byte 0x{line[error.start]:02x}") from error
        self.offset += len(line)
        return text

    def error(self, expected: str, got: str) -> UsageError:
        where = f"line {self.number} of the prompt file {str(self._file)!r}"
        return UsageError(f"{where} expects {expected}, got {got}")


class _Txt:
    """One prompt per line."""

    def __init__(self, file: Path, column: str | None) -> None:
        self._file = file

    def entries(self) -> Iterator[tuple[int, str]]:
        return self._texts(0)

    def prompts(self, place: int) -> Iterator[Prompt]:
        return (Prompt(text) for _, text in self._texts(place))

    def _texts(self, start: int) -> Iterator[tuple[int, str]]:
        with self._file.open("rb") as stream:
            lines = _Lines(self._file, stream, start)
            place = lines.offset
            for line in lines:
                if text := line.strip():
                    yield place, text
                place = lines.offset


class _Csv:
    """A header and rows, as in RFC 4180: a quoted field may hold commas, doubled quotes and line ends."""

    def __init__(self, file: Path, column: str | None) -> None:
        self._file = file
        self._header: list[str] = []
        rows = self._rows(0)
        self._header = next((row for _, row in rows), [])
        self._body = next((place for place, _ in rows), file.stat().st_size)
        self._column = _text_column(file, self._header, column)
        self._text_at = self._header.index(self._column)

    def entries(self) -> Iterator[tuple[int, str]]:
        for place, row in self._rows(self._body):
            if text := row[self._text_at].strip():
                yield place, text

    def prompts(self, place: int) -> Iterator[Prompt]:
        for _, row in self._rows(place):
            if text := row[self._text_at].strip():
                yield Prompt(text, _others(dict(zip(self._header, row, strict=True)), self._column))

    def _rows(self, start: int) -> Iterator[tuple[int, list[str]]]:
        """Rows with the place each starts at: exact, for the reader asks for lines one by one."""
        with self._file.open("rb") as stream:
            lines = _Lines(self._file, stream, start)
            place = lines.offset
            reader = csv.reader(lines, strict=True)
            while (row := self._next_row(reader, lines)) is not None:
                if row:
                    yield place, row
                place = lines.offset

    def _next_row(self, reader: Iterator[list[str]], lines: _Lines) -> list[str] | None:
        """The next row, [] for a blank line, None at the end."""
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise lines.error("well-formed CSV", f"{str(error)!r}") from error
        if row and self._header and len(row) != len(self._header):
            expected = f"{len(self._header)} fields, as in the header (quote those with commas)"
            raise lines.error(expected, str(len(row)))
        return row


class _Jsonl:
    """One JSON object per line."""

    def __init__(self, file: Path, column: str | None) -> None:
        self._file = file
        self._column = ""
        first = next((record for _, record in self._records(0)), {})
        self._column = _text_column(file, list(first), column)

    def entries(self) -> Iterator[tuple[int, str]]:
        for place, record in self._records(0):
            if text := record[self._column].strip():
                yield place, text

    def prompts(self, place: int) -> Iterator[Prompt]:
        for _, record in self._records(place):
            if text := record[self._column].strip():
                yield Prompt(text, _others(record, self._column))

    def _records(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        with self._file.open("rb") as stream:
            lines = _Lines(self._file, stream, start)
            place = lines.offset
            for line in lines:
                if not line.isspace():
                    yield place, self._parse(line, lines)
                place = lines.offset

    def _parse(self, line: str, lines: _Lines) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise lines.error("a JSON object per line", f"{str(error)!r}") from error
        if not isinstance(record, dict):
            raise lines.error("a JSON object per line", f"a {type(record).__name__}")
        if self._column and not isinstance(record.get(self._column), str):
            raise lines.error(f"a string under {self._column!r}", f"{record.get(self._column)!r}")
        return record


class _Parquet:
    """A table in row groups. A place is a row number; reaching it reads its row group from the start."""

    def __init__(self, file: Path, column: str | None) -> None:
        self._file = file
        with self._open() as table:
            metadata = table.metadata
            self._column = _text_column(file, table.schema_arrow.names, column)
            kind = str(table.schema_arrow.field(self._column).type)
        if "string" not in kind:  # string, large_string, string_view, or a dictionary of them
            raise UsageError(f"the prompt file {str(file)!r} expects text in {self._column!r}, got {kind}")
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._first_rows = [0, *accumulate(sizes)][:-1]

    def entries(self) -> Iterator[tuple[int, str]]:
        for row, record in self._records(0, [self._column]):
            if text := record[self._column].strip():
                yield row, text

    def prompts(self, place: int) -> Iterator[Prompt]:
        for _, record in self._records(place, None):
            if text := record[self._column].strip():
                yield Prompt(text, _others(record, self._column))

    def _records(self, start: int, columns: Sequence[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows from `start` on with their numbers, where there is a text; all columns for None."""
        if not self._first_rows:
            return
        group = bisect_right(self._first_rows, start) - 1
        row = self._first_rows[group]
        with self._open() as table:
            groups = range(group, len(self._first_rows))
            for batch in table.iter_batches(batch_size=STRIDE, row_groups=groups, columns=columns):
                wanted = batch.slice(min(max(0, start - row), batch.num_rows))
                for number, record in enumerate(wanted.to_pylist(), start=max(row, start)):
                    if record[self._column] is not None:
                        yield number, record
                row += batch.num_rows

    def _open(self) -> Any:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise EnvironmentFault(
                f"the prompt file {str(self._file)!r} needs the package pyarrow, which is not installed",
                hint="pip install pyarrow",
            ) from error
        try:
            return parquet.ParquetFile(self._file)
        except ValueError as error:  # pyarrow's own ArrowInvalid is one
            raise UsageError(f"the prompt file {str(self._file)!r} is no parquet file: {error}") from error


_TEXT_FORMATS: Mapping[str, type[_Txt | _Csv | _Jsonl]] = {".txt": _Txt, ".csv": _Csv, ".jsonl": _Jsonl}


def _text_column(file: Path, found: Sequence[str], wanted: str | None) -> str:
    """The column that holds the prompt. Raises `UsageError` that names those there are."""
    if not found:
        raise UsageError(f"the prompt file {str(file)!r} holds no prompt: it is empty or all blank")
    for name in (wanted,) if wanted else TEXT_COLUMNS:
        if name in found:
            return name
    expected = repr(wanted) if wanted else "one of " + ", ".join(map(repr, TEXT_COLUMNS))
    raise UsageError(
        f"the prompt file {str(file)!r} expects the column {expected}, got {', '.join(map(repr, found))}",
        hint=f"--prompts file,path={file},column={found[0]}",
    )


def _others(record: Mapping[str, object], column: str) -> dict[str, object]:
    return {name: value for name, value in record.items() if name != column}
