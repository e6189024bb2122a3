"""Finding installed plugins and loading each by itself, so that a broken one stops nothing but itself.

Why not `pluggy.load_setuptools_entrypoints`: it drops one of two plugins with equal entry-point names in
silence, and one plugin that fails to import ends the whole program. Here a plugin is its distribution, a
failure (an exit, too) is kept with its reason, and every plugin has a plugin manager of its own.

What the parts that plugins provide are used for is told in `discovery`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pluggy

from ddpo_core import hookspecs
from ddpo_core.errors import BrokenPlugin, UsageError
from ddpo_core.info import EstimatorInfo, Info, ModelInfo, PromptSetInfo, RewardInfo, SamplerInfo
from ddpo_core.nearest import nearest_path
from ddpo_core.spec import RESERVED

GROUP = "ddpo"
Status = Literal["ok", "broken", "incompatible", "blocked"]
HEAVY = ("torch", "tensorflow", "jax", "transformers", "diffusers", "numpy", "PIL")  # 0.1 to 5 s to import


class Kind(NamedTuple):
    """A kind of plugin part: its hook, its record, and how it is said and listed."""

    hook: str
    info: type[Info]
    word: str
    command: str


KINDS: Mapping[str, Kind] = {
    "reward": Kind("ddpo_rewards", RewardInfo, "reward", "ddpo rewards list"),
    "sampler": Kind("ddpo_samplers", SamplerInfo, "sampler", "ddpo samplers list"),
    "estimator": Kind("ddpo_estimators", EstimatorInfo, "estimator", "ddpo estimators list"),
    "model": Kind("ddpo_models", ModelInfo, "model", "ddpo models list"),
    "prompts": Kind("ddpo_prompt_sets", PromptSetInfo, "prompt set", "ddpo prompts list"),
}


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One plugin, loaded or not, and why not."""

    distribution: str
    version: str
    entry_point: str  # its name there; of no meaning, but what people remember
    module: str
    status: Status = "ok"
    reason: str = ""  # why it is not ok
    hint: str = ""  # what mends it
    load_ms: float = 0.0
    heavy: tuple[str, ...] = ()  # heavy modules that loading it imported
    infos: Mapping[str, tuple[Info, ...]] = field(default_factory=dict)
    error: BaseException | None = None


@dataclass(frozen=True)
class Filter:
    """Which distributions may load: `DDPO_BLOCK` names those that may not, `DDPO_ONLY` all that may."""

    block: frozenset[str] = frozenset()
    only: frozenset[str] | None = None  # None: all; empty: none

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Filter:
        only = environ.get("DDPO_ONLY")
        return cls(_names(environ.get("DDPO_BLOCK", "")), None if only is None else _names(only))

    def reason(self, distribution: str) -> str:
        """Why a distribution may not load, or nothing."""
        name = canonical(distribution)
        if name in self.block:
            return "blocked by DDPO_BLOCK"
        if self.only is not None and name not in self.only:
            return "not among DDPO_ONLY"
        return ""

    def unmatched(self, distributions: Iterable[str]) -> list[str]:
        """The listed names that no installed plugin has: most likely misspelt."""
        installed = {canonical(name) for name in distributions}
        return sorted((self.block | (self.only or frozenset())) - installed)


def canonical(distribution: str) -> str:
    """A distribution's name as the packaging standards compare it: lower case, one hyphen."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def installed(path: Sequence[str] | None = None, allowed: Filter | None = None) -> list[Plugin]:
    """The plugins on `path` (default: `sys.path`), sorted by distribution, each loaded by itself."""
    allowed = allowed or Filter.from_environment()
    plugins = []
    for entry in entry_points(path):
        reason = allowed.reason(entry.distribution)
        if reason:
            plugins.append(_plugin(entry, status="blocked", reason=reason))
        else:
            plugins.append(load(entry))
    return _without_repeats(plugins)


class Found(NamedTuple):
    """A plugin that is known of and not yet loaded."""

    distribution: str
    version: str
    entry_point: str
    module: str
    load: Callable[[], object]


def entry_points(path: Sequence[str] | None = None) -> list[Found]:
    """The plugins on `path` (default: `sys.path`) by distribution; none of them is loaded."""
    found: dict[tuple[str, str], Found] = {}
    for distribution in metadata.distributions(path=list(sys.path if path is None else path)):
        points = distribution.entry_points.select(group=GROUP)
        if not points:
            continue  # before reading the name: that costs 50 × as much
        name = distribution.metadata["Name"] or "unnamed"
        for point in points:
            # The first on the path is the one that Python imports; a stale egg-info behind it is no plugin.
            key = (canonical(name), point.name)
            found.setdefault(key, Found(name, distribution.version, point.name, point.value, point.load))
    return [found[key] for key in sorted(found)]


def from_file(path: Path) -> Plugin:
    """A plugin in a loose file that the user named; its factory strings name the module as the file is named.

    Raises `BrokenPlugin`, or `UsageError` where there is no file or its name is that of another module.
    """
    path = path.resolve()
    if not path.is_file():
        raise UsageError(f"--plugin: there is no file {path}{nearest_path(path)}")
    name = re.sub(r"\W", "_", path.stem)
    other = importlib.util.find_spec(name)
    if other and Path(str(other.origin)).resolve() != path:
        raise UsageError(f"--plugin: {path} would hide the module '{name}'", hint="rename the file")

    def load_file() -> object:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise _Fault("a plugin file is Python source and ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where the factory strings look for it
        spec.loader.exec_module(module)
        return module

    plugin = load(Found(path.name, "", path.stem, str(path), load_file))
    if plugin.status != "ok":
        sys.modules.pop(name, None)
        hint = "mend the file, or leave --plugin out"
        raise BrokenPlugin(f"plugin {path}: {plugin.reason}", hint=hint) from plugin.error
    return plugin


def is_path(text: str) -> bool:
    """Whether `text` is a plugin's file or folder, and no spec."""
    folder = Path(text)
    if text.startswith((".", "/")) or text.endswith(".py"):  # a name begins with a letter or digit
        return True
    return (folder / "pyproject.toml").is_file() or ("/" in text and folder.is_dir())


