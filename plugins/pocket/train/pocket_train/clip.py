"""Trains the pocket CLIP: pictures and captions of the pocket world in one space of 128 dimensions.

Half of every batch is damaged, with its caption unchanged, and a linear probe reads the damage's grade off
the normalised embedding. So the embedding says what is shown and how well, both linearly, as LAION's
aesthetic predictor wants it. The probe itself is thrown away.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ddpo_pocket import world
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from .autoencoder import cosine
from .judge_data import DRAWN, REDRAWN, JudgeData, Record, load_judge_data, to_pixel_values, what_is_shown

BATCH = 96

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Texts:
    """The captions as the loss needs them."""

    tokens: Tensor  # [N, S] long
    shown: Tensor  # [N] long: equal numbers show the same
    extra: Tensor  # [N] long: what the caption says beyond that, 0 for nothing


@dataclass(frozen=True)
class Fit:
    """One part of the training."""

    minutes: float
    peak_lr: float
    grade_weight: float  # of the squared error, in grades, beside the contrastive loss in nats
    drawn: int  # pictures of a batch that the model drew or redrew, beyond the few that chance brings


def train_clip(data: Path, tokenizer: Path, target: Path, minutes: float, tune_minutes: float) -> None:
    """Fits a CLIPModel to the set in `data` and stores it with its processor in `target`, once."""
    if (target / "config.json").exists():
        return
    torch.manual_seed(0)
    words = CLIPTokenizer.from_pretrained(tokenizer)
    pictures = load_judge_data(data)
    model, texts = new_clip(words), describe(pictures.records, words)
    fit_clip(model, pictures, texts, Fit(minutes, peak_lr=1e-3, grade_weight=0.2, drawn=0))
    # what tells the model's own pictures from renderings is fine, and few of those are in the set
    fit_clip(model, pictures, texts, Fit(tune_minutes, peak_lr=4e-4, grade_weight=0.6, drawn=20))
    model.half().save_pretrained(target)
    CLIPProcessor(new_image_processor(), words).save_pretrained(target)


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIPModel of 1.3 million parameters for 64 × 64 pictures in patches of 8 × 8."""
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = dict(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def new_image_processor() -> CLIPImageProcessor:
    """Any picture to 64 × 64 in -1 to 1."""
    side = {"height": 64, "width": 64}
    return CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def describe(records: list[Record], tokenizer: CLIPTokenizer) -> Texts:
    """The captions of the records, as tokens and as numbers for what they say."""
    captions = [record.caption for record in records]
    tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    shown = [what_is_shown(record.scene, tuple(sorted(record.names)), record.caption) for record in records]
    return Texts(tokens, _numbered(shown), _numbered(["", *map(_beyond, records)])[1:])


def true_pairs(shown: Tensor, extra: Tensor) -> Tensor:
    """[B, B] float: 1 where text j is true of picture i.

    "a cat" and "a photo of a cat" are true of the same pictures; "a cat on a red background" and "a cat left
    of a dog" only of those whose own caption says so.
    """
    same = shown[:, None] == shown[None]
    return (same & ((extra[None] == 0) | (extra[:, None] == extra[None]))).float()


def contrastive_loss(image_embeds: Tensor, text_embeds: Tensor, scale: Tensor, truth: Tensor) -> Tensor:
    """InfoNCE both ways, the target of each row spread evenly over everything that is true of it."""
    logits = scale * image_embeds @ text_embeds.T
    towards_text = truth / truth.sum(1, keepdim=True)
    towards_image = truth.T / truth.T.sum(1, keepdim=True)
    losses = (
        -(towards_text * logits.log_softmax(1)).sum(1).mean()
        - (towards_image * logits.T.log_softmax(1)).sum(1).mean()
    )
    return losses / 2


def fit_clip(model: CLIPModel, data: JudgeData, texts: Texts, fit: Fit) -> CLIPModel:
    """Trains `model` and a new linear probe of grades."""
    model.set_attn_implementation("eager")  # on a CPU twice as fast backward as the fused attention
    probe = nn.Linear(model.config.projection_dim, 1)
    parameters = [*model.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, fit.peak_lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    rng, start, step, recent = np.random.default_rng(0), time.time(), 0, np.zeros(2)
    while (fraction := (time.time() - start) / (fit.minutes * 60)) < 1:
        optimizer.param_groups[0]["lr"] = fit.peak_lr * min(1, (step + 1) / 100) * cosine(fraction)
        places, damaged = draw_places(len(data.records), fit.drawn, rng)
        pixels, grades = data.pick(places, damaged)
        chosen = torch.from_numpy(places)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(pixel_values=disturb(to_pixel_values(pixels)), input_ids=texts.tokens[chosen])
        images = F.normalize(output.image_embeds.float(), dim=-1)
        sentences = F.normalize(output.text_embeds.float(), dim=-1)
        truth = true_pairs(texts.shown[chosen], texts.extra[chosen])
        contrast = contrastive_loss(images, sentences, model.logit_scale.exp().clamp(max=50), truth)
        grade_error = F.mse_loss(5.5 + 10 * probe(images)[:, 0], torch.from_numpy(grades))
        optimizer.zero_grad()
        (contrast + fit.grade_weight * grade_error).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, recent = step + 1, recent + np.array([contrast.item(), grade_error.item()])
        if step % 100 == 0:
            log.info(
                "%5.0f s  %d pictures  contrastive %.3f  grade² %.2f",
                time.time() - start,
                step * BATCH,
                *recent / 100,
            )
            recent[:] = 0
    return model.eval()


def draw_places(count: int, drawn: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(places [B] from 0 to count, damaged [B] bool): half damaged, `drawn` of them from the set's start."""
    places, damaged = rng.integers(0, count, BATCH), np.arange(BATCH) < BATCH // 2
    places[:drawn] = rng.integers(0, REDRAWN + DRAWN, drawn)
    order = places.argsort(kind="stable")  # neighbours in the file are read faster
    return places[order], damaged[order]


def disturb(pixels: Tensor) -> Tensor:
    """What changes neither caption nor grade: a little brightness and colour, a shift by up to 2 pixels."""
    count = len(pixels)
    pixels = pixels + 0.05 * torch.randn(count, 3, 1, 1)
    pixels = pixels * (1 + 0.05 * torch.randn(count, 1, 1, 1))
    padded = F.pad(pixels, (2, 2, 2, 2), mode="replicate")
    rows, columns = torch.randint(0, 5, (2, count)).tolist()
    crops = [
        picture[:, row : row + 64, column : column + 64]
        for picture, row, column in zip(padded, rows, columns, strict=True)
    ]
    return torch.stack(crops)


@torch.no_grad()
def embed_pictures(model: CLIPModel, pixels: np.ndarray) -> Tensor:
    """[B, 128] float32 of length 1 for pictures [B, 64, 64, 3] uint8."""
    blocks = to_pixel_values(pixels).split(100)
    found = [model.get_image_features(pixel_values=block).pooler_output for block in blocks]
    return F.normalize(torch.cat(found), dim=-1)


@torch.no_grad()
def embed_texts(model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """[B, 128] float32 of length 1."""
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return F.normalize(model.get_text_features(input_ids=tokens).pooler_output, dim=-1)


def name_animals(model: CLIPModel, tokenizer: CLIPTokenizer, pixels: np.ndarray) -> list[str]:
    """The animal whose `"a cat"` is nearest to each picture."""
    texts = embed_texts(model, tokenizer, [world.with_article(animal) for animal in world.ANIMALS])
    return [world.ANIMALS[place] for place in (embed_pictures(model, pixels) @ texts.T).argmax(1)]


def _beyond(record: Record) -> str:
    """The background or the direction that a caption names, "" where it names none."""
    if " on a" in record.caption and record.caption.endswith("background"):
        return record.caption.partition(" on a")[2]
    if " left of " in record.caption or " right of " in record.caption:
        return "left: " + record.names[0]
    return ""


def _numbered(texts: list[str]) -> Tensor:
    """Equal texts get equal numbers; the first text gets 0."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])
