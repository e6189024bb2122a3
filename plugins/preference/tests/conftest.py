"""Small models in the real ones' own classes, files and names of tensors.

ImageReward's and HPSv2's weights come from a formula, not from a generator of random numbers: the scores that
the authors' own code gave for them stand in the tests.
"""

from __future__ import annotations

import json
import math

import pytest
import torch

SIDE = 32
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = "a an cat dog wolf red two old woman ball riding bike sitting on the moon with and of , ."
WORDS = TEXT.split()


def waves(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights by formula: sines of another pitch for each tensor, layer norms around 1, biases small."""
    tensors = {}
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        count = math.prod(shape)
        wave = torch.sin((1 + index % 7) * 0.37 * torch.arange(count, dtype=torch.float64) ** 1.1 + index)
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 16
        scale = 1.4 / math.sqrt(fan_in)
        is_norm = any(part in name for part in ("norm", "Norm", "ln_")) and name.endswith("weight")
        tensors[name] = ((1 if is_norm else 0) + scale * wave).view(shape).float()
    return tensors


# ---- CLIP in transformers ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """CLIPModel, tokenizer (one letter, one token) and preprocessor: 32 × 32 pixels, 20 tokens."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz,."
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    start, end = len(names) - 2, len(names) - 1
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    text = {"vocab_size": len(names), "max_position_embeddings": 20, "bos_token_id": start}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**TOWER, **text, "eos_token_id": end, "pad_token_id": end},
            vision_config={**TOWER, "image_size": SIDE, "patch_size": 8},
            projection_dim=24,
        )
    )
    with torch.no_grad():  # as initialised, a CLIP tells no two pictures apart
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.logit_scale.fill_(math.log(90))
    model.save_pretrained(folder)
    return folder


# ---- HPSv2 in open_clip ------------------------------------------------------------------------------

OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def hps(tmp_path_factory):
    """Options of a small HPSv2: its architecture and its checkpoint, as the authors save it."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("hpsv2")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP}))
    shapes = {key: tuple(value.shape) for key, value in open_clip.CLIP(**OPEN_CLIP).state_dict().items()}
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "HPS_v2_compressed.pt"
    torch.save({"epoch": 1, "state_dict": waves(shapes)}, checkpoint)
    return {"architecture": str(folder), "checkpoint": str(checkpoint)}


# ---- ImageReward in BLIP's own names -----------------------------------------------------------------


def image_reward_shapes(vision: int = 128, text: int = 192, vocab: int = 40) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an ImageReward checkpoint with two layers in each tower."""
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, vision),
        "blip.visual_encoder.pos_embed": (1, (SIDE // 8) ** 2 + 1, vision),
        "blip.visual_encoder.patch_embed.proj.weight": (vision, 3, 8, 8),
        "blip.visual_encoder.patch_embed.proj.bias": (vision,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (vocab, text),
        "blip.text_encoder.embeddings.position_embeddings.weight": (48, text),
    }

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    norm("blip.visual_encoder.norm", vision)
    norm("blip.text_encoder.embeddings.LayerNorm", text)
    for layer in range(2):
        block = f"blip.visual_encoder.blocks.{layer}"
        norm(f"{block}.norm1", vision)
        norm(f"{block}.norm2", vision)
        linear(f"{block}.attn.qkv", 3 * vision, vision)
        linear(f"{block}.attn.proj", vision, vision)
        linear(f"{block}.mlp.fc1", 4 * vision, vision)
        linear(f"{block}.mlp.fc2", vision, 4 * vision)
        block = f"blip.text_encoder.encoder.layer.{layer}"
        for attention, source in (("attention", text), ("crossattention", vision)):
            linear(f"{block}.{attention}.self.query", text, text)
            linear(f"{block}.{attention}.self.key", text, source)
            linear(f"{block}.{attention}.self.value", text, source)
            linear(f"{block}.{attention}.output.dense", text, text)
            norm(f"{block}.{attention}.output.LayerNorm", text)
        linear(f"{block}.intermediate.dense", 4 * text, text)
        linear(f"{block}.output.dense", text, 4 * text)
        norm(f"{block}.output.LayerNorm", text)
    linear("blip.vision_proj", 256, vision)
    linear("blip.text_proj", 256, text)
    sizes = [text, 1024, 128, 64, 16, 1]
    for place, into, out in zip((0, 2, 4, 6, 7), sizes, sizes[1:], strict=False):
        linear(f"mlp.layers.{place}", out, into)
    return shapes


def image_reward_checkpoint() -> dict[str, torch.Tensor]:
    """The checkpoint as the authors publish it, with BERT's buffer of positions."""
    tensors = waves(image_reward_shapes())
    tensors["blip.text_encoder.embeddings.position_ids"] = torch.arange(48)[None]
    return tensors


def bert_vocabulary() -> list[str]:
    """38 word pieces, to which BLIP adds two."""
    return [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *(f"##{letter}" for letter in "abcdefghijkl"),
    ]


@pytest.fixture
def image_reward_tensors():
    """A fresh copy of that checkpoint."""
    return image_reward_checkpoint()


@pytest.fixture(scope="session")
def image_reward_options(tmp_path_factory):
    """Options of a small ImageReward: its checkpoint and its tokenizer."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("imagereward")
    (folder / "vocab.txt").write_text("\n".join(bert_vocabulary()) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.save(image_reward_checkpoint(), folder / "ImageReward.pt")
    return {"checkpoint": str(folder / "ImageReward.pt"), "tokenizer": str(folder)}


# ---- the hub -----------------------------------------------------------------------------------------


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
