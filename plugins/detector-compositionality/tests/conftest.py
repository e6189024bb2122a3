"""Random OWLv2, OWL-ViT, Grounding DINO and DETR, small enough to build in a test, as folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name that is nowhere is an error at once, without retries

SIDE = 32
COCO = ("person", "bicycle", "cat", "dog", "couch")


@pytest.fixture(scope="session")
def owlv2(tmp_path_factory) -> Path:
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    folder = tmp_path_factory.mktemp("owlv2")
    _owl(folder, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor)
    return folder


@pytest.fixture(scope="session")
def owlvit(tmp_path_factory) -> Path:
    from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor

    folder = tmp_path_factory.mktemp("owlvit")
    _owl(folder, OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor)
    return folder


def _owl(folder: Path, config_class, model_class, image_processor_class, processor_class) -> None:
    import torch
    from transformers import CLIPTokenizerFast

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["!", *letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="!", model_max_length=24
    )
    sides = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "pad_token_id": 0}
    config = config_class(
        text_config=sides | text | {"eos_token_id": len(words) - 1, "bos_token_id": len(words) - 2},
        vision_config=sides | {"image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = model_class(config).eval()
    image_processor = image_processor_class(size={"height": SIDE, "width": SIDE})
    model.save_pretrained(folder)
    processor_class(image_processor, tokenizer).save_pretrained(folder)


@pytest.fixture(scope="session")
def grounding_dino(tmp_path_factory) -> Path:
    import torch
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    folder = tmp_path_factory.mktemp("grounding_dino")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    (folder / "vocab.txt").write_text("\n".join([*special, *letters, *(f"##{one}" for one in letters)]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=2 * SIDE,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=2,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=12,
        num_feature_levels=3,
        max_text_len=64,
        disable_custom_kernels=True,
    )
    torch.manual_seed(0)
    model = GroundingDinoForObjectDetection(config).eval()
    image_processor = GroundingDinoImageProcessor(size={"shortest_edge": 2 * SIDE, "longest_edge": 2 * SIDE})
    model.save_pretrained(folder)
    GroundingDinoProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def detr(tmp_path_factory) -> Path:
    import torch
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

    folder = tmp_path_factory.mktemp("detr")
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage4"],
        ),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=12,
        id2label=dict(enumerate(COCO)),
    )
    torch.manual_seed(0)
    model = DetrForObjectDetection(config).eval()
    _stir(model.class_labels_classifier)
    model.save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": SIDE, "longest_edge": SIDE}).save_pretrained(folder)
    return folder


def _stir(head) -> None:
    """Larger weights, so that a small untrained head answers differently from place to place."""
    import torch

    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(10.0)
