"""The contract of a reward, as a check for its author's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ddpo_core.info import RewardInfo
from ddpo_core.protocols import Reward
from ddpo_core.rewards import as_scores
from ddpo_core.testing.care import TOLERANCE, random_state_kept
from ddpo_core.testing.examples import example_images, example_prompts
from ddpo_core.types import Prompt


def check_reward(
    reward: Reward,
    info: RewardInfo | None = None,
    *,
    size: int = 64,
    prompts: Sequence[Prompt] | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Hold a reward to its contract on pictures of `size` × `size` pixels, one per prompt.

    One finite score per image, inside the declared range; the same again for the same images; inputs and the
    global random state left alone; a single image is a batch, too. With scope "sample" (also where `info` is
    None) an image's score depends on neither the other images nor their order. A reward that declares itself
    differentiable has `score(images, prompts)`, and its gradient reaches every image.

    `tolerance` is relative to the largest score, or 1. Raises `AssertionError` that says what is broken.
    """
    name = f"reward {info.name!r}" if info else f"the reward {type(reward).__name__}"
    prompts = list(prompts or example_prompts())
    images = example_images(len(prompts), size)
    with _untouched(name, images, prompts), random_state_kept(name):
        scores = _scores(name, reward, images, prompts)
        again = _scores(name, reward, images, prompts)
        single = _scores(name, reward, images[:1], prompts[:1])
    margin = tolerance * max(1.0, float(np.abs(scores).max()))
    _assert_close(again, scores, margin, f"{name} is not deterministic: the same images scored")
    if info is not None:
        for part in (scores, single):
            _check_range(name, part, info.range, margin)
    if info is not None and info.differentiable:
        _check_gradient(name, reward, images, prompts)
    if info is None or info.scope == "sample":
        _check_independence(name, reward, images, prompts, scores, margin)


def _scores(name: str, reward: Reward, images: Tensor, prompts: Sequence[Prompt]) -> np.ndarray:
    """The reward's answer as float64 [B], checked for shape and finiteness."""
    answer = as_scores(reward(images, prompts))
    scores, details = answer.values, answer.details
    count = len(prompts)
    assert scores.shape == (count,), (
        f"{name} expects to return one score per image, shape ({count},), got {scores.shape}"
        + (
            ": each image was judged against every prompt"
            if scores.shape == (count, count) and count > 1
            else ""
        )
        + (": squeeze its last dimension" if scores.shape == (count, 1) else "")
    )
    broken = np.flatnonzero(~np.isfinite(scores))
    assert not len(broken), (
        f"{name} expects to return finite scores, got {scores[broken[0]]} for image {broken[0]}"
    )
    assert len(details) in (0, count), (
        f"{name} expects to return {count} records of details, got {len(details)}"
    )
    return scores


def _check_gradient(name: str, reward: Reward, images: Tensor, prompts: Sequence[Prompt]) -> None:
    """`score` gives one number per image, and a finite gradient that is not zero to each of them."""
    score: Callable[[Tensor, Sequence[Prompt]], Tensor] | None = getattr(reward, "score", None)
    assert score is not None, f"{name} is differentiable, and expects a method score(images, prompts) -> [B]"
    pixels = images.clone().requires_grad_()
    values = score(pixels, prompts)
    assert values.shape == (len(prompts),), (
        f"{name}.score expects to return one number per image, shape ({len(prompts)},),"
        f" got {tuple(values.shape)}"
    )
    assert values.requires_grad, f"{name}.score passes no gradient to the images"
    (gradient,) = torch.autograd.grad(values.sum(), pixels)
    assert torch.isfinite(gradient).all(), f"{name}.score has a gradient that is not finite"
    silent = [image for image, slope in enumerate(gradient) if not slope.any()]
    assert not silent, f"{name}.score passes no gradient to image {silent[0]}"


def _check_range(name: str, scores: np.ndarray, span: tuple[float, float], margin: float) -> None:
    lowest, highest = span
    for image, score in enumerate(scores):
        assert lowest - margin <= score <= highest + margin, (
            f"{name} expects scores in its declared range {lowest} … {highest}, got {score} for image {image}"
        )


def _check_independence(
    name: str, reward: Reward, images: Tensor, prompts: Sequence[Prompt], scores: np.ndarray, margin: float
) -> None:
    """Scope "sample": neither the order of the batch nor its other images matter."""
    turned = _scores(name, reward, images.flip(0), prompts[::-1])[::-1]
    _assert_close(turned, scores, margin, f"{name} depends on the order of the batch: turned round,")
    for image in range(len(prompts)):
        alone = _scores(name, reward, images[image : image + 1], prompts[image : image + 1])
        remedy = 'declare scope="group" or "batch" if it should:'
        _assert_close(
            alone,
            scores[image : image + 1],
            margin,
            f"{name} depends on the rest of the batch; {remedy} alone,",
            image,
        )


def _assert_close(
    got: np.ndarray, expected: np.ndarray, margin: float, what: str, first_image: int = 0
) -> None:
    worst = int(np.abs(got - expected).argmax())
    assert abs(got[worst] - expected[worst]) <= margin, (
        f"{what} image {first_image + worst} got {got[worst]} after {expected[worst]}"
    )


@contextmanager
def _untouched(name: str, images: Tensor, prompts: Sequence[Prompt]) -> Iterator[None]:
    kept_images, kept_prompts = images.clone(), [(prompt.text, dict(prompt.metadata)) for prompt in prompts]
    yield
    assert torch.equal(images, kept_images), f"{name} modified the images it was given; work on a copy"
    assert [(prompt.text, dict(prompt.metadata)) for prompt in prompts] == kept_prompts, (
        f"{name} modified the prompts it was given; work on a copy"
    )
