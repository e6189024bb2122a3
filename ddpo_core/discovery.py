"""From a name to the thing: what is installed, which plugin provides it, and how it is built.

    registry().find("reward", "jpeg")            what the reward says of itself; imports nothing heavy
    registry().build("reward", "jpeg,quality=80") the reward, ready to judge

Where two plugins provide one name, both are listed, and using that name asks for `distribution/name`.
How plugins are found and loaded is in `plugins`; what options may hold, in `options`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ddpo_core import builtin, plugins
from ddpo_core.errors import BrokenPlugin, DdpoError, EnvironmentFault, UnknownName, UsageError
from ddpo_core.info import Info
from ddpo_core.nearest import did_you_mean
from ddpo_core.options import check_options
from ddpo_core.plugins import KINDS, Filter, Found, Plugin, canonical
from ddpo_core.spec import Spec, parse

__all__ = ["KINDS", "Entry", "Plugin", "Registry", "check_options", "missing_packages", "registry"]


@dataclass(frozen=True)
class Entry:
    """A reward, sampler, estimator, model or prompt set, and the plugin it comes from."""

    kind: str
    info: Any  # the Info of its kind
    plugin: Plugin

    @property
    def qualified(self) -> str:
        """`distribution/name`: the name that nothing else has."""
        return f"{self.plugin.distribution}/{self.info.name}"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.info.name, *self.info.aliases)

    def is_called(self, name: str) -> bool:
        distribution, slash, bare = name.rpartition("/")
        return bare in self.names and (not slash or canonical(distribution) == self._distribution)

    @property
    def _distribution(self) -> str:
        return canonical(self.plugin.distribution)


class Registry:
    """Everything that is installed, by kind and name."""

    def __init__(self, plugins: Sequence[Plugin], unmatched: Sequence[str] = ()) -> None:
        self.plugins = tuple(plugins)
        self.unmatched = tuple(unmatched)  # names in DDPO_BLOCK and DDPO_ONLY that no plugin has

    @classmethod
    def discover(cls, path: Sequence[str] | None = None) -> Registry:
        """ddpo's own parts and every plugin installed on `path` (default: `sys.path`)."""
        allowed = Filter.from_environment()
        found = plugins.installed(path, allowed)
        return cls([_own(), *found], allowed.unmatched(plugin.distribution for plugin in found))

    @classmethod
    def of(cls, *modules: ModuleType | object) -> Registry:
        """ddpo's own parts and these plugin modules, nothing that is installed: for tests."""
        return cls([_own(), *(_given(module) for module in modules)])

    def with_file(self, path: Path) -> Registry:
        """This registry and the plugin in a loose file. Raises `BrokenPlugin` or `UsageError`."""
        return Registry([*self.plugins, plugins.from_file(path)], self.unmatched)

    @property
    def broken(self) -> list[Plugin]:
        """The plugins that could not be loaded."""
        return [plugin for plugin in self.plugins if plugin.status in ("broken", "incompatible")]

    def entries(self, kind: str) -> list[Entry]:
        """All of one kind, by name; two of one name are both there."""
        found = (Entry(kind, info, plugin) for plugin in self.plugins for info in plugin.infos.get(kind, ()))
        return sorted(found, key=lambda entry: (entry.info.name, entry.qualified))

    def infos(self, kind: str) -> list[Any]:
        """What every thing of a kind says of itself, by name."""
        return [entry.info for entry in self.entries(kind)]

    def find(self, kind: str, name: str) -> Any:
        """The `RewardInfo`, `SamplerInfo`, … of that name, alias or `distribution/name`.

        Raises `UnknownName`, `UsageError` where several are meant, `BrokenPlugin` where the plugin that
        was asked for cannot be loaded.
        """
        return self.entry(kind, name).info

    def entry(self, kind: str, name: str) -> Entry:
        """As `find`, with the plugin it comes from."""
        called = [entry for entry in self.entries(kind) if entry.is_called(name)]
        if not called:
            raise self._not_found(kind, name)
        if len(called) > 1:
            raise _ambiguous(kind, name, called)
        return called[0]

    def check_options(self, info: Info, spec: Spec) -> dict[str, Any]:
        """See `ddpo_core.options.check_options`."""
        return check_options(info, spec)

    def build(self, kind: str, spec: Spec | str, **context: Any) -> Any:
        """Import the factory that a spec names and call it with the spec's options and `context`.

        Raises what `find` and `check_options` raise, `EnvironmentFault` where a package is missing and
        `BrokenPlugin` where the factory cannot be imported.
        """
        if isinstance(spec, str):
            spec = parse(spec, weighted=kind == "reward")
        entry = self.entry(kind, spec.name)
        options = check_options(entry.info, spec)
        missing = missing_packages(entry.info)
        if missing:
            raise EnvironmentFault(
                f"{KINDS[kind].word} '{entry.info.name}' needs {_listed(missing)}, not installed here",
                hint=entry.info.install_hint or f"pip install {' '.join(missing)}",
            )
        return _factory(entry)(**options, **context)

    def _not_found(self, kind: str, name: str) -> DdpoError:
        distribution, slash, bare = name.rpartition("/")
        for plugin in self.plugins:
            named = canonical(distribution) == canonical(plugin.distribution) if slash else False
            if plugin.status != "ok" and (named or plugin.entry_point == bare):
                return _unloaded(kind, name, plugin)
        word, command = KINDS[kind].word, KINDS[kind].command
        message = f"no {word} named '{name}' is installed{self._meant(kind, name)}"
        entries = self.entries(kind)
        count = {1: "the one there is", 2: "both"}.get(len(entries), f"all {len(entries)}")
        hint = f"`{command}` shows {count}"
        if not entries:
            hint = f"no installed plugin provides a {word}; `ddpo plugins list` shows the plugins"
        if self.broken:
            unloaded = _listed([plugin.distribution for plugin in self.broken])
            hint += f"; not loaded: {unloaded} (`ddpo plugins list` says why)"
        return UnknownName(message, hint=hint)

    def _meant(self, kind: str, name: str) -> str:
        for other in KINDS:
            if other != kind and any(entry.is_called(name) for entry in self.entries(other)):
                return f"; '{name}' is a {KINDS[other].word}"
        valid = [known for entry in self.entries(kind) for known in (*entry.names, entry.qualified)]
        return did_you_mean(name, valid)


