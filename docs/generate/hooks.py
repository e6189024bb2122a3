"""What mkdocs asks while it builds the site: generated and included pages, and links to them."""

from __future__ import annotations

from typing import Any

import cli_page
import rewards_page
from included_pages import INCLUDED, pictures, source_of, with_links
from mkdocs.structure.files import File, Files

GENERATED = {"reference/cli.md": cli_page.page, "reference/rewards.md": rewards_page.page}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no files of docs/."""
    for place, written in GENERATED.items():
        files.append(File.generated(config, place, content=written()))
    for place in INCLUDED:
        files.append(File.generated(config, place, content=source_of(place).read_text(encoding="utf-8")))
    for place, file in pictures().items():
        files.append(File.generated(config, place, content=file.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return with_links(markdown, page.file.src_uri)
