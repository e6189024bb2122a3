"""What may be typed for one option or argument: names, specs and their options, choices, files.

By convention, not by a table: a parameter is completed as its help describes it. One that is named like a
setting takes what the setting takes, `SPEC` is a spec of its kind, `NAME` under `ddpo samplers` is a sampler,
`DIR` and `RUN` are folders, `FILE` is a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from ddpo_core.spec import RESERVED, OnError

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry
    from ddpo_core.info import Info, Option

FILES = {"FILE", "PATH", "DIR|FILE", "TEXT|FILE"}
FOLDERS = {"DIR", "RUN"}
BOUNDS = {
    "min": "the mean is kept at this or more",
    "max": "the mean is kept at this or less",
    "rate": "how fast the reward's weight grows",
    "limit": "the most that its weight grows to",
}
OF_EVERY_REWARD = {
    "as": "a label of its own",
    "on_error": "what a failed score does to the run",
    "tries": "how often a failed call is tried in all",
    "time_limit": "seconds that one call may take",
    "via": "another environment or a server that it runs in",
}


class Candidate(NamedTuple):
    """One way to go on."""

    value: str
    help: str = ""


class Thing(NamedTuple):
    """A reward, sampler, …, and what it goes by."""

    names: tuple[str, ...]  # its own first
    qualified: str
    info: Info


@dataclass(frozen=True)
class Answer:
    """All ways to go on, and whether the shell should add names of its own."""

    candidates: Sequence[Candidate] = ()
    paths: Literal["", "files", "folders"] = ""

    def after(self, before: str) -> Answer:
        """The same with `before` in front of every candidate."""
        return replace(self, candidates=[Candidate(before + c.value, c.help) for c in self.candidates])


@dataclass(frozen=True)
class Place:
    """Where the cursor stands."""

    path: Sequence[str]  # of commands: ["rewards", "score"]
    parameter: Any  # Typer's option or argument
    typed: str
    plugins: Sequence[str]  # files that the line names with --plugin

    @property
    def noun(self) -> str:
        """The kind of part that the command is about, or nothing."""
        from ddpo_core.plugins import KINDS

        return next((kind for kind, k in KINDS.items() if k.command.split()[1] in self.path[:1]), "")

    def registry(self) -> Registry:
        """What is installed, and the plugin files of the line that can be read."""
        from ddpo_core.discovery import registry
        from ddpo_core.errors import DdpoError

        found = registry()
        for file in self.plugins:
            try:
                found = found.with_file(Path(file))
            except DdpoError:
                continue  # running the command tells of it
        return found


def values_of(place: Place) -> Answer:
    """What may stand for the parameter at the cursor; nothing for numbers and free texts."""
    name, shown = place.parameter.name, place.parameter.metavar or ""
    choices = choices_of(place)
    if choices:
        return plain(choices, place.typed)
    if shown in FILES | FOLDERS:
        return Answer(paths="folders" if shown in FOLDERS else "files")
    if name == "advantages":
        from ddpo_core.config.specs import ADVANTAGES

        return specs([Thing((name,), "", info) for name, info in ADVANTAGES.items()], place.typed)
    if name == "constraint":
        return specs(things(place, "reward"), place.typed, BOUNDS)
    if name == "preset":
        from ddpo_core.config import presets

        return plain(presets.names(), place.typed)
    if name == "lora_targets":
        done, comma, last = place.typed.rpartition(",")
        return plain(["attention", "all"], last).after(done + comma)
    if shown.endswith("MODEL"):  # RUN|MODEL
        models = Answer() if is_path(place.typed) else specs(things(place, "model"), place.typed)
        return replace(models, paths="folders")
    if "SPEC" in shown:
        return of_kind(place)
    if place.noun and name == "name" and place.path[-1] == "show":
        return names(things(place, place.noun), place.typed)
    return Answer()


def choices_of(place: Place) -> Sequence[str]:
    """The choices that the help shows (`bf16|fp16`), or those of the setting of that name."""
    from ddpo_core.config.settings import declared

    shown = place.parameter.metavar or ""
    if re.fullmatch(r"[a-z0-9-]+(\|[a-z0-9-]+)+", shown):
        return list(shown.split("|"))
    setting = declared().get(place.parameter.name)
    return setting.choices if setting else ()


def of_kind(place: Place) -> Answer:
    """A spec of the kind that the parameter, or else the command, is about; or a path in its place."""
    from ddpo_core.plugins import KINDS

    kind = "reward" if place.parameter.name == "watch" else place.parameter.name
    kind = kind if kind in KINDS else place.noun
    shown = place.parameter.metavar
    if is_path(place.typed) and (kind in ("model", "prompts") or "PATH" in shown):
        return Answer(paths="folders" if kind == "model" else "files")
    return specs(things(place, kind), place.typed, reserved() if kind == "reward" else {})


def things(place: Place, kind: str) -> list[Thing]:
    """Everything of a kind. Where two share a name, each goes by the name with its distribution."""
    entries = place.registry().entries(kind)
    found = []
    for entry in entries:
        clash = sum(other.is_called(entry.info.name) for other in entries) > 1
        called = (entry.qualified,) if clash else entry.names
        found.append(Thing(called, entry.qualified, entry.info))
    return found


def names(of: Sequence[Thing], typed: str) -> Answer:
    """One name for each thing, the first that begins so; names with a distribution where no other does."""
    bare = [(thing, [name for name in thing.names if name.startswith(typed)]) for thing in of]
    offered = [Candidate(begun[0], thing.info.summary) for thing, begun in bare if begun]
    return Answer(offered) if offered else plain({t.qualified: t.info.summary for t in of}, typed)


def is_path(typed: str) -> bool:
    """Can only be one: a distribution's name does not begin so."""
    return typed.startswith((".", "/", "~"))


