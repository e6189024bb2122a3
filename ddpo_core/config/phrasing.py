"""Errors in the words of Python: one text for both, written with flags, told here without them.

    take --sampler ddim, or --lora-rank 0    take sampler=ddim, or lora_rank=0
    --estimator grpo needs …                 estimator grpo needs …
    --reward mine,tries=3                    rewards={'mine': (…, 1, {'tries': 3})}

Commands in backticks are typed in a shell either way, and stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ddpo_core.errors import DdpoError

ARGUMENTS = {"reward": "rewards", "constraint": "constraints", "task": "tasks", "prompt": "prompts"}

_COMMAND = re.compile(r"(`ddpo [^`]*`)")
_KEYED = re.compile(r"--reward ([\w.-]+),(\w+)=([\w.]+)")  # a function's options stand beside it
_FLAG = re.compile(r"--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
_VALUE = re.compile(r"[ =](?=[A-Z]{4}|\[|-?\d)")  # NAME, TEXT, a list or a number
# after these words somebody is told what to write, and whatever follows the flag is its value
_ANYTHING = re.compile(r"[ =](?=\S)")
_ADVICE = re.compile(r"(?:\b(?:take|add|try|write|instance|with) |: |`|^)$")


def in_python(text: str, *, advice: bool = False) -> str:
    """The text with `--num-steps 4` as `num_steps=4`. An `advice` begins with what to write."""
    parts = _COMMAND.split(_KEYED.sub(_beside, text.replace("--prompt TEXT", "--prompts [TEXT]")))
    return "".join(part if _COMMAND.fullmatch(part) else _retold(part, advice) for part in parts)


def _beside(reward: re.Match[str]) -> str:
    label, key, value = reward.groups()
    return f"rewards={{{label!r}: (…, 1, {{{key!r}: {value if value[0].isdigit() else repr(value)}}})}}"


def _retold(text: str, advice: bool) -> str:
    told, at = "", 0
    for flag in _FLAG.finditer(text):
        told += text[at : flag.start()]
        name = ARGUMENTS.get(flag[1], flag[1].replace("-", "_"))
        is_advice = _ADVICE.search(told) is not None and (bool(told) or advice)
        value = (_ANYTHING if is_advice else _VALUE).match(text, flag.end())
        told += name + ("=" if value else "")
        at = value.end() if value else flag.end()
    return told + text[at:]


@contextmanager
def told_in_python() -> Iterator[None]:
    """Whatever ddpo raises in the block speaks of arguments, not of flags, and shows its hint."""
    try:
        yield
    except DdpoError as error:
        error.args = (in_python(str(error)), *error.args[1:])
        error.hint = in_python(error.hint, advice=True)
        if error.hint:
            error.add_note(f"hint: {error.hint}")  # the line under the message of a traceback
        raise
