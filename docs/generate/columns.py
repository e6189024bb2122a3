"""Docstrings that tell of arguments in two columns become lists on the site.

rewards      a spec ("aesthetic:0.5"), a function,
             a list of both
"""

from __future__ import annotations

import re
from typing import Any

import griffe

COLUMN = re.compile(r"^(\w+) {2,}(\S.*)$")


class Columns(griffe.Extension):
    """Writes such paragraphs as Markdown lists when a docstring is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            paragraphs = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(map(as_list, paragraphs))


def as_list(paragraph: str) -> str:
    """The paragraph, as a list where its first line is a name and what there is to say of it."""
    lines = paragraph.split("\n")
    if not COLUMN.match(lines[0]):
        return paragraph
    return "\n".join(
        COLUMN.sub(r"- `\1`: \2", line) if COLUMN.match(line) else "  " + line.strip() for line in lines
    )
