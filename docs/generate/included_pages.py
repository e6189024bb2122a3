"""Pages of the site that live elsewhere in the repository, and links between all pages.

A link is written as it works in the repository; on the site it leads to the page, where there is one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

INCLUDED = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
    "plugins/pocket-judges.md": "plugins/pocket/docs/judges.md",
    **{
        f"plugins/{path.parent.name}.md": f"plugins/{path.parent.name}/README.md"
        for path in ROOT.glob("plugins/*/README.md")
    },
}  # page of the site → file of the repository
PICTURES = ("*.png", "*.jpg", "*.svg")

CODE = r"^ *```.*?^ *```$|`[^`\n]*`"
LINK = r"(?P<mark>!?)\[(?P<words>(?:`[^`]*`|[^\]`])*)\]\((?P<target>[^)\s]+)\)"
CODE_OR_LINK = re.compile(f"{CODE}|{LINK}", re.MULTILINE | re.DOTALL)  # whichever begins first


def source_of(page: str) -> Path:
    """The file a page of the site is written in."""
    return ROOT / INCLUDED[page] if page in INCLUDED else DOCS / page


def pictures() -> dict[str, Path]:
    """Pictures beside included pages: place in the site → file."""
    found = [picture for kind in PICTURES for picture in ROOT.glob(f"plugins/*/docs/{kind}")]
    return {f"plugins/{path.parent.parent.name}/{path.name}": path for path in found}


def with_links(text: str, page: str) -> str:
    """The text with its links as they lead from `page` of the site; a link to no page becomes its words."""
    places = {source_of(name): name for name in INCLUDED} | {file: name for name, file in pictures().items()}

    def led(match: re.Match[str]) -> str:
        if match["target"] is None:
            return match[0]  # code is left alone
        address, hash_, anchor = match["target"].partition("#")
        if not address or ":" in address:
            return match[0]
        file = (source_of(page).parent / address).resolve()
        place = places.get(file) or (file.relative_to(DOCS).as_posix() if file.is_relative_to(DOCS) else None)
        if place is None:
            return match["words"]
        there = os.path.relpath(place, os.path.dirname(page) or ".")
        return f"{match['mark']}[{match['words']}]({there}{hash_}{anchor})"

    return CODE_OR_LINK.sub(led, text)
