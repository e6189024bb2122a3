"""The whole plugin contract.

A plugin is a distribution with an entry point in the group `ddpo` that names a module. The module holds
`DDPO_PLUGIN_API = (1, 0)` and any of these hooks, marked `@hookimpl`, each returning records from
`ddpo_core.info`. Hooks are called when ddpo starts: they import nothing heavy.

    [project.entry-points.ddpo]
    jpeg = "ddpo_reward_jpeg"
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from ddpo_core.info import EstimatorInfo, ModelInfo, PromptSetInfo, RewardInfo, SamplerInfo

PLUGIN_API = (1, 0)  # same major, and a minor not above ours, is accepted

hookspec = pluggy.HookspecMarker("ddpo")
hookimpl = pluggy.HookimplMarker("ddpo")


@hookspec
def ddpo_rewards() -> Iterable[RewardInfo]:
    """Rewards: `(images, prompts) -> scores`."""
    return ()


@hookspec
def ddpo_samplers() -> Iterable[SamplerInfo]:
    """Samplers: the transition kernel of the denoising process."""
    return ()


@hookspec
def ddpo_estimators() -> Iterable[EstimatorInfo]:
    """Estimators: judged trajectories to losses."""
    return ()


@hookspec
def ddpo_models() -> Iterable[ModelInfo]:
    """Text-to-image models, seen as denoisers."""
    return ()


@hookspec
def ddpo_prompt_sets() -> Iterable[PromptSetInfo]:
    """Prompt sets."""
    return ()
