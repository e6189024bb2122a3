"""Trains the detector: OWLv2's own class at 64 × 64, which finds what a text names and puts a box around it.

Its confidence serves as a reward, so it must say how sure it is instead of saturating: the target of a found
object is the quality of its box (quality focal loss, Li et al. 2020, equation 3, exponent 1), and pictures
are disturbed up to the point where nobody could name them. Every object is matched to one of the 64 tokens,
as in DETR, so that it is found once.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from ddpo_pocket import world
from torch import Tensor
from transformers import (
    CLIPTokenizer,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
)

from .autoencoder import cosine, to_model_range
from .detector_data import CONCEPTS, FACE, DetectorData, normalised
from .render import SIZE

PATCH = 8
BATCH = 32
PEAK_LR = 1.2e-3
EMA_DECAY = 0.998
WARM_UP = 200  # steps
CHECKPOINT_SECONDS = 120
REACH = 12.0 / SIZE  # how far from an object's centre the middle of its token may lie
LEAST_QUALITY = 0.5  # confidence to aim at for an object that is found with a box of no overlap

TEMPLATES = ("a {}", "a {}", "a {}", "{}", "a photo of a {}", "a picture of a {}", "the {}")
FACE_QUERIES = ("a face", "face", "a human face", "human face", "the face of a person", "a photo of a face")
# Never there. The empty one is what OWLv2's processor fills up with.
STRANGERS = (
    "", "car", "tree", "house", "a chair", "a table", "boat", "train", "a cup", "apple", "pizza", "clock",
    "a book", "elephant", "giraffe", "something", "a bus", "phone",
)  # fmt: skip

log = logging.getLogger(__name__)


def new_detector(tokenizer: CLIPTokenizer) -> Owlv2ForObjectDetection:
    """1.4 million random weights; its confidence starts at 1 %."""
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = Owlv2Config(
        text_config={
            **text,
            **tokens,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**vision, "image_size": SIZE, "patch_size": PATCH},
        projection_dim=128,
    )
    model = Owlv2ForObjectDetection(config)
    _start_heads(model)
    return model


def _start_heads(model: Owlv2ForObjectDetection) -> None:
    """Boxes start at their tokens, confidences at 1 %; transformers' own start for heads has deviation 1."""
    for head in (model.class_head, model.box_head, model.objectness_head):
        for layer in head.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
    # logits are scale × (cosine + shift), and scale is ELU(its input) + 1
    scale, shift = model.class_head.logit_scale, model.class_head.logit_shift
    for last in (scale, shift, model.box_head.dense2):
        torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(scale.bias, 9.0)
    torch.nn.init.constant_(shift.bias, math.log(0.01 / 0.99) / 10)


def train_detector(data: DetectorData, tokenizer_folder: Path, target: Path, minutes: float) -> None:
    """Writes the folder `target`: weights (float16, loaded as float32), tokenizer and image processor. Once.

    A killed run goes on from its last checkpoint, `target`.state.
    """
    if (target / "config.json").exists():
        return
    torch.manual_seed(0)
    random.seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    run = Run(tokenizer, target.with_name(target.name + ".state"), minutes * 60)
    recent: list[float] = []
    while run.fraction() < 1:
        recent.append(run.step(data))
        if len(recent) == 100:
            log.info("%5.0f s  step %d  loss %.3f", run.seconds(), run.steps, sum(recent) / len(recent))
            recent.clear()
    save_detector(run.average.module, tokenizer, target)


class Run:
    """Weights, their moving average and the optimizer, kept in a file every few minutes."""

    def __init__(self, tokenizer: CLIPTokenizer, state: Path, budget: float) -> None:
        self.model = new_detector(tokenizer)
        self.model.set_attn_implementation(
            "eager"
        )  # on a CPU in bfloat16 half as fast again as the fused one
        decay = torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
        self.average = torch.optim.swa_utils.AveragedModel(self.model, multi_avg_fn=decay)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), PEAK_LR, betas=(0.9, 0.98), weight_decay=0.05
        )
        self.steps = 0
        self._queries = Queries(tokenizer)
        self._state, self._budget, self._before = state, budget, 0.0
        self._start = self._saved = time.time()
        if state.exists():
            self._load()

    def seconds(self) -> float:
        """Spent on training so far, earlier runs included."""
        return self._before + time.time() - self._start

    def fraction(self) -> float:
        """Of the budget that is used up."""
        return self.seconds() / self._budget

    def step(self, data: DetectorData) -> float:
        """One step of the optimizer; the loss."""
        rate = PEAK_LR * min(1, (self.steps + 1) / WARM_UP) * cosine(self.fraction())
        self.optimizer.param_groups[0]["lr"] = rate
        loss = detection_loss(self.model, self._queries, *draw_batch(data))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.steps += 1
        if time.time() - self._saved > CHECKPOINT_SECONDS:
            self._save()
        return loss.item()

    def _save(self) -> None:
        parts = (self.model, self.average, self.optimizer)
        unfinished = self._state.with_name(self._state.name + ".partial")
        torch.save([*(part.state_dict() for part in parts), self.steps, self.seconds()], unfinished)
        unfinished.rename(self._state)
        self._saved = time.time()

    def _load(self) -> None:
        *states, self.steps, self._before = torch.load(self._state)
        for part, state in zip((self.model, self.average, self.optimizer), states, strict=True):
            part.load_state_dict(state)


