"""Checks of what a reward answers. Each returns a note, or raises `Broken`, `Advice` or `NotMade`."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ddpo_core.errors import DdpoError
from ddpo_core.info import RewardInfo
from ddpo_core.testing.trial import OF_ONE_KIND, Advice, Broken, NotMade, Picture, Trial, numbers_of
from ddpo_core.types import Prompt, Scores

TOGETHER = "it judges images together"
SAMPLE_ONLY = 'declare scope="group" or "batch" if it should'


# ---- the answer itself -------------------------------------------------------------------------------


def one_score(trial: Trial) -> str:
    """[B] real numbers for B images; as many details and levels, or none."""
    _ = trial.first
    return ""


def finite(trial: Trial) -> str:
    broken = np.flatnonzero(~np.isfinite(trial.scores))
    if len(broken):
        raise Broken(
            f"expected finite scores, got {trial.scores[broken[0]]} for image {broken[0]} of the example"
            f" pictures; {OF_ONE_KIND}"
        )
    return ""


def digits(trial: Trial) -> str:
    """No score is rounded more coarsely than the declared resolution."""
    output = trial.first.output
    values = output.values if isinstance(output, Scores) else output
    if numbers_of(values) in "iu" and np.abs(trial.scores).max() >= 2**53:
        raise Broken("expected scores that float64 holds exactly, got whole numbers of 2⁵³ and more")
    declared = trial.info.resolution
    if declared == RewardInfo.__dataclass_fields__["resolution"].default:
        raise NotMade("it declares no resolution")
    step, kind = _step(values, trial.scores)
    if step > declared:
        raise Broken(
            f"expected scores as fine as its resolution, {declared:g}, got {kind} in steps of {step:g}:"
            " was it truncated? Return float32"
        )
    return ""


def _step(values: Any, scores: np.ndarray) -> tuple[float, str]:
    """The distance from the largest score to the next one that its type can hold."""
    kind = numbers_of(values)
    if kind in "iub":
        return 1.0, "whole numbers"
    dtype = getattr(values, "dtype", np.dtype(np.float64))
    if isinstance(dtype, torch.dtype):
        return torch.finfo(dtype).eps * float(np.abs(scores).max()), str(dtype).removeprefix("torch.")
    return float(np.finfo(dtype).eps * np.abs(scores).max()), str(dtype)


def deterministic(trial: Trial) -> str:
    again = trial.judge(trial.images, trial.prompts, "the same pictures again")
    _expect_same(again.values, trial.scores, trial, "expected the same scores for the same pictures")
    return ""


def inputs(trial: Trial) -> str:
    for edited in trial.first.edited:
        raise Broken(f"expected to leave its {edited} as they are; it changed them: work on a copy")
    return ""


def randomness(trial: Trial) -> str:
    for source in trial.first.touched:
        raise Broken(
            f"expected to leave the global random state alone; it moved that of {source}: use a generator of"
            " its own"
        )
    return ""


def graph(trial: Trial) -> str:
    """A call without gradient to the images holds on to no graph."""
    output = trial.first.output
    if isinstance(output, Tensor) and output.requires_grad:
        raise Broken(
            "expected scores without a graph, got a tensor that requires a gradient, which keeps every"
            " activation in memory; put @torch.no_grad() above __call__"
        )
    return ""


# ---- the batch ---------------------------------------------------------------------------------------


def order(trial: Trial) -> str:
    """Turned round, the batch has the same scores, turned round."""
    turned = trial.judge(trial.images.flip(0), trial.prompts[::-1], "the batch turned round")
    _expect_same(
        turned.values[::-1],
        trial.scores,
        trial,
        "expected each image's score not to depend on its place in the batch",
    )
    return ""


def neighbours(trial: Trial) -> str:
    """Each image keeps its score while every other one around it is another picture with another prompt."""
    if trial.scope != "sample":
        raise NotMade(TOGETHER)
    count = len(trial.prompts)
    for kept in (0, 1)[:count]:
        places = torch.arange(count) % 2 == kept
        images = torch.where(places.view(-1, 1, 1, 1), trial.images, 1 - trial.images.roll(1, 0))
        prompts = [trial.prompts[i] if places[i] else trial.prompts[(i + 1) % count] for i in range(count)]
        scores = trial.judge(images, prompts, "the same pictures among others")
        keep = np.flatnonzero(places.numpy())
        _expect_same(
            scores.values[keep],
            trial.scores[keep],
            trial,
            f"expected each image's score not to depend on the others; {SAMPLE_ONLY}",
            keep,
        )
    return ""


def levels(trial: Trial) -> str:
    """A set has one level, whatever its order; without levels, its images differ."""
    if trial.scope == "sample":
        raise NotMade("it judges each image by itself")
    said = trial.first.scores
    if said.levels is None:
        if len(set(said.values)) == 1 and len(said.values) > 1:
            raise Advice(
                "one score for all images of a set cancels against their mean: give each its credit, and the"
                " set's score as Scores(credits, levels=…)"
            )
        raise NotMade("it gives no levels")
    if np.ptp(said.levels) > trial.margin_of(said.levels):
        raise Broken(f"expected one level for a set, got {said.levels.min():g} … {said.levels.max():g}")
    turned = trial.judge(trial.images.flip(0), trial.prompts[::-1], "the set turned round")
    if turned.levels is None:
        raise Broken("expected the same level for the same set in another order, got none")
    _expect_same(
        turned.levels, said.levels, trial, "expected the same level for the same set in another order"
    )
    return f"{said.levels[0]:.4g} for the example pictures"


def alone(trial: Trial) -> str:
    """One picture is a batch, too; where each is judged by itself, with the score it has among others."""
    scores = trial.judge(trial.images[:1], trial.prompts[:1], "a single picture")
    if trial.scope == "sample" and trial.outcomes["neighbours"].status == "passed":
        _expect_same(
            scores.values,
            trial.scores[:1],
            trial,
            f"expected an image's score alone as in a batch; {SAMPLE_ONLY}",
        )
    return ""


# ---- other pictures ----------------------------------------------------------------------------------


def sizes(trial: Trial) -> str:
    """Larger and oblong pictures are judged, or refused with a `DdpoError`."""
    height, width = trial.images.shape[-2:]
    refused = []
    for size in ((height * 3 // 2, width * 3 // 2), (height, width * 3 // 2)):
        images = functional.interpolate(trial.images[:2], size, mode="nearest")
        shape = f"{size[1]} × {size[0]}"
        try:
            trial.judge(images, trial.prompts[:2], f"pictures of {shape} pixels")
        except DdpoError as error:
            refused.append(f"{shape} is refused: {error}")
        except Broken as broken:
            raise Broken(
                f"{broken}; judge such pictures, or raise UsageError that names the size"
            ) from broken
    return "; ".join(refused)


def flat(trial: Trial) -> str:
    """Black, white and grey pictures, which training may well draw, are judged without a crash."""
    levels = torch.tensor([0.0, 1.0, 0.5]).view(-1, 1, 1, 1)
    images = levels.expand(3, *trial.images.shape[1:]).contiguous()
    prompts = [trial.prompts[place % len(trial.prompts)] for place in range(3)]
    what = "black, white and grey pictures"
    try:
        values = trial.ask(images, prompts, what).read().scores.values
    except DdpoError as error:
        raise Advice(f"a run that draws {what} stops: {error}") from error
    if np.isinf(values).any():
        raise Broken(f"expected finite scores for {what}, got {values.tolist()}; is there a division by 0?")
    if np.isnan(values).any():
        raise Advice(
            f"no score for {what} ({values.tolist()}): a run that draws one stops, or goes on without it"
            " under on_error=drop. Is that meant, or a division by 0?"
        )
    trial.seen.append((what, values))
    return ""


def in_range(trial: Trial) -> str:
    """Every score that was seen lies in the declared range."""
    low, high = trial.info.range
    if np.isinf(low) and np.isinf(high):
        raise NotMade("it declares no range")
    seen = [(what, float(score)) for what, scores in trial.seen for score in scores]
    for what, score in seen:
        if not low - trial.margin <= score <= high + trial.margin:
            raise Broken(
                f"expected scores in the declared range {_span(low, high)}, got {score:g} for one of {what};"
                " widen range= or clamp the score"
            )
    return f"{min(s for _, s in seen):.4g} … {max(s for _, s in seen):.4g} seen of {_span(low, high)}"


def _span(low: float, high: float) -> str:
    return f"{low:g} … {high:g}".replace("inf", "∞")


def direction(trial: Trial) -> str:
    """Pictures that the author calls better score higher."""
    if not trial.better or not trial.worse:
        raise NotMade(
            "bring pictures that are better and worse (--better, --worse; in tests better(), worse())"
        )
    better, worse = _known(trial, trial.better), _known(trial, trial.worse)
    means = f"{better.mean():.4g} for the better and {worse.mean():.4g} for the worse"
    if not better.mean() > worse.mean():
        raise Broken(
            f"expected better pictures to score higher, got means of {means}: turn the sign, or say in"
            " higher_is what it rewards"
        )
    right = float((better[:, None] > worse[None, :]).mean())
    return f"means of {means}; {right:.0%} of the pairs are in order"


def _known(trial: Trial, pictures: Sequence[Picture]) -> np.ndarray:
    """The scores of pictures one by one; of a reward that judges them together, the level of the set."""
    if trial.scope == "sample":
        answers = [
            trial.judge(pixels[None], [prompt], "the better and worse pictures")
            for pixels, prompt in pictures
        ]
        return np.concatenate([answer.values for answer in answers])
    if len({pixels.shape for pixels, _ in pictures}) > 1:
        raise NotMade(f"{TOGETHER}, which have to be of one size")
    images = torch.stack([pixels for pixels, _ in pictures])
    scores = trial.judge(images, [prompt for _, prompt in pictures], "the better and worse pictures")
    if scores.levels is None:
        raise NotMade(f"{TOGETHER} and gives no levels to compare")
    return scores.levels[:1]


# ---- gradient ----------------------------------------------------------------------------------------


def gradient(trial: Trial) -> str:
    """`score` gives one number per image, and a finite gradient that is not zero to each of them."""
    if not trial.info.differentiable:
        raise NotMade("it declares none")
    score: Callable[[Tensor, Sequence[Prompt]], Tensor] | None = getattr(trial.reward, "score", None)
    if score is None:
        raise Broken("expected a method score(images, prompts) -> [B], as it is declared differentiable")
    pixels = trial.images.clone().requires_grad_()
    values = score(pixels, trial.prompts)
    if values.shape != (len(trial.prompts),):
        raise Broken(
            f"expected score() to return one number per image, shape ({len(trial.prompts)},), got"
            f" {tuple(values.shape)}"
        )
    slopes = torch.autograd.grad(values.sum(), pixels, allow_unused=True)[0] if values.requires_grad else None
    if slopes is None:
        raise Broken("expected score() to pass a gradient to the images, got none: is there a detach()?")
    if not torch.isfinite(slopes).all():
        raise Broken("expected a finite gradient of score(), got NaN or infinity")
    silent = [image for image, slope in enumerate(slopes) if not slope.any()]
    if silent:
        raise Broken(f"expected a gradient of score() to every image, got none to image {silent[0]}")
    return ""


# ---- building it again, and letting go ---------------------------------------------------------------


def rebuilt(trial: Trial) -> str:
    """Built anew from the same options, it gives the same scores: nothing in it is drawn at random."""
    answer = trial.ask(trial.images, trial.prompts, "the example pictures", trial.second).read()
    _expect_same(
        answer.scores.values,
        trial.scores,
        trial,
        "expected the same scores when built again; load its weights, or draw them from a fixed seed",
    )
    return ""


def close(trial: Trial) -> str:
    """`close()` may be called twice, and lets go of the models."""
    reward = trial.second
    let_go: Callable[[], object] | None = getattr(reward, "close", None)
    held = list(_models(reward))
    if let_go is None:
        if held:
            raise Advice(f"it holds a {type(held[0]).__name__}: a method close() could let go of it")
        raise NotMade("it holds no model and has no close()")
    for which in ("", " a second time"):
        try:
            let_go()
        except Exception as error:
            raise Broken(
                f"expected close() to return when called{which}, got {type(error).__name__}: {error}"
            ) from error
    for model in _models(reward):
        raise Broken(
            f"expected close() to let go of its models, got a {type(model).__name__} that it still holds"
        )
    return ""


def _models(reward: object) -> Iterator[nn.Module]:
    """The networks within reach of a reward's attributes, containers and closures."""
    waiting: list[object] = [reward]
    met: set[int] = set()
    while waiting and len(met) < 10_000:
        thing = waiting.pop()
        if id(thing) in met or isinstance(thing, type | types.ModuleType | str | bytes | Tensor | np.ndarray):
            continue
        met.add(id(thing))
        if isinstance(thing, nn.Module):
            yield thing
        else:
            waiting.extend(_parts(thing))


def _parts(thing: object) -> Iterator[object]:
    if isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from thing
    elif isinstance(thing, types.MethodType):
        yield thing.__self__
    elif isinstance(thing, types.FunctionType):
        yield from (cell.cell_contents for cell in thing.__closure__ or () if cell != types.CellType())
    else:
        yield from getattr(thing, "__dict__", {}).values()


# ---- how fast ----------------------------------------------------------------------------------------


def images_per_second(trial: Trial) -> float:
    """Of a second call on the example pictures."""
    return len(trial.prompts) / max(trial.ask(trial.images, trial.prompts, "").seconds, 1e-9)


def _expect_same(
    got: np.ndarray,
    expected: np.ndarray,
    trial: Trial,
    what: str,
    places: np.ndarray | None = None,
) -> None:
    worst = int(np.abs(got - expected).argmax())
    if abs(got[worst] - expected[worst]) > trial.margin_of(expected):
        image = worst if places is None else int(places[worst])
        raise Broken(f"{what}: image {image} got {got[worst]:.6g} after {expected[worst]:.6g}")
