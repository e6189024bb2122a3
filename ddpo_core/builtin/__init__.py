"""What ddpo itself brings: samplers, estimators, models and prompt sets; a plugin like any other."""

from __future__ import annotations

from collections.abc import Iterable

from ddpo_core.builtin.estimators import ESTIMATORS
from ddpo_core.builtin.models import MODELS
from ddpo_core.builtin.samplers import SAMPLERS
from ddpo_core.hookspecs import hookimpl
from ddpo_core.info import EstimatorInfo, ModelInfo, PromptSetInfo, SamplerInfo
from ddpo_core.prompt_sets import PROMPT_SETS

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_samplers() -> Iterable[SamplerInfo]:
    return SAMPLERS


@hookimpl
def ddpo_estimators() -> Iterable[EstimatorInfo]:
    return ESTIMATORS


@hookimpl
def ddpo_models() -> Iterable[ModelInfo]:
    return MODELS


@hookimpl
def ddpo_prompt_sets() -> Iterable[PromptSetInfo]:
    return PROMPT_SETS
