"""Which layers of a network get a LoRA, by name. Needs no torch: a dry run counts its weights with these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Targets = Mapping[str, tuple[str, ...]]  # "attention" or "all" → the ends of layers' names

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# the text's own projections in a block that attends to text and picture together
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
JOINT_FEED_FORWARD = (*FEED_FORWARD, "ff_context.net.0.proj", "ff_context.net.2")
MODULATION = ("norm1.linear", "norm1_context.linear")

# "all" is every linear and convolutional layer inside the network's blocks; between them, a UNet resizes.
UNET: Targets = {
    "attention": ATTENTION,
    "all": (
        *ATTENTION, "proj_in", "proj_out", *FEED_FORWARD,
        "conv1", "conv2", "conv_shortcut", "time_emb_proj",
    ),
}  # fmt: skip
SD3: Targets = {
    "attention": JOINT_ATTENTION,
    "all": (*JOINT_ATTENTION, *JOINT_FEED_FORWARD, *MODULATION),
}
FLUX: Targets = {
    "attention": JOINT_ATTENTION,
    # the last three belong to its blocks of one stream; the network's last layer is a `proj_out`, too
    "all": (*JOINT_ATTENTION, *JOINT_FEED_FORWARD, *MODULATION, "norm.linear", "proj_mlp", "proj_out"),
}
# by the class that the network's config.json names
LORA_TARGETS: Mapping[str, Targets] = {
    "UNet2DConditionModel": UNET,
    "SD3Transformer2DModel": SD3,
    "FluxTransformer2DModel": FLUX,
}


def lora_layers(targets: Sequence[str], known: Targets = UNET) -> list[str]:
    """The ends of layers' names that `targets` stand for: `known` ones by name, or such ends themselves."""
    return [layer for target in targets for layer in known.get(target, (target,))]
