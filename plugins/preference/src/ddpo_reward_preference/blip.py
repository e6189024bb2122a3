"""ImageReward's network (Xu et al., arXiv 2304.05977) in transformers' BLIP classes.

Its checkpoint has the names of Salesforce's BLIP (`blip.visual_encoder.blocks.0.attn.qkv.weight`) and brings
all sizes with it; heads are 64 wide in every published BLIP.

    pixels → ViT → [B, patches + 1, V] → BERT with cross-attention reads the prompt → first token → MLP → [B]
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from ddpo_core.judges import fill

HEAD_WIDTH = 64
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw score over the authors' pictures

UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.|\.position_ids$")  # BLIP's contrastive heads; a range
RENAMED = (  # Salesforce's names to transformers'
    (r"^mlp\.layers\.", "mlp."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^blip\.visual_encoder\.", "vision."),
    (r"^vision\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^vision\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^vision\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^vision\.norm\.", "vision.post_layernorm."),
    (r"^vision\.blocks\.", "vision.encoder.layers."),
    (r"^(vision\.encoder\.layers\.\d+)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"^(vision\.encoder\.layers\.\d+)\.attn\.proj\.", r"\1.self_attn.projection."),
    (r"^(vision\.encoder\.layers\.\d+)\.attn\.", r"\1.self_attn."),
)


class ImageRewardNetwork(nn.Module):
    """Standardised scores [B] for pixels [B, 3, h, w] and tokens [B, S]."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig) -> None:
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.mlp = nn.Sequential(
            nn.Linear(text.hidden_size, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        score: Tensor = self.mlp(read[:, 0]).float().squeeze(-1)
        return (score - MEAN) / STD


def network_of(checkpoint: Mapping[str, Tensor]) -> ImageRewardNetwork:
    """The network of a checkpoint with ImageReward's own names. Raises `ValueError` for any other."""
    tensors = renamed(checkpoint)
    try:
        network = ImageRewardNetwork(_vision_config(tensors), _text_config(tensors))
    except KeyError as error:
        raise ValueError(f"not ImageReward: there is no {error.args[0]}") from error
    fill(network, tensors, "ImageReward")
    return network.eval().requires_grad_(False)


def renamed(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are used, under transformers' names."""
    tensors = {}
    for name, value in checkpoint.items():
        if not UNUSED.search(name):
            for old, new in RENAMED:
                name = re.sub(old, new, name)
            tensors[name] = value
    return tensors


def _vision_config(tensors: Mapping[str, Tensor]) -> BlipVisionConfig:
    patches = tensors["vision.embeddings.patch_embedding.weight"]  # [V, 3, patch, patch]
    positions = tensors["vision.embeddings.position_embedding"].shape[1] - 1  # without the class token's
    width, patch_size = patches.shape[0], patches.shape[2]
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=tensors["vision.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_count(tensors, r"vision\.encoder\.layers\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=round(positions**0.5) * patch_size,
        patch_size=patch_size,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )


def _text_config(tensors: Mapping[str, Tensor]) -> BlipTextConfig:
    vocab_size, width = tensors["text.embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        encoder_hidden_size=tensors["text.encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=tensors["text.encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_count(tensors, r"text\.encoder\.layer\.(\d+)\."),
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=tensors["text.embeddings.position_embeddings.weight"].shape[0],
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        is_decoder=True,  # builds the cross-attention; the mask stays that of an encoder
    )


def _count(tensors: Mapping[str, Tensor], layer: str) -> int:
    """How many layers there are whose number the pattern catches."""
    return 1 + max((int(found[1]) for name in tensors if (found := re.match(layer, name))), default=-1)
