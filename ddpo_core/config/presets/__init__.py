"""Settings that belong together, one TOML file each, named by their path: `paper/compressibility`."""

from __future__ import annotations

import tomllib
from importlib.resources import files

from ddpo_core.errors import UnknownName


def names() -> list[str]:
    """Every preset that ships, sorted."""
    root = files(__name__)
    top = [entry for entry in root.iterdir() if entry.name.endswith(".toml")]
    nested = [
        (folder.name, entry)
        for folder in root.iterdir()
        if folder.is_dir()
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    ]
    stems = [entry.name.removesuffix(".toml") for entry in top]
    return sorted(stems + [f"{folder}/{entry.name.removesuffix('.toml')}" for folder, entry in nested])


def read(name: str) -> dict[str, object]:
    """The settings of one preset. Raises `UnknownName` with the nearest one that there is."""
    if name not in names():
        from ddpo_core.nearest import did_you_mean

        raise UnknownName(
            f"no preset named '{name}'{did_you_mean(name, names())}", hint=f"there are: {', '.join(names())}"
        )
    return tomllib.loads(files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
