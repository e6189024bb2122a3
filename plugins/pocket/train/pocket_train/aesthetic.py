"""Fits the pocket aesthetic head: LAION's predictor, number for number, on the pocket CLIP's embeddings.

It learns the grades of `damage.py`, so it says how well a picture is drawn and nothing about taste.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ddpo_reward_aesthetic.head import AestheticHead, head_of
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel

from .clip import embed_pictures
from .damage import DAMAGES, apply, grade_of, quality_left
from .judge_data import load_judge_data

PICTURES = 12_000  # from the start of the set, where those drawn by the model are; each whole and damaged
PASSES = 20
BATCH = 256
PEAK_LR = 1e-3

log = logging.getLogger(__name__)


def train_aesthetic(data: Path, clip: Path, target: Path) -> None:
    """Fits the head to the grades of the set in `data`, as the CLIP in `clip` sees it, once."""
    if target.exists():
        return
    torch.manual_seed(0)
    model, pictures = CLIPModel.from_pretrained(clip).float().eval(), load_judge_data(data)
    embeddings = torch.cat(
        [embed_pictures(model, copies[:PICTURES]) for copies in (pictures.whole, pictures.damaged)]
    )
    grades = torch.from_numpy(pictures.grades[:PICTURES].T.reshape(-1))
    head = fit_head(embeddings, grades)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in head.state_dict().items()}, target)


def load_head(path: Path) -> AestheticHead:
    """The shipped head in float32."""
    return head_of(load_file(path))


def fit_head(embeddings: Tensor, grades: Tensor) -> AestheticHead:
    """Least squares by AdamW; `embeddings` [N, D] of length 1, `grades` [N]."""
    head = AestheticHead(embeddings.shape[1])
    with torch.no_grad():
        head.layers[-1].bias.fill_(grades.mean())
    optimizer = torch.optim.AdamW(head.parameters(), PEAK_LR, weight_decay=1e-4, fused=True)
    steps = PASSES * (len(grades) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(0, len(grades), (BATCH,))
        loss = F.mse_loss(head(embeddings[chosen]), grades[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            log.info("step %d of %d  squared error %.2f", step, steps, loss.item())
    return head.eval()


@torch.no_grad()
def grade(clip: CLIPModel, head: AestheticHead, pixels: np.ndarray) -> np.ndarray:
    """[B] grades for pictures [B, 64, 64, 3] uint8."""
    return head(embed_pictures(clip, pixels)).numpy()


def measure_head(clip: CLIPModel, head: AestheticHead, whole: np.ndarray) -> dict:
    """How well the head orders damages of held-out renderings [B, 64, 64, 3], kind by kind.

    `spearman`: over pictures, each with its own amount. `pairs_right`: of two copies of one picture with
    amounts at least 0.2 apart, how often the less damaged one gets the higher grade.
    """
    return {kind: _measure_kind(clip, head, whole, kind) for kind in DAMAGES}


def _measure_kind(clip: CLIPModel, head: AestheticHead, whole: np.ndarray, kind: str) -> dict[str, float]:
    rng = random.Random(kind)
    less = [rng.uniform(0, 0.8) for _ in whole]
    more = [rng.uniform(amount + 0.2, 1) for amount in less]
    found = []
    for amounts in (less, more):
        pairs = zip(whole, amounts, strict=True)
        found.append(grade(clip, head, np.stack([apply(kind, one, amount, rng) for one, amount in pairs])))
    true = [grade_of(quality_left(kind, amount)) for amount in (*less, *more)]
    return {
        "spearman": round(spearman(np.array(true), np.concatenate(found)), 3),
        "pairs_right": round(float((found[0] > found[1]).mean()), 3),
        "mean_absolute_error": round(float(np.abs(np.array(true) - np.concatenate(found)).mean()), 2),
    }


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of two rows of numbers without ties."""
    ranks = [values.argsort().argsort() for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])