@lru_cache(maxsize=1)
def registry() -> Registry:
    """What is installed in this environment; looked for once per process."""
    return Registry.discover()


def missing_packages(info: Info) -> list[str]:
    """The packages an installed part needs that are not there; looked for, not imported."""
    return [name for name in info.requires if not _is_there(name)]


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a parent package is missing, or the module was put there by hand
        return False


def _own() -> Plugin:
    from ddpo_core import __version__

    return plugins.load(Found("ddpo", __version__, "ddpo", builtin.__name__, lambda: builtin))


def _given(module: Any) -> Plugin:
    name = str(getattr(module, "__name__", type(module).__name__))
    return plugins.load(Found(name.replace("_", "-"), "", name, name, lambda: module))


def _factory(entry: Entry) -> Any:
    if not isinstance(entry.info.factory, str):
        return entry.info.factory
    try:
        return imported(entry.info.factory)
    except (Exception, SystemExit) as error:
        raise BrokenPlugin(
            f"{KINDS[entry.kind].word} '{entry.info.name}' of {entry.plugin.distribution} cannot be loaded: "
            f"{type(error).__name__}: {error}",
            hint=entry.info.install_hint or "`ddpo doctor` looks for what is missing",
        ) from error


def imported(path: str) -> Any:
    """What "package.module:attribute" names. Raises whatever importing it raises."""
    module, _, attribute = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _ambiguous(kind: str, name: str, called: list[Entry]) -> UsageError:
    qualified = _listed([entry.qualified for entry in called], "or")
    return UsageError(
        f"{len(called)} installed plugins have a {KINDS[kind].word} named '{name}'",
        hint=f"write {qualified}, or set DDPO_BLOCK={called[-1].plugin.distribution}",
    )


def _unloaded(kind: str, name: str, plugin: Plugin) -> DdpoError:
    word = KINDS[kind].word
    if plugin.status == "blocked":
        return UsageError(
            f"no {word} '{name}': plugin {plugin.distribution} is {plugin.reason}",
            hint="change that environment variable to use it",
        )
    message = f"no {word} '{name}': plugin {plugin.distribution} could not be loaded: {plugin.reason}"
    return BrokenPlugin(message, hint=plugin.hint)


def _listed(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
