"""What a plugin says of itself: records that cost nothing to read.

An `Info` names a thing, says what it takes, and holds a `"module:attribute"` string for the factory,
which is imported only when the thing is built. Nothing here imports torch, and no plugin's metadata may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# What an estimator is given, see `protocols.Estimator`.
Need = Literal["trajectory", "log_probs", "gradient", "untrained"]
OptionType = Literal["bool", "int", "float", "str", "json"]
OptionValue = bool | int | float | str | list[object] | dict[str, object] | None


@dataclass(frozen=True, kw_only=True)
class Option:
    """One keyword argument of a factory: declared once, shown and checked everywhere."""

    name: str
    type: OptionType
    default: OptionValue = None  # None: the factory decides, and `help` says how
    help: str = ""
    choices: tuple[str, ...] = ()
    minimum: float = -math.inf
    maximum: float = math.inf
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Pretrained weights a reward loads when it is built."""

    name: str  # hub id or file name
    megabytes: float
    licence: str
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Info:
    """What every kind of plugin part has."""

    name: str  # kebab-case
    summary: str  # the line in `ddpo … list`
    # "package.module:attribute", imported when it is built, or what to call; the options are its keywords
    factory: str | Callable[..., Any]
    aliases: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    requires: tuple[str, ...] = ()  # import names; looked for, never imported, before building
    install_hint: str = ""  # what to type when one of `requires` is missing
    doc: str = ""  # Markdown, for `ddpo … show`


@dataclass(frozen=True, kw_only=True)
class RewardInfo(Info):
    """A reward, before it is built."""

    unit: str = ""  # "kB", "grade 1–10", "" for a bare number
    range: tuple[float, float] = (-math.inf, math.inf)  # of the scores, ends included
    higher_is: str = ""  # what a higher score means: "smaller files"
    scope: Literal["sample", "group", "batch"] = "sample"
    group_size: int = 1  # images of one prompt that it judges best together; for scope "group"
    differentiable: bool = False
    thread_safe: bool = False  # may be called while an earlier call, given up after `time_limit`, still runs
    resolution: float = 1e-6  # in `unit`: smaller spreads are noise and are not standardised up to one
    weights: tuple[Weights, ...] = ()
    licence: str = ""
    fooled_by: str = ""  # how the score rises without the thing meant


@dataclass(frozen=True, kw_only=True)
class SamplerInfo(Info):
    """A sampler, before it is built."""

    paths: tuple[Literal["diffusion", "flow"], ...] = ("diffusion",)  # models that it can denoise
    has_log_prob: bool = True  # with default options


@dataclass(frozen=True, kw_only=True)
class EstimatorInfo(Info):
    """An estimator, before it is built."""

    needs: tuple[Need, ...] = ()
    updates_per_epoch: int = 1  # the default when the user gives none
    fixed_updates: bool = False  # True: any other number is refused
    defaults: Mapping[str, object] = field(default_factory=dict)  # settings that suit it: advantages, …


@dataclass(frozen=True, kw_only=True)
class ModelInfo(Info):
    """A text-to-image model, before it is loaded. Its factory returns a `Denoiser`."""

    path: Literal["diffusion", "flow"] = "diffusion"  # what noise does to its pictures
    pipelines: tuple[
        str, ...
    ] = ()  # diffusers' classes, by which a folder or a hub id is known to be its own
    adapter: str = ""  # "package.module:attribute": a loaded pipeline of theirs → `PipelineDenoiser`
    prompts: str = ""  # the prompt set it is trained on when the user names none
    defaults: Mapping[str, object] = field(default_factory=dict)  # settings that suit it: num_steps, …
    estimators: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    # estimator name → settings that suit the two together
    judges: Mapping[str, Mapping[str, OptionValue]] = field(default_factory=dict)
    # reward name → options that suit its pictures, where the user gives none: judges of its own world


@dataclass(frozen=True, kw_only=True)
class PromptSetInfo(Info):
    """A set of prompts, before it is read. Its factory returns a `PromptSet`."""
