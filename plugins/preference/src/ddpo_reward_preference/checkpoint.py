"""Weights that are one file: a path, `PACKAGE:PATH`, or OWNER/NAME/FILE on the hub."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ddpo_core.judges import fetch, locate


def in_hub(source: str) -> tuple[str, str]:
    """OWNER/NAME/FILE as repository and file."""
    parts = source.split("/")
    return "/".join(parts[:2]), "/".join(parts[2:])


def named(source: str) -> str:
    """What an error calls it: the file, or the repository that a user can download."""
    located = locate(source)
    return located if Path(located).exists() else in_hub(located)[0]


def read_file(source: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pt file without running any code in it.

    Use it inside `loading`: it raises whatever says that there is no such file, or that it holds more.
    """
    path = _file(locate(source))
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its text advises to run the code
        raise ValueError("not a file of tensors and nothing else") from error
    tensors: dict[str, Tensor] = content.get("state_dict", content)
    return tensors


def fill(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Put the tensors into the module. Raises `ValueError` that names the first one too many or too few."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in tensors.items()}
    if got != expected:
        name = sorted(name for name in {*expected, *got} if expected.get(name) != got.get(name))[0]
        raise ValueError(f"not {what}: {name} {_misfit(expected.get(name), got.get(name))}")
    module.load_state_dict(dict(tensors))


def _misfit(expected: tuple[int, ...] | None, got: tuple[int, ...] | None) -> str:
    if got is None:
        return "is missing"
    return f"is {list(got)}, not {list(expected)}" if expected is not None else "has no place"


def _file(source: str) -> Path:
    return Path(source) if Path(source).exists() else fetch(*in_hub(source))
