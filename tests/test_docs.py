"""The site: it builds without a warning, fetches nothing, and says of commands and rewards what they say."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


class Warnings(logging.Handler):
    """What mkdocs warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def build(site: Path, docs: Path = ROOT / "docs") -> list[str]:
    """Build the site of `docs` into `site`, and return the warnings."""
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    warnings, log = Warnings(), logging.getLogger("mkdocs")
    log.addHandler(warnings)
    try:
        config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(docs), site_dir=str(site))
        config.plugins.on_startup(command="build", dirty=False)
        build_site(config)
    finally:
        log.removeHandler(warnings)
    return warnings.said


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The site's folder, and what mkdocs warned of."""
    site = tmp_path_factory.mktemp("site")
    return site, build(site)


@pytest.fixture
def site(built: tuple[Path, list[str]]) -> Path:
    return built[0]


class Fetching(HTMLParser):
    """Addresses that a browser loads by itself, which a link is not."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.fetched += [values["src"]] if "src" in values else []
        self.fetched += [values["href"]] if tag == "link" and "href" in values else []


def fetched_from_elsewhere(page: str) -> list[str]:
    return [address for address in Fetching(page).fetched if re.match(r"(https?:)?//", address)]


# ---- building ----------------------------------------------------------------------------------------


def test_the_site_builds_without_a_warning(built: tuple[Path, list[str]]) -> None:
    assert built[1] == []


def test_a_dead_link_a_lost_picture_and_a_page_in_no_menu_are_warned_of(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    (docs / "pocket.md").write_text(
        "# Pocket\n\n[gone](gone.md) [no such part](index.md#nowhere)\n\n![](lost.png)\n"
    )
    (docs / "forgotten.md").write_text("# Forgotten\n")
    warned = "\n".join(build(tmp_path / "site", docs))
    assert "'gone.md'" in warned and "'lost.png'" in warned
    assert "#nowhere" in warned
    assert "forgotten.md" in warned


def test_pages_fetch_nothing_and_so_do_styles(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    assert {page.name: fetched_from_elsewhere(page.read_text()) for page in pages} == {
        page.name: [] for page in pages
    }
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)[\"' ]*(https?:)?//", style.read_text()), style.name


def test_what_is_fetched_would_be_found() -> None:
    assert fetched_from_elsewhere('<script src="//a.b/c.js"></script>') == ["//a.b/c.js"]
    assert fetched_from_elsewhere('<link rel="stylesheet" href="https://a.b/c.css">') == ["https://a.b/c.css"]
    assert fetched_from_elsewhere('<a href="https://a.b">x</a><img src="images/c.png">') == []


def test_pictures_and_pages_of_the_site_are_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        for address in Fetching(page.read_text()).fetched:
            file = address.partition("?")[0]
            assert page.name == "404.html" or (page.parent / file).exists(), f"{page.name}: {address}"


def test_the_search_works_from_the_disk(site: Path) -> None:
    index = (site / "search/search_index.js").read_text()
    places = {doc["location"] for doc in json.loads(index.removeprefix("var __index = "))["docs"]}
    assert {"tutorial.html", "reference/cli.html#ddpo-rewards-score"} <= places
    for page in site.rglob("*.html"):  # a browser starts no worker from a file: this stands in for it
        scripts = [address for address in Fetching(page.read_text()).fetched if address.endswith(".js")]
        assert scripts[0].endswith("assets/iframe-worker.js"), page.name


# ---- what is generated -------------------------------------------------------------------------------


@pytest.fixture
def generators(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """The modules of docs/generate, by name."""
    from importlib import import_module

    monkeypatch.syspath_prepend(ROOT / "docs/generate")
    yield import_module


def test_the_command_reference_has_every_command_with_every_option(
    generators: Callable[[str], ModuleType],
) -> None:
    from ddpo_core.config.settings import declared

    cli_page = generators("cli_page")
    page = cli_page.page()
    for words in (
        "train",
        "sample",
        "eval",
        "report",
        "doctor",
        "rewards score",
        "samplers list",
        "plugins list",
    ):
        assert f"\n## ddpo {words}\n" in page
    train = page[page.index("## ddpo train") : page.index("## ddpo sample")]
    for setting in declared().values():
        assert f"`{setting.flag}`" in train
    assert "```text\nddpo rewards show NAME [OPTIONS]\n```" in page
    assert "| `--mixer` `gdpo|sum|sequential|pcgrad` |" in train
    assert "| 3 | the environment lacks something" in page


def test_the_rewards_reference_has_every_reward_with_every_option(
    generators: Callable[[str], ModuleType],
) -> None:
    rewards_page = generators("rewards_page")
    page = rewards_page.page()
    entries = rewards_page.ours()
    assert len(entries) >= 11
    for entry in entries:
        part = page.partition(f"\n### {entry.info.name}\n")[2].partition("\n### ")[0]
        assert entry.info.fooled_by in part
        assert all(f"| `{option.name}` |" in part for option in entry.info.options)


def test_a_reward_of_the_repository_that_is_not_installed_is_told_of(
    generators: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddpo_core.discovery import registry

    rewards_page = generators("rewards_page")
    monkeypatch.setenv("DDPO_BLOCK", "ddpo-reward-jpeg")
    registry.cache_clear()
    with pytest.raises(RuntimeError, match="not installed: ddpo-reward-jpeg"):
        rewards_page.ours()
    monkeypatch.delenv("DDPO_BLOCK")
    registry.cache_clear()


# ---- links -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "written", "led"),
    [
        (
            "how-to/group-reward.md",
            "[its page](../../plugins/jpeg/README.md)",
            "[its page](../plugins/jpeg.md)",
        ),
        ("index.md", "[more](../benchmarks/README.md#figures)", "[more](benchmarks.md#figures)"),
        ("benchmarks.md", "[e](../docs/estimators.md)", "[e](estimators.md)"),
        ("plugins/pocket.md", "[animals](docs/animals.jpg)", "[animals](pocket/animals.jpg)"),
        ("plugins/pocket.md", "see [NOTICE](NOTICE).", "see NOTICE."),  # no page of the site
        ("contributing.md", "[arXiv](https://arxiv.org/abs/1)", "[arXiv](https://arxiv.org/abs/1)"),
        ("notes.md", "[here](#threads)", "[here](#threads)"),
        ("notes.md", "`[x](y.md)`", "`[x](y.md)`"),  # code is left alone
        ("changelog.md", "`a` [`--json`](docs/notes.md) `b`", "`a` [`--json`](notes.md) `b`"),
    ],
)
def test_links_lead_on_the_site_where_they_lead_in_the_repository(
    generators: Callable[[str], ModuleType], page: str, written: str, led: str
) -> None:
    assert generators("included_pages").with_links(written, page) == led


def dead_links(file: Path) -> list[str]:
    """Relative links to files that are not there."""
    code = re.compile(r"^```.*?^```$|^(?:    .*\n)+|`[^`\n]*`", re.MULTILINE | re.DOTALL)
    addresses = [address for address in LINK.findall(code.sub("", file.read_text())) if ":" not in address]
    return [address for address in addresses if not (file.parent / address).exists()]


@pytest.mark.parametrize(
    "file",
    [*sorted(ROOT.glob("*.md")), ROOT / "benchmarks/README.md", *sorted(ROOT.glob("plugins/**/*.md"))],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_pages_outside_the_site_have_no_dead_links(file: Path) -> None:
    assert dead_links(file) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("[a](gone.md) [b](page.md#part) `[c](code.md)` [d](https://e.f/g.md)\n\n    [h](i.md)\n")
    assert dead_links(file) == ["gone.md"]