def from_path(path: Path) -> list[Plugin]:
    """The plugins of a loose file, or of the folder of a distribution that need not be installed.

    The folder's modules then come before installed ones. Raises `BrokenPlugin` or `UsageError`.
    """
    if not path.exists():
        raise UsageError(f"there is no file or folder {path}{nearest_path(path)}")
    if path.is_file():
        return [from_file(path)]
    project = _project(path)
    points = project.get("entry-points", {}).get(GROUP, {})
    if not points:
        raise UsageError(
            f"{path / 'pyproject.toml'}: expected an entry point in the group {GROUP}, got none",
            hint=f'add [project.entry-points.{GROUP}] and under it NAME = "the_module_with_the_hook"',
        )
    source = (path / "src" if (path / "src").is_dir() else path).resolve()
    sys.path.insert(0, str(source))
    name, version = str(project.get("name", path.name)), str(project.get("version", ""))
    found = []
    for point, module in points.items():
        _forget_copies(module, source)
        plugin = load(Found(name, version, point, module, metadata.EntryPoint(point, module, GROUP).load))
        if plugin.status != "ok":
            raise BrokenPlugin(f"plugin {name}: {plugin.reason}", hint=f"mend it in {path}") from plugin.error
        found.append(plugin)
    return found


def _project(folder: Path) -> dict[str, Any]:
    file = folder / "pyproject.toml"
    try:
        project: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        return project
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: expected the folder of a plugin, with a pyproject.toml in it",
            hint="`ddpo rewards new NAME` writes one; a loose plugin is named as its .py file",
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: expected TOML, got {error}") from error


def _forget_copies(module: str, source: Path) -> None:
    """Drop an installed copy of a module that stands in `source`, so that this one is imported."""
    package = module.partition(":")[0].partition(".")[0]
    for name, loaded in list(sys.modules.items()):
        file = getattr(loaded, "__file__", None)
        if name.partition(".")[0] == package and file and not Path(file).resolve().is_relative_to(source):
            del sys.modules[name]


def load(found: Found) -> Plugin:
    """Import one plugin and ask its hooks; what goes wrong becomes its status and reason.

    With `DDPO_STRICT_PLUGINS=1` it raises `BrokenPlugin` instead.
    """
    before, start = set(sys.modules), time.perf_counter()
    plugin = _asked(found)
    milliseconds = 1000 * (time.perf_counter() - start)
    heavy = tuple(name for name in HEAVY if name in sys.modules and name not in before)
    if plugin.status != "ok" and os.environ.get("DDPO_STRICT_PLUGINS", "0") not in ("", "0"):
        raise BrokenPlugin(
            f"plugin {plugin.distribution}: {plugin.reason}", hint=plugin.hint
        ) from plugin.error
    return replace(plugin, load_ms=milliseconds, heavy=heavy)


class _Fault(Exception):
    """What is wrong with a plugin, in words for its author."""

    def __init__(self, reason: str, *, status: Status = "broken", hint: str = "") -> None:
        super().__init__(reason)
        self.status, self.hint = status, hint


def _asked(found: Found) -> Plugin:
    remove = f"mend it, `pip uninstall {found.distribution}`, or set DDPO_BLOCK={found.distribution}"
    try:
        # a plugin that prints when it is imported must not spoil `--json` on stdout
        with redirect_stdout(sys.stderr):
            return _plugin(found, infos=_infos(found.load()))
    except _Fault as fault:
        hint = fault.hint or remove
        return _plugin(found, status=fault.status, reason=str(fault), hint=hint, error=fault)
    except SystemExit as error:
        return _plugin(found, status="broken", reason="it exits when imported", hint=remove, error=error)
    except ModuleNotFoundError as error:
        return _plugin(found, status="broken", error=error, **_missing(found, error, remove))
    except Exception as error:
        reason = f"{type(error).__name__} when imported: {error}"
        return _plugin(found, status="broken", reason=reason, hint=remove, error=error)


