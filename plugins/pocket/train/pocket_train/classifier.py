"""A judge for the evaluation: which of the 45 animals is on this picture? Fitted on renderings, not shipped.

It never sees a generated picture in training, so it says how near generated animals come to the drawn ones.
Noise, blur and shifts of colour in training keep it from leaning on details that no autoencoder keeps.
"""

from __future__ import annotations

import itertools
import logging
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ddpo_pocket import world
from torch import Tensor, nn

from .autoencoder import cosine, to_model_range
from .render import HELD_OUT_SEED, held_out_pictures, load_dataset
from .sprites import load_or_draw

BATCH = 64
PEAK_LR = 2e-3

log = logging.getLogger(__name__)


class AnimalClassifier(nn.Module):
    """A plain convolutional network, half a million parameters."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        stages = [_stage(before, after) for before, after in itertools.pairwise(widths)]
        self.features = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], len(world.ANIMALS))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, 45] for pictures [B, 3, 64, 64] in -1 to 1, in the order of world.ANIMALS."""
        return self.head(self.features(pixels).amax((2, 3)))


def _stage(before: int, after: int) -> nn.Module:
    """Halves the side."""
    layers = [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU())


def fit_classifier(data: Path, target: Path, minutes: float) -> AnimalClassifier:
    """The classifier in `target`; if there is none yet, one fitted to the single animals of `data`."""
    model = AnimalClassifier()
    if target.exists():
        model.load_state_dict(torch.load(target))
        return model.eval()
    pictures, records = load_dataset(data)
    places = np.array([place for place, record in enumerate(records) if record["scene"] == "animal"])
    labels = torch.tensor([world.ANIMALS.index(records[place]["subject"]) for place in places])
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_LR, weight_decay=0.05)
    start, step = time.time(), 0
    while (fraction := (time.time() - start) / (minutes * 60)) < 1:
        optimizer.param_groups[0]["lr"] = PEAK_LR * min(1, (step + 1) / 100) * cosine(fraction)
        chosen = torch.randint(0, len(places), (BATCH,)).sort().values
        logits = model(_disturb(to_model_range(pictures[places[chosen.numpy()]])))
        loss = F.cross_entropy(logits, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            log.info("%4.0f s  step %d  cross-entropy %.3f", time.time() - start, step, loss.item())
    torch.save(model.state_dict(), target)
    return model.eval()


def _disturb(pixels: Tensor) -> Tensor:
    """Half of the pictures blurred; all with noise and a shift of colour of random strength."""
    count = len(pixels)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels = torch.where(torch.rand(count, 1, 1, 1) < 0.5, blurred, pixels)
    pixels = pixels + 0.1 * torch.randn(count, 3, 1, 1)
    return pixels + 0.15 * torch.rand(count, 1, 1, 1) * torch.randn_like(pixels)


@torch.no_grad()
def classify(model: AnimalClassifier, pictures: np.ndarray) -> np.ndarray:
    """[B] places in world.ANIMALS for pictures [B, 64, 64, 3] uint8."""
    return torch.cat([model(block).argmax(1) for block in to_model_range(pictures).split(100)]).numpy()


def held_out_accuracy(model: AnimalClassifier, sprites: Path, count: int) -> float:
    """Share of `count` new renderings of single animals that are named right."""
    book = load_or_draw(Path(), sprites)
    pictures = held_out_pictures(book, count, "animal", HELD_OUT_SEED + 1_000_000)
    predicted = classify(model, np.stack([picture.pixels for picture in pictures]))
    truth = np.array([world.ANIMALS.index(picture.subject) for picture in pictures])
    return float((predicted == truth).mean())
