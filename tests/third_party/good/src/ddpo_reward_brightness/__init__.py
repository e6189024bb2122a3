"""Mean brightness as a reward: metadata only."""

from ddpo_core import Option, RewardInfo, hookimpl

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_rewards():
    yield RewardInfo(
        name="brightness",
        aliases=("bright",),
        summary="Mean brightness of the picture",
        factory="ddpo_reward_brightness.reward:Brightness",
        options=(
            Option(
                name="gamma", type="float", default=1.0, minimum=0.1, maximum=10, help="power applied first"
            ),
            Option(name="channel", type="str", choices=("red", "green", "blue"), help="one channel only"),
        ),
        range=(0, 1),
        higher_is="brighter",
        fooled_by="white pictures",
    )
