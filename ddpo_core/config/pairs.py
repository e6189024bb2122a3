"""Which estimator, sampler and model go together, by what they say of themselves, before any is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ddpo_core.config import specs
from ddpo_core.config.settings import RunConfig
from ddpo_core.config.task_specs import rewards_of
from ddpo_core.errors import UsageError

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry
    from ddpo_core.info import EstimatorInfo, ModelInfo, SamplerInfo
    from ddpo_core.protocols import Estimator, Sampler


def check(config: RunConfig, registry: Registry) -> None:
    """Raise `UsageError` for a sampler, or rewards, that the model or the estimator cannot go with."""
    model: ModelInfo = specs.find(registry, "model", config.model).info
    sampler: SamplerInfo = specs.find(registry, "sampler", config.sampler).info
    estimator: EstimatorInfo = specs.find(registry, "estimator", config.estimator).info
    if model.path not in sampler.paths:
        fitting = (info.name for info in samplers(registry) if model.path in info.paths)
        raise UsageError(
            f"--sampler {sampler.name} is for {' and '.join(sampler.paths)} models; {model.name} is a"
            f" {model.path} model",
            hint=f"take one of {', '.join(fitting)}",
        )
    if "log_probs" in estimator.needs and not sampler.has_log_prob:
        raise unrated(estimator.name, config.sampler, model, registry)
    if "gradient" in estimator.needs:
        _check_differentiable(config, estimator.name, registry)


def check_built(estimator: Estimator, sampler: Sampler, config: RunConfig, registry: Registry) -> None:
    """The same of what was built with options: `ddim,eta=0` has no log-prob, `grpo,kl_weight=0` no KL."""
    if "log_probs" in estimator.needs and not sampler.has_log_prob:
        name = specs.find(registry, "estimator", config.estimator).info.name
        raise unrated(name, config.sampler, specs.find(registry, "model", config.model).info, registry)
    if "untrained" in estimator.needs and not config.lora_rank:
        raise UsageError(
            f"--estimator {config.estimator} looks at the model before training, which is only at hand with a"
            " LoRA; got --lora-rank 0",
            hint="take --lora-rank 16, or set its kl_weight=0",
        )


def unrated(estimator: str, sampler: str, model: ModelInfo, registry: Registry) -> UsageError:
    """What to say where the estimator needs log-probs and the sampler has none, with the pairs that work."""
    rated = (s.name for s in samplers(registry) if s.has_log_prob and model.path in s.paths)
    free = (e.name for e in estimators(registry) if "log_probs" not in e.needs)
    return UsageError(
        f"--estimator {estimator} needs the log-prob of every step, and --sampler {sampler} has none",
        hint=f"with {estimator} take one of {', '.join(rated)}; with {sampler} one of {', '.join(free)}",
    )


def _check_differentiable(config: RunConfig, estimator: str, registry: Registry) -> None:
    known = [info.name for info in registry.infos("reward") if info.differentiable]
    for text in rewards_of(config):
        info = specs.find(registry, "reward", text).info
        if not info.differentiable:
            raise UsageError(
                f"--estimator {estimator} sends a gradient through the reward, and {info.name} has none",
                hint=f"differentiable here: {', '.join(known) or 'none is installed'};"
                " any other estimator takes this reward",
            )


def samplers(registry: Registry) -> Iterable[SamplerInfo]:
    return registry.infos("sampler")


def estimators(registry: Registry) -> Iterable[EstimatorInfo]:
    return registry.infos("estimator")
