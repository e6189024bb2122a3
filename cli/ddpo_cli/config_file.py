"""config.toml of a run: every setting, readable, and where each came from."""

from __future__ import annotations

import tomllib
from pathlib import Path

import tomli_w

from ddpo_core.config.resolve import ORIGINS, Resolved
from ddpo_core.config.settings import RunConfig, Setting, declared
from ddpo_core.errors import CheckpointError

OPENING = """\
# Everything this run is. Again: ddpo train --config THIS_FILE
# On with it: ddpo train --resume THIS_FOLDER
"""


def dumps(resolved: Resolved) -> str:
    """The text of config.toml; `resolve([from_file(it)])` gives an equal config."""
    panels: dict[str, list[Setting]] = {}
    for setting in declared().values():
        panels.setdefault(setting.panel, []).append(setting)
    parts = [OPENING]
    for panel, settings in panels.items():
        parts.append(f"\n# {panel}\n")
        parts += [_line(setting, resolved.config) for setting in settings]
    parts.append("\n# Who chose what; these are not read as settings.\n")
    parts.append(tomli_w.dumps({ORIGINS: dict(resolved.origins)}))
    return "".join(parts)


def _line(setting: Setting, config: RunConfig) -> str:
    value = getattr(config, setting.name)
    return tomli_w.dumps({setting.name: list(value) if setting.many else value})


def stored(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    """The settings and the origins in a run's config.toml. Raises `CheckpointError` where it was damaged."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    origins = values.pop(ORIGINS, {})
    return values, {key: str(origin) for key, origin in origins.items()}
