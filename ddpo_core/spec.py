"""The one grammar for rewards, samplers, estimators, models and prompt sets; the same in shells and files.

    spec  := NAME [":" WEIGHT] ("," KEY "=" VALUE)*
    NAME  := [distribution "/"] name
    VALUE := JSON where it starts with '"', '[' or '{', else bare text up to the next comma

    aesthetic:0.5      jpeg:-1,quality=80,as=small      ddpo-reward-jpeg/jpeg      ddim,eta=0.5

No character here means anything to a shell, as long as no JSON is used. `parse(str(spec)) == spec`.

What a name or an option means is not known here: `discovery` looks names up and checks options.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NoReturn, get_args

from ddpo_core.errors import SpecError, UsageError
from ddpo_core.nearest import did_you_mean

Value = bool | int | float | str | list[object] | dict[str, object]
OnError = Literal["raise", "drop", "impute"]

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._+-]*")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_INT = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?")


@dataclass(frozen=True)
class Spec:
    """One parsed spec. `str()` gives the canonical text, from which `parse` makes an equal one."""

    name: str  # as typed: a name, an alias, or distribution/name
    weight: float = 1.0
    options: Mapping[str, Value] = field(default_factory=dict)
    label: str = ""  # what metrics are called; the bare name unless `as=` says otherwise
    on_error: OnError = "raise"  # rewards only: what a failed score does to the run
    tries: int = 1  # rewards only: calls in all, where one raises or takes too long
    time_limit: float | None = None  # rewards only: seconds that a call may take
    text: str = field(default="", compare=False, repr=False)  # as typed, for carets

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.bare_name)

    @property
    def bare_name(self) -> str:
        """The name without its distribution."""
        return self.name.rpartition("/")[2]

    def __str__(self) -> str:
        head = self.name if self.weight == 1.0 else f"{self.name}:{_number_text(self.weight)}"
        pairs: dict[str, str] = {}
        if self.on_error != "raise":
            pairs["on_error"] = self.on_error
        if self.tries != 1:
            pairs["tries"] = str(self.tries)
        if self.time_limit is not None:
            pairs["time_limit"] = _number_text(self.time_limit)
        if self.label != self.bare_name:
            pairs["as"] = self.label
        options = [options_text(self.options)] if self.options else []
        return ",".join([head, *options, *(f"{key}={value}" for key, value in pairs.items())])

    def error(self, message: str, *, key: str = "", hint: str = "") -> SpecError:
        """A `SpecError` with its caret under an option's value, or under the name where no key is given."""
        text, position = self.locate(key)
        return SpecError(message, spec=text, position=position, hint=hint)

    def locate(self, key: str = "", *, value: bool = True) -> tuple[str, int]:
        """The text of the spec, and where in it an option's value (or its key) begins."""
        text = self.text or str(self)
        if key:
            for pair in _pairs(text):
                if pair.key == key:
                    return text, pair.value_at if value else pair.key_at
        return text, 0


def parse(text: str, *, weighted: bool = False) -> Spec:
    """Read one spec. Only a reward is `weighted`: it may have a weight, `on_error`, `tries` and `time_limit`.

    Raises `SpecError` with a caret under the first character that is wrong.
    """
    text = text.strip()
    name, colon, weight_text = text.split(",", 1)[0].partition(":")
    _check_name(text, name)
    weight = 1.0
    if colon:
        if not weighted:
            raise SpecError("only a reward has a weight", spec=text, position=len(name))
        weight = _weight(text, weight_text, len(name) + 1)
    options: dict[str, Value] = {}
    reserved: dict[str, Any] = {}
    for pair in _pairs(text):
        if pair.key in options or pair.key in reserved:
            raise SpecError(f"'{pair.key}' is given twice", spec=text, position=pair.key_at)
        if pair.key not in _READERS:
            options[pair.key] = pair.value
            continue
        if pair.key in _OF_REWARDS and not weighted:
            raise SpecError(f"only a reward has {pair.key}", spec=text, position=pair.key_at)
        reserved[pair.key] = _READERS[pair.key](text, pair)
    return Spec(name, weight, options, reserved.pop("as", ""), text=text, **reserved)


def parse_all(texts: Iterable[str], *, weighted: bool = False) -> list[Spec]:
    """Read several specs. Raises `SpecError`, or `UsageError` where two would carry one label."""
    specs: dict[str, Spec] = {}
    for text in texts:
        spec = parse(text, weighted=weighted)
        if spec.label in specs:
            first = specs[spec.label]
            raise UsageError(
                f"two specs are both labelled '{spec.label}': {first.text} and {spec.text}",
                hint=f"name one of them: {spec.text},as={spec.label}-2",
            )
        specs[spec.label] = spec
    return list(specs.values())


def options_text(options: Mapping[str, Value]) -> str:
    """`quality=80,mode=grey`: options as they stand in a spec."""
    return ",".join(f"{key}={_value_text(value)}" for key, value in options.items())


class _Pair(NamedTuple):
    key: str
    key_at: int
    value: Value
    value_at: int