def _missing(found: Found, error: ModuleNotFoundError, remove: str) -> dict[str, str]:
    own = found.module.partition(":")[0].partition(".")[0]
    if error.name == own:
        # an editable install whose folder moved or went
        again = f"install it again, or `pip uninstall {found.distribution}`"
        return {"reason": f"its own module '{own}' is not where it was installed", "hint": again}
    return {"reason": f"it needs the package '{error.name}', which is not installed", "hint": remove}


def _plugin(found: Found, **more: Any) -> Plugin:
    distribution, version, entry_point, module, _ = found
    return Plugin(distribution=distribution, version=version, entry_point=entry_point, module=module, **more)


def _infos(module: object) -> dict[str, tuple[Info, ...]]:
    """What a plugin module provides, checked. Raises `_Fault`, or whatever its hooks raise."""
    _check_api(module)
    manager = pluggy.PluginManager("ddpo")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module)
    except pluggy.PluginValidationError as error:
        raise _Fault(str(error)) from error
    _check_hooks(module, [caller.name for caller in manager.get_hookcallers(module) or ()])
    infos: dict[str, tuple[Info, ...]] = {}
    for name, kind in KINDS.items():
        results = getattr(manager.hook, kind.hook)()
        infos[name] = _checked(kind, [info for result in results for info in result])
    return infos


def _check_api(module: object) -> None:
    api = getattr(module, "DDPO_PLUGIN_API", None)
    ours = hookspecs.PLUGIN_API
    if not (isinstance(api, tuple) and len(api) == 2 and all(isinstance(part, int) for part in api)):
        got = "does not say" if api is None else f"says {api!r}"
        raise _Fault(f"it must say DDPO_PLUGIN_API = {ours}, the contract it was written for; it {got}")
    if api[0] != ours[0] or api[1] > ours[1]:
        theirs, have = ".".join(map(str, api)), ".".join(map(str, ours))
        newer = api > ours
        raise _Fault(
            f"it was written for plugin contract {theirs}; this ddpo has {have}",
            status="incompatible",
            hint="`pip install -U ddpo`" if newer else "install a newer version of the plugin",
        )


def _check_hooks(module: object, marked: list[str]) -> None:
    """A misspelt or unmarked hook is an error, not silence."""
    hooks = [kind.hook for kind in KINDS.values()]
    for name in marked:
        if name not in hooks:
            near = get_close_matches(name, hooks, n=1)
            meant = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(hooks)}"
            raise _Fault(f"no hook is named '{name}'{meant}")
    for hook in hooks:
        if hook not in marked and callable(getattr(module, hook, None)):
            raise _Fault(f"its function '{hook}' is not marked @hookimpl")
    if not marked:
        raise _Fault(f"it has no hook; it needs one of {', '.join(hooks)}, marked @hookimpl")


def _checked(kind: Kind, infos: list[object]) -> tuple[Info, ...]:
    taken: set[str] = set()
    checked = []
    for info in infos:
        if not isinstance(info, kind.info):
            raise _Fault(f"{kind.hook} must return {kind.info.__name__} records; got {info!r}")
        for name in (info.name, *info.aliases):
            if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*\+*", name):
                raise _Fault(f"{kind.word} names are lower-case words joined by '-'; got '{name}'")
            if name in taken:
                raise _Fault(f"it provides two {kind.word}s named '{name}'")
            taken.add(name)
        if isinstance(info.factory, str) and not re.fullmatch(r"[\w.]+:[\w.]+", info.factory):
            raise _Fault(
                f"factory of {kind.word} '{info.name}' must be 'module:attribute'; got '{info.factory}'"
            )
        _check_option_names(kind, info)
        checked.append(info)
    return tuple(checked)


def _check_option_names(kind: Kind, info: Info) -> None:
    names = [option.name for option in info.options]
    for name in names:
        if name in RESERVED or not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
            raise _Fault(
                f"an option of {kind.word} '{info.name}' is named '{name}'; options are Python keyword "
                f"arguments in lower case, and {', '.join(RESERVED)} are taken"
            )
    if len(set(names)) < len(names):
        raise _Fault(f"{kind.word} '{info.name}' has two options of one name")


def _without_repeats(plugins: list[Plugin]) -> list[Plugin]:
    """One distribution may have several entry points, but not provide one name through two of them."""
    seen: dict[tuple[str, str, str], str] = {}
    kept = []
    for plugin in plugins:
        for kind, infos in plugin.infos.items():
            for info in infos:
                key = (canonical(plugin.distribution), kind, info.name)
                first = seen.setdefault(key, plugin.entry_point)
                if first != plugin.entry_point:
                    reason = f"its entry point '{first}' provides {KINDS[kind].word} '{info.name}' already"
                    plugin = replace(plugin, status="broken", reason=reason, infos={})
        kept.append(plugin)
    return kept


def _names(listed: str) -> frozenset[str]:
    return frozenset(canonical(name.strip()) for name in listed.split(",") if name.strip())
