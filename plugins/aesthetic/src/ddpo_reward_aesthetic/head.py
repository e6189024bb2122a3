"""LAION's head: five linear layers and nothing between them (improved-aesthetic-predictor, Apache-2.0).

768 → 1024 → 128 → 64 → 16 → 1, with dropout in training only, so the whole is one affine map w·e + b.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ddpo_core.errors import EnvironmentFault
from ddpo_core.judges import fill, loading, read_tensors, sha256, weights_file
from ddpo_reward_aesthetic import HEAD, HEAD_FILE, HEAD_SHA256


class AestheticHead(nn.Module):
    """Grades [B] for embeddings [B, width] of length 1."""

    def __init__(self, width: int = 768) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embeds: Tensor) -> Tensor:
        grades: Tensor = self.layers(embeds)
        return grades.squeeze(-1)

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor]:
        """w [width] and b [] in float64 with `forward(e)` = w·e + b: the layers multiplied out."""
        weight = torch.eye(self.width, dtype=torch.float64)
        bias = torch.zeros(self.width, dtype=torch.float64)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                weight = layer.weight.double() @ weight
                bias = layer.weight.double() @ bias + layer.bias.double()
        return weight[0], bias[0]


def load_head(source: str) -> AestheticHead:
    """The head in a file, `PACKAGE:PATH`, or on the hub, in float32 on the CPU.

    Raises `EnvironmentFault` where it is not there, holds other layers, or LAION's checksum differs.
    """
    file = weights_file(source, HEAD_FILE)
    with loading("aesthetic", "head", file.name):
        path = file.path()
        if source == HEAD:
            _check_sha256(path)
        return head_of(read_tensors(path))


def head_of(tensors: Mapping[str, Tensor]) -> AestheticHead:
    """A head of these weights; its embedding width is the first layer's. Raises `ValueError` for others."""
    first = tensors.get("layers.0.weight")
    head = AestheticHead(first.shape[1] if first is not None and first.ndim == 2 else 768)
    fill(head, tensors, "LAION's five layers (layers.0, 2, 4, 6, 7)")
    return head.eval().requires_grad_(False)


def _check_sha256(path: Path) -> None:
    got = sha256(path)
    if got != HEAD_SHA256:
        raise EnvironmentFault(
            f"reward 'aesthetic': {path} should be LAION's head, sha256 {HEAD_SHA256[:12]}…, got {got[:12]}…",
            hint=f"delete it and try again, or, if you trust it, say so: aesthetic,head={path}",
        )