def _pairs(text: str) -> Iterator[_Pair]:
    """The KEY=VALUE pairs behind the first comma, with where each begins."""
    at = text.find(",")
    while 0 <= at < len(text):
        key_at = _skip_spaces(text, at + 1)
        key = _KEY.match(text, key_at)
        if not key:
            raise SpecError("expected KEY=VALUE after the comma", spec=text, position=key_at)
        equals = _skip_spaces(text, key.end())
        if text[equals : equals + 1] != "=":
            raise SpecError(f"expected '=' and a value after '{key[0]}'", spec=text, position=equals)
        value_at = _skip_spaces(text, equals + 1)
        value, at = _value(text, value_at, key[0])
        yield _Pair(key[0].replace("-", "_"), key_at, value, value_at)


def _value(text: str, at: int, key: str) -> tuple[Value, int]:
    """The value that begins at `at`, and the index of the comma behind it, or of the end."""
    if text[at : at + 1] in ('"', "[", "{"):
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
        except json.JSONDecodeError as error:
            message = f"'{key}' is not valid JSON: {error.msg}"
            raise SpecError(message, spec=text, position=error.pos) from None
        end = _skip_spaces(text, end)
        if end < len(text) and text[end] != ",":
            raise SpecError(f"expected a comma after the value of '{key}'", spec=text, position=end)
        return value, end
    end = text.find(",", at)
    end = len(text) if end < 0 else end
    bare = text[at:end].strip()
    if not bare:
        raise SpecError(f"'{key}' has no value (an empty text is {key}=\"\")", spec=text, position=at)
    return _bare_value(bare), end


def _bare_value(bare: str) -> Value:
    """true, false, a number or a text; a number only where its spelling survives.

    Commit hashes such as 0012 or 12e4567, and versions such as 1.10, would come back as something else.
    They stay texts here, and become numbers where an option is declared to be one.
    """
    if bare in ("true", "false"):
        return bare == "true"
    if _INT.fullmatch(bare) and str(int(bare)) == bare:
        return int(bare)
    if _FLOAT.fullmatch(bare):
        number = float(bare)
        if math.isfinite(number) and ("e" in bare or repr(number) == bare):
            return number
    return bare


def _value_text(value: Value) -> str:
    """The shortest text that reads back as this value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    plain = isinstance(value, str) and value == value.strip() and value[:1] not in ("", '"', "[", "{")
    if plain and isinstance(value, str) and "," not in value and _bare_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _number_text(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _check_name(text: str, name: str) -> None:
    found = _NAME.match(text)
    end = found.end() if found else 0
    if not name:
        raise SpecError("a spec begins with a name, as in jpeg:0.5,quality=80", spec=text, position=0)
    if end < len(name):
        raise SpecError(
            f"a name holds letters, digits, '-', '.', '_' and '+'; got {text[end]!r}", spec=text, position=end
        )


def _weight(text: str, weight_text: str, at: int) -> float:
    try:
        weight = float(weight_text)
    except ValueError:
        got = f"got '{weight_text}'" if weight_text else "got nothing"
        raise SpecError(f"the weight must be a number; {got}", spec=text, position=at) from None
    if weight == 0:
        raise SpecError(
            "weight 0 trains on nothing",
            spec=text,
            position=at,
            hint=f"leave it out, or score it without training on it: --watch {text.partition(':')[0]}",
        )
    if not math.isfinite(weight):
        raise SpecError(f"the weight must be finite; got {weight_text}", spec=text, position=at)
    return weight


def _label(text: str, pair: _Pair) -> str:
    label = pair.value if isinstance(pair.value, str) else _value_text(pair.value)
    if not _LABEL.fullmatch(label):
        message = f"a label holds letters, digits, '-', '.' and '_'; got {label!r}"
        raise SpecError(message, spec=text, position=pair.value_at)
    return label


def _on_error(text: str, pair: _Pair) -> str:
    if pair.value not in get_args(OnError):
        meant = did_you_mean(str(pair.value), get_args(OnError))
        message = f"on_error must be raise, drop or impute; got {pair.value}{meant}"
        raise SpecError(message, spec=text, position=pair.value_at)
    return str(pair.value)


def _tries(text: str, pair: _Pair) -> int:
    if isinstance(pair.value, bool) or not isinstance(pair.value, int) or pair.value < 1:
        message = f"tries must be a whole number of calls, at least 1; got {pair.value}"
        raise SpecError(message, spec=text, position=pair.value_at)
    return pair.value


def _time_limit(text: str, pair: _Pair) -> float:
    if isinstance(pair.value, bool) or not isinstance(pair.value, int | float) or not 0 < pair.value < 1e9:
        message = f"time_limit must be a number of seconds above 0; got {pair.value}"
        raise SpecError(message, spec=text, position=pair.value_at)
    return float(pair.value)


def _via(text: str, pair: _Pair) -> NoReturn:
    raise SpecError(
        "via= (a reward in another environment or behind a server) comes in a later version",
        spec=text,
        position=pair.key_at,
        hint="install the reward in this environment, and leave via= out",
    )


# what reads the value of each reserved key; all but `as` become fields of their name
_READERS: Mapping[str, Callable[[str, _Pair], object]] = {
    "as": _label,
    "via": _via,
    "on_error": _on_error,
    "tries": _tries,
    "time_limit": _time_limit,
}
_OF_REWARDS = ("on_error", "tries", "time_limit")
RESERVED = tuple(_READERS)  # keys that no option may be named after


def _skip_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at] == " ":
        at += 1
    return at