def save_detector(model: Owlv2ForObjectDetection, tokenizer: CLIPTokenizer, target: Path) -> None:
    """Everything that `AutoProcessor` and `AutoModelForZeroShotObjectDetection` need, in one folder."""
    shipped = Owlv2ForObjectDetection(model.config)
    shipped.load_state_dict(model.state_dict())
    shipped.half().save_pretrained(target)
    config = json.loads((target / "config.json").read_text())
    config["dtype"] = "float32"  # stored as float16, meant to run in float32
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    images = Owlv2ImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    Owlv2Processor(images, tokenizer).save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)


# --- queries ------------------------------------------------------------------------------------------------


class Queries:
    """Texts for every concept, tokenised once."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        texts = [queries_for(concept) for concept in CONCEPTS] + [list(STRANGERS)] * 3
        self._ids = [
            tokenizer(of_one, padding="max_length", return_tensors="pt").input_ids for of_one in texts
        ]
        self._lengths = [
            torch.tensor([len(tokenizer(text).input_ids) for text in of_one]) for of_one in texts
        ]

    def draw(self) -> Tensor:
        """Token ids [C + 3, L]: one wording of each concept, then three things that are never there."""
        chosen = [random.randrange(len(ids)) for ids in self._ids]
        longest = max(lengths[place] for lengths, place in zip(self._lengths, chosen, strict=True))
        return torch.stack([ids[place] for ids, place in zip(self._ids, chosen, strict=True)])[:, :longest]


def queries_for(concept: str) -> list[str]:
    """The wordings that the detector learns for an entry of CONCEPTS."""
    if concept == FACE:
        return list(FACE_QUERIES)
    texts = [template.format(concept).replace("a a", "an a") for template in TEMPLATES]
    return texts + ([world.PLURALS[concept]] if concept in world.PLURALS else [])


# --- batches ------------------------------------------------------------------------------------------------


def draw_batch(data: DetectorData) -> tuple[Tensor, Tensor, Tensor]:
    """(pixels [B, 3, 64, 64] in −1 to 1, labels [B, SLOTS], boxes [B, SLOTS, 4] as centre and size)."""
    chosen = torch.randint(0, len(data.pixels), (BATCH,)).numpy()
    pixels, boxes = to_model_range(data.pixels[chosen]), normalised(data.boxes[chosen])
    labels = torch.from_numpy(data.labels[chosen])
    flipped = torch.rand(BATCH) < 0.5
    pixels = torch.where(flipped.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    boxes[..., 0] = torch.where(flipped[:, None], 1 - boxes[..., 0], boxes[..., 0])
    return *_disturb(pixels, labels), boxes


def _disturb(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Blurs, coarsens, recolours and adds noise; 3 % become bare background and lose their labels."""
    count = len(pixels)
    for share, damage in _DAMAGES:
        hit = torch.rand(count) < share
        pixels[hit] = damage(pixels[hit])
    pixels = pixels * (1 + 0.15 * torch.randn(count, 1, 1, 1)) + 0.1 * torch.randn(count, 3, 1, 1)
    strength = 0.5 * torch.rand(count, 1, 1, 1) ** 3
    pixels = pixels + strength * torch.randn_like(pixels)
    bare = torch.rand(count) < 0.03
    corners = pixels[:, :, :: SIZE - 1, :: SIZE - 1]
    background = F.interpolate(corners, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
    pixels = torch.where(bare.view(-1, 1, 1, 1), background, pixels)
    return pixels.clamp(-1, 1), torch.where(bare[:, None], -1, labels)


def _blur(pixels: Tensor, side: int) -> Tensor:
    margin = side // 2
    return F.avg_pool2d(F.pad(pixels, (margin,) * 4, mode="replicate"), side, stride=1)


def _coarsen(pixels: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear")


_DAMAGES: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = (  # share of pictures, what happens to them
    (0.25, partial(_blur, side=3)),
    (0.08, partial(_blur, side=5)),
    (0.05, partial(_blur, side=9)),
    (0.08, _coarsen),
)


# --- the loss -----------------------------------------------------------------------------------------------


def detection_loss(
    model: Owlv2ForObjectDetection, queries: Queries, pixels: Tensor, labels: Tensor, boxes: Tensor
) -> Tensor:
    """Quality focal loss of all confidences, 5 × L1 and 2 × GIoU of the matched boxes, per object."""
    with torch.autocast("cpu", torch.bfloat16):
        logits, found = predict(model, queries.draw(), pixels)
    logits, found = logits.float(), found.float()
    tokens = match(logits.detach(), found.detach(), labels, boxes)
    there = labels >= 0
    rows = torch.arange(len(labels))[:, None].expand_as(labels)[there]
    tokens, labels_there, boxes_there = tokens[there], labels[there], boxes[there]
    matched = found[rows, tokens]
    iou, giou = overlaps(matched, boxes_there)
    target = torch.zeros_like(logits)
    quality = LEAST_QUALITY + (1 - LEAST_QUALITY) * iou.detach().clamp(0, 1)
    target[rows, tokens, labels_there] = quality
    is_person = _IS_PERSON[labels_there]
    target[rows[is_person], tokens[is_person], _PERSON] = quality[is_person]
    classes = (focal(logits, target) * _told(labels)[:, None, :]).sum()
    corners = (matched - boxes_there).abs().sum()
    return (classes + 5 * corners + 2 * (1 - giou).sum()) / max(1, len(rows))


def predict(model: Owlv2ForObjectDetection, ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(logits [B, 64, C], boxes [B, 64, 4]) as the model's own forward, the texts encoded once for all."""
    hidden = model.owlv2.vision_model(pixel_values=pixels).last_hidden_state
    hidden = model.owlv2.vision_model.post_layernorm(hidden)
    features = model.layer_norm(hidden[:, 1:] * hidden[:, :1])
    texts = model.owlv2.text_projection(model.owlv2.text_model(input_ids=ids).pooler_output)
    logits, _ = model.class_predictor(features, texts[None].expand(len(pixels), -1, -1))
    return logits, model.box_predictor(features, features)


@torch.no_grad()
def match(logits: Tensor, found: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
    """[B, SLOTS] the token of each object: near its centre, sure of its name, with a near box."""
    distance = torch.cdist(boxes[..., :2], _TOKEN_CENTRES)
    wanted = labels.clamp(min=0)[:, None, :].expand(-1, logits.shape[1], -1)
    confidence = logits.gather(2, wanted).sigmoid().transpose(1, 2)
    cost = torch.cdist(boxes, found, p=1) - confidence + 2 * distance + 100 * (distance > REACH)
    chosen = torch.zeros_like(labels)
    for slot in range(labels.shape[1]):
        chosen[:, slot] = cost[:, slot].argmin(1)
        taken = F.one_hot(chosen[:, slot], logits.shape[1]) * (labels[:, slot] >= 0)[:, None]
        cost = cost + 1000 * taken[:, None, :]
    return chosen


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Quality focal loss: |target − confidence| × cross-entropy."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (target - logits.sigmoid()).abs() * entropy


def overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(IoU [N], generalised IoU [N]) of boxes [N, 4] given as centre and size."""
    (low_1, high_1), (low_2, high_2) = (_corners(first), _corners(second))
    inside = (torch.minimum(high_1, high_2) - torch.maximum(low_1, low_2)).clamp(min=0).prod(-1)
    hull = (torch.maximum(high_1, high_2) - torch.minimum(low_1, low_2)).prod(-1)
    union = (first[:, 2:].prod(-1) + second[:, 2:].prod(-1) - inside).clamp(min=1e-6)
    iou = inside / union
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2


def _told(labels: Tensor) -> Tensor:
    """[B, C + 3] 0 where a picture does not say whether the concept is there: a doctor may be a woman."""
    told = torch.ones(len(labels), len(CONCEPTS) + 3)
    worker = torch.isin(labels, _SEXLESS).any(1)
    told[worker.nonzero(), _SEXES] = 0
    return told


_PERSON = CONCEPTS.index("person")
_IS_PERSON = torch.tensor([concept in world.PEOPLE for concept in CONCEPTS])
_SEXES = torch.tensor([CONCEPTS.index(word) for word in ("man", "woman", "boy", "girl")])
_SEXLESS = torch.tensor(
    [
        CONCEPTS.index(word)
        for word in (*world.PROFESSIONS, "person", "grandmother", "grandfather", "princess", "prince")
    ]
)
_SIDE = SIZE // PATCH
_TOKEN_CENTRES = torch.stack(
    torch.meshgrid((torch.arange(_SIDE) + 0.5) / _SIDE, (torch.arange(_SIDE) + 0.5) / _SIDE, indexing="xy"),
    -1,
).view(-1, 2)
