"""Which layers of a UNet get a LoRA, by name. Needs no torch: a dry run counts its weights with these."""

from __future__ import annotations

from collections.abc import Sequence

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# every linear and convolutional layer inside the UNet's blocks
EVERY_LAYER = (
    *ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
    "conv1", "conv2", "conv_shortcut", "time_emb_proj",
)  # fmt: skip
LORA_TARGETS = {"attention": ATTENTION, "all": EVERY_LAYER}


def lora_layers(targets: Sequence[str]) -> list[str]:
    """The ends of layers' names that `targets` ("attention", "all", or such ends themselves) stand for."""
    return [layer for target in targets for layer in LORA_TARGETS.get(target, (target,))]
