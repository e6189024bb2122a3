"""`ddpo doctor`: is everything here that the installed parts need, and what to type where it is not."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata

import typer

from ddpo_cli.console import emit_json, style, table
from ddpo_cli.listing import NOUNS, described_plugin
from ddpo_cli.options import AsJson
from ddpo_core import __version__
from ddpo_core.discovery import KINDS, Plugin, Registry, missing_packages, registry

PACKAGES = (
    "torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors",
    "numpy", "pillow", "pluggy", "typer",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """Something that is wrong, and what mends it."""

    what: str
    mend: str


def doctor(as_json: AsJson = False) -> None:
    """Check versions, devices, plugins and their packages; exits with 3 where something is wrong."""
    known = registry()
    versions, devices, faults = _versions(), _devices(), find_faults(known)
    if as_json:
        emit_json(
            {
                "ok": not faults,
                "versions": versions,
                "devices": devices,
                "plugins": [described_plugin(plugin) for plugin in known.plugins],
                "faults": [{"what": fault.what, "mend": fault.mend} for fault in faults],
            }
        )
    else:
        _print_report(known, versions, devices, faults)
    if faults:
        raise typer.Exit(3)


def find_faults(known: Registry) -> list[Fault]:
    """Plugins that do not load, and packages that an installed part needs and does not find."""
    faults = [
        Fault(f"plugin {plugin.distribution} is not loaded: {plugin.reason}", plugin.hint)
        for plugin in known.broken
    ]
    missing: dict[tuple[str, str], list[str]] = {}
    for noun in NOUNS:
        for entry in known.entries(noun.kind):
            for package in missing_packages(entry.info):
                mend = entry.info.install_hint or f"pip install {package}"
                users = missing.setdefault((package, mend), [])
                users.append(f"{KINDS[noun.kind].word} {entry.info.name}")
    return faults + [
        Fault(f"package '{package}' is missing; needed by {', '.join(users)}", mend)
        for (package, mend), users in missing.items()
    ]


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version(), "ddpo": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _devices() -> list[str]:
    """What torch can compute on; the one place in the listing commands that imports it."""
    devices = [f"cpu ({os.cpu_count()} cores)"]
    try:
        import torch
    except ImportError:
        return devices
    for index in range(torch.cuda.device_count()):
        gigabytes = torch.cuda.get_device_properties(index).total_memory / 1e9
        devices.append(f"cuda:{index} ({torch.cuda.get_device_name(index)}, {gigabytes:.0f} GB)")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _print_report(
    known: Registry, versions: dict[str, str | None], devices: list[str], faults: list[Fault]
) -> None:
    print(
        table(
            [(name, version or "not installed") for name, version in versions.items()], ("package", "version")
        )
    )
    print("\n" + table([(device,) for device in devices], ("device",)))
    rows = [(p.distribution, p.version, p.status, f"{p.load_ms:.0f} ms", _remark(p)) for p in known.plugins]
    print("\n" + table(rows, ("plugin", "version", "status", "load", "remark")) + "\n")
    for fault in faults:
        print(f"{style('fault:', 'red')} {fault.what}\n  {fault.mend}")
    if not faults:
        print(style("no faults found", "green"))


def _remark(plugin: Plugin) -> str:
    if plugin.heavy:
        return f"imports {', '.join(plugin.heavy)} when it is loaded, which slows every command"
    return plugin.reason
