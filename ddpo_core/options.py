"""Checks the options of a spec against what the named thing declares, before anything heavy is imported."""

from __future__ import annotations

import math

from ddpo_core.errors import UnknownName, UsageError
from ddpo_core.info import Info, Option, OptionValue, RewardInfo
from ddpo_core.nearest import did_you_mean
from ddpo_core.spec import RESERVED, Spec, Value

_EXPECTED = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}


def check_options(info: Info, spec: Spec) -> dict[str, OptionValue]:
    """The keyword arguments for the factory: the spec's options in their declared types, and the defaults.

    An option whose default is None is left out, so that the factory decides. Raises `UnknownName` for an
    option that is not there, `SpecError` for a value that does not fit, `UsageError` for one that is missing.
    """
    declared = {option.name: option for option in info.options}
    for key in spec.options:
        if key not in declared:
            raise _unknown(info, spec, key)
    values: dict[str, OptionValue] = {}
    for name, option in declared.items():
        if name in spec.options:
            values[name] = _checked(info, option, spec)
        elif option.required:
            raise UsageError(
                f"{info.name} needs the option '{name}'" + (f" ({option.help})" if option.help else ""),
                hint=f"write {spec.name},{name}=…",
            )
        elif option.default is not None:
            values[name] = option.default
    return values


def _unknown(info: Info, spec: Spec, key: str) -> UnknownName:
    names = [option.name for option in info.options]
    shared = [word for word in RESERVED if word != "via"] if isinstance(info, RewardInfo) else []
    meant = did_you_mean(key, [*names, *shared])
    if key == "weight" and shared:
        meant = f"; a weight stands behind the name: {spec.name}:{spelled(spec.options[key])}"
    text, position = spec.locate(key, value=False)
    takes = f"{info.name} takes {', '.join(names)}" if names else f"{info.name} takes no options"
    return UnknownName(
        f"{info.name} has no option '{key}'{meant}\n  {text}\n  {' ' * position}^",
        hint=takes + (f"; every reward takes {', '.join(shared)}" if shared else ""),
    )


def _checked(info: Info, option: Option, spec: Spec) -> OptionValue:
    """The value in the declared type. Raises `SpecError` with a caret under the value."""
    given = spec.options[option.name]
    value = _typed(given, option)

    def refuse(expected: str, meant: str = "") -> UsageError:
        got = f"'{given}'" if isinstance(given, str) else spelled(given)
        message = f"{info.name}: {option.name} must be {expected}; got {got}{meant}"
        return spec.error(message, key=option.name)

    if value is None:
        raise refuse(_EXPECTED[option.type])
    if option.choices and value not in option.choices:
        raise refuse("one of " + ", ".join(option.choices), did_you_mean(str(given), option.choices))
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < option.minimum:
            raise refuse(f"at least {option.minimum:g}")
        if value > option.maximum:
            raise refuse(f"at most {option.maximum:g}")
    return value


def _typed(given: Value, option: Option) -> OptionValue:
    """The value as the declared type, or None where it is not one."""
    if option.type == "json":
        return given
    if option.type == "bool":
        return given if isinstance(given, bool) else None
    if isinstance(given, list | dict):
        return None
    if option.type == "str":
        return spelled(given)
    if isinstance(given, bool):
        return None
    try:
        number = float(given)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    if option.type == "float":
        return number
    # `given` itself, not the float: that holds no integer above 2**53 exactly
    return int(given) if isinstance(given, int) else int(number) if number.is_integer() else None


def spelled(value: OptionValue) -> str:
    """A value as one would write it in a spec."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
