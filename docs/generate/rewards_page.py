"""The rewards' reference, from the records that the plugins of this repository give of themselves."""

from __future__ import annotations

import tomllib
from itertools import groupby
from pathlib import Path

from ddpo_cli.listing import default_text, reward_facts, type_text
from ddpo_core.discovery import Entry, registry
from ddpo_core.info import RewardInfo

ROOT = Path(__file__).parents[2]
HEAD = """\
# Rewards

What the rewards of this repository say of themselves, as `ddpo rewards show NAME` does of any that is
installed. All of them also take
[the keys that ddpo keeps for itself](plugin-contract.md#keys-that-ddpo-keeps-for-itself).

"""


def page() -> str:
    entries = sorted(ours(), key=lambda entry: (entry.plugin.distribution, entry.info.name))
    parts = [HEAD + overview(entries)]
    for distribution, group in groupby(entries, key=lambda entry: entry.plugin.distribution):
        parts.append(
            f"## {distribution}\n\nMore on it: [its own page](../plugins/{folders()[distribution]}.md)."
        )
        parts += [described(entry.info) for entry in group]
    return "\n\n".join(parts) + "\n"


def folders() -> dict[str, str]:
    """Distribution → its folder under plugins/."""
    files = sorted(ROOT.glob("plugins/*/pyproject.toml"))
    return {tomllib.loads(file.read_text())["project"]["name"]: file.parent.name for file in files}


def ours() -> list[Entry]:
    """The rewards of this repository, whatever else is installed. Raises where one of them is not."""
    entries = [entry for entry in registry().entries("reward") if entry.plugin.distribution in folders()]
    missing = {name for name in folders() if "reward" in name} - {
        entry.plugin.distribution for entry in entries
    }
    if missing:
        raise RuntimeError(f"not installed: {', '.join(sorted(missing))}; pip install -r requirements.txt")
    return entries


def overview(entries: list[Entry]) -> str:
    rows = "\n".join(
        f"| [`{entry.info.name}`](#{entry.info.name}) | {entry.info.summary} |" for entry in entries
    )
    return f"| reward | measures |\n|---|---|\n{rows}"


def described(info: RewardInfo) -> str:
    aliases = {"also called": ", ".join(f"`{alias}`" for alias in info.aliases)}
    facts = aliases | reward_facts(info) | {"needs": ", ".join(info.requires)}
    told = "\n".join(f"| {key} | {_cell(value)} |" for key, value in facts.items() if value)
    parts = [f"### {info.name}", f"{info.summary[0].upper()}{info.summary[1:]}.", f"| | |\n|---|---|\n{told}"]
    if info.options:
        rows = [
            f"| `{o.name}` | {_cell(type_text(o))} | {_code(default_text(o))} | {_cell(o.help)} |"
            for o in info.options
        ]
        parts.append("\n".join(["| option | type | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join([*parts, info.doc.strip()] if info.doc else parts)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