def reserved() -> dict[str, str]:
    """The keys that every reward takes, with what they mean."""
    return {key: OF_EVERY_REWARD[key] for key in RESERVED if key in OF_EVERY_REWARD and key != "via"}


def plain(values: Iterable[str] | Mapping[str, str], typed: str) -> Answer:
    """The values that begin so, with their help where they have one."""
    helps = values if isinstance(values, Mapping) else dict.fromkeys(values, "")
    return Answer([Candidate(value, told) for value, told in helps.items() if value.startswith(typed)])


# ---- inside a spec -----------------------------------------------------------------------------------


def specs(of: Sequence[Thing], typed: str, besides: Mapping[str, str] | None = None) -> Answer:
    """The name, then `KEY=` for the options not given yet, then an option's values.

    `besides` are the keys that do not depend on the name.
    """
    done, pair = split_last(typed)
    if not done:
        return names(of, typed)
    name = re.split(r"[:,]", typed, maxsplit=1)[0]
    named = [thing for thing in of if name in (*thing.names, thing.qualified)]
    if not named:
        return Answer()
    options = {option.name: option for option in named[0].info.options}
    key, equals, value = pair.partition("=")
    if equals:
        return option_values(key.replace("-", "_"), options, value).after(f"{done}{key}=")
    given = {found.replace("-", "_") for found in re.findall(r",\s*([\w-]+)\s*=", done)}
    keys = {**{option.name: told(option) for option in options.values()}, **(besides or {})}
    open_keys = {f"{key}=": text for key, text in keys.items() if key not in given}
    return plain(open_keys, key).after(done)


def told(option: Option) -> str:
    """An option's help, with its default."""
    from ddpo_core.options import spelled

    default = "required" if option.required else option.default
    return option.help if default is None else f"{option.help} ({spelled(default)})".strip()


def option_values(key: str, options: Mapping[str, Option], typed: str) -> Answer:
    """What may stand behind `KEY=`; nothing for numbers and free texts."""
    if key == "on_error":
        return plain(get_args(OnError), typed)
    option = options.get(key)
    if option is None:
        return Answer()
    if option.type == "bool":
        return plain(("true", "false"), typed)
    if option.choices:
        return plain(option.choices, typed)
    if key in ("path", "pretrained"):
        return Answer([Candidate(found) for found in paths(typed)])
    return Answer()


def split_last(typed: str) -> tuple[str, str]:
    """At the last comma that stands in no JSON: what is done, comma included, and what is being typed."""
    cut = depth = 0
    in_text = False
    for at, letter in enumerate(typed):
        if letter == '"':
            in_text = not in_text
        elif not in_text:
            depth += (letter in "[{") - (letter in "]}")
            cut = at + 1 if letter == "," and depth == 0 else cut
    return typed[:cut], typed[cut:]


def paths(typed: str) -> list[str]:
    """Files and folders that begin so; inside a spec, where no shell looks for them."""
    folder, slash, start = typed.rpartition("/")
    place = Path(folder + slash or ".").expanduser()
    if not place.is_dir():
        return []
    return [
        folder + slash + entry.name + ("/" if entry.is_dir() else "")
        for entry in sorted(place.iterdir())
        if entry.name.startswith(start) and (start.startswith(".") or not entry.name.startswith("."))
    ]
