"""Imports PIL when ddpo starts, and needs two packages: one is not there."""

import PIL.Image  # noqa: F401

from ddpo_core import RewardInfo, hookimpl

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_rewards():
    return [
        RewardInfo(
            name="heavy",
            summary="Slow to list",
            factory="ddpo_reward_heavy:build",
            requires=("PIL", "package_that_nobody_has"),
            install_hint='pip install "ddpo-reward-heavy[judge]"',
        )
    ]
