"""A random OWLv2 small enough to build in a test, as a folder that `from_pretrained` reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name that is nowhere is an error at once, without retries


@pytest.fixture(scope="session")
def owlv2(tmp_path_factory):
    """(folder, model, processor) of an OWLv2 with 32-pixel pictures and 16 patches."""
    pytest.importorskip("transformers")
    import torch
    from transformers import (
        CLIPTokenizerFast,
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessor,
        Owlv2Processor,
    )

    folder = tmp_path_factory.mktemp("owlv2")
    tokenizer = _tokenizer(folder, CLIPTokenizerFast)
    sides = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config=sides | {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "pad_token_id": 0},
        vision_config=sides | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = Owlv2ForObjectDetection(config).eval()
    processor = Owlv2Processor(Owlv2ImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


def _tokenizer(folder: Path, kind):
    """CLIP's tokenizer with single letters for a vocabulary; id 0 is padding, as OWL-ViT's masks expect."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["!", *letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return kind(str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="!", model_max_length=16)
