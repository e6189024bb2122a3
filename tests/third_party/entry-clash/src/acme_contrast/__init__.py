"""Its entry point is called brightness, its reward is not."""

from ddpo_core import RewardInfo, hookimpl

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_rewards():
    return [
        RewardInfo(
            name="contrast", summary="Contrast of the picture", factory="acme_contrast.no_such:Contrast"
        )
    ]
