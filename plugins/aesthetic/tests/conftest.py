"""Small CLIPs and heads with random weights, in the real ones' own classes and files."""

from __future__ import annotations

import json

import pytest
import torch
from ddpo_reward_aesthetic.head import AestheticHead
from safetensors.torch import save_file

WIDTH = 24
SIDE = 32


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A transformers folder: CLIPModel and its image preprocessor, 32 × 32 pixels, embeddings of 24."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**tower, "vocab_size": 50, "max_position_embeddings": 8},
            vision_config={**tower, "image_size": SIDE, "patch_size": 8},
            projection_dim=WIDTH,
        )
    )
    with torch.no_grad():  # as initialised, a CLIP tells no two pictures apart
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def head(tmp_path_factory):
    """A head of LAION's form for that CLIP, with grades around 5."""
    torch.manual_seed(1)
    head = AestheticHead(WIDTH).eval()
    with torch.no_grad():
        head.layers[0].weight.mul_(20)
        head.layers[7].bias.fill_(5)
    return head


@pytest.fixture(scope="session")
def head_file(head, tmp_path_factory):
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    save_file(head.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory):
    """An open_clip folder, for local-dir:."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("open-clip")
    model_cfg = {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 64, "heads": 2, "layers": 2},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    torch.manual_seed(2)
    model = open_clip.create_model(f"local-dir:{folder}")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A machine without a network, whose cache is empty. Returns the list of questions that were asked."""
    import huggingface_hub

    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return asked
