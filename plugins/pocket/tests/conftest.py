"""Held-out renderings for the judges' tests, which cannot render: the drawings come from npm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DATA = Path(__file__).with_name("data")


@pytest.fixture(scope="session")
def held_out() -> tuple[np.ndarray, list[str]]:
    """[56, 64, 64, 3] uint8 and what each shows: 45 animals, then people, activities, pairs and counts."""
    sheet = np.asarray(Image.open(DATA / "held_out.webp"))
    rows = sheet.reshape(-1, 64, 8, 64, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(-1, 64, 64, 3).copy(), json.loads((DATA / "held_out.json").read_text())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small models are slower, and their sums less exact, on several."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
