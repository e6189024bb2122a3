"""For tests of plugins: a contract check for rewards, and a denoiser small enough to do by hand.

    from ddpo_core.testing import check_reward

    def test_my_reward_keeps_the_contract():
        check_reward(MyReward(), info)

It needs torch, and neither weights nor a network. `ToyDenoiser` follows `protocols.Denoiser`, for tests of
samplers and estimators.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ddpo_core.errors import CheckpointError
from ddpo_core.info import RewardInfo
from ddpo_core.processes import Diffusion, Process
from ddpo_core.protocols import Reward
from ddpo_core.rewards import as_scores
from ddpo_core.types import Conditioning, Judged, Population, Prompt, Trajectory

__all__ = ["ToyDenoiser", "ToyNetwork", "check_reward", "example_images", "example_prompts", "judged_of"]

TOLERANCE = 1e-4  # relative: what float32 networks lose when a batch is summed in another order


# ---- rewards -----------------------------------------------------------------------------------------


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
    None) an image's score depends on neither the other images nor their order.

    `tolerance` is relative to the largest score, or 1. Raises `AssertionError` that says what is broken.
    """
    name = f"reward {info.name!r}" if info else f"the reward {type(reward).__name__}"
    prompts = list(prompts or example_prompts())
    images = example_images(len(prompts), size)
    with _untouched(name, images, prompts), _random_state_kept(name):
        scores = _scores(name, reward, images, prompts)
        again = _scores(name, reward, images, prompts)
        single = _scores(name, reward, images[:1], prompts[:1])
    margin = tolerance * max(1.0, float(np.abs(scores).max()))
    _assert_close(again, scores, margin, f"{name} is not deterministic: the same images scored")
    if info is not None:
        for part in (scores, single):
            _check_range(name, part, info.range, margin)
    if info is None or info.scope == "sample":
        _check_independence(name, reward, images, prompts, scores, margin)


def example_prompts() -> list[Prompt]:
    """Five prompts, no two alike."""
    return [
        Prompt(text) for text in ("a cat", "two wolves", "a dog riding a bike", "an old woman", "a red ball")
    ]


def example_images(count: int, size: int = 64) -> Tensor:
    """Pictures [count, 3, size, size] float32 in [0, 1], no two alike: gradients under growing noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, 3, size, size, generator=generator)
    ramp = torch.linspace(0, 1, size).expand(count, 3, size, size)
    share = torch.linspace(0, 1, count).view(-1, 1, 1, 1)
    return (1 - share) * ramp * torch.rand(count, 3, 1, 1, generator=generator) + share * noise


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


_RANDOM_STATES: dict[str, Callable[[], object]] = {
    "python's random": lambda: random.getstate(),
    "numpy.random": lambda: tuple(map(str, np.random.get_state(legacy=False).items())),
    "torch": lambda: torch.get_rng_state().tolist(),
}


@contextmanager
def _random_state_kept(name: str) -> Iterator[None]:
    before = {source: state() for source, state in _RANDOM_STATES.items()}
    yield
    for source, state in _RANDOM_STATES.items():
        assert state() == before[source], (
            f"{name} drew from or seeded the global random state of {source}; use a generator of its own"
        )


# ---- a denoiser --------------------------------------------------------------------------------------


def judged_of(
    trajectory: Trajectory,
    advantages: Tensor,
    rewards: Mapping[str, np.ndarray],
    seeds: Sequence[int],
    *,
    epoch: int = 1,
    differentiable: Callable[[Tensor, Sequence[Prompt]], Tensor] | None = None,
) -> Judged:
    """A round of one process as an estimator is given it, for tests of estimators. All rewards weigh 1."""
    population = Population(
        advantages.double().numpy(),
        rewards,
        [prompt.text for prompt in trajectory.prompts],
        dict.fromkeys(rewards, 1.0),
        range(len(seeds)),
    )
    return Judged(
        trajectory, advantages, rewards, seeds, epoch, population, differentiable or _not_differentiable
    )


def _not_differentiable(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    raise AssertionError("this round has no differentiable reward")


class ToyNetwork(nn.Module):
    """ε = gain · x + drift · t / 1000 + W e: linear in latents x, timestep t and prompt embedding e."""

    def __init__(self, latent_shape: tuple[int, int, int], embedding_size: int, seed: int) -> None:
        super().__init__()
        self.latent_shape = latent_shape
        size = int(np.prod(latent_shape))
        generator = torch.Generator().manual_seed(seed)
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.drift = nn.Parameter(torch.tensor(0.1))
        self.prompt_weight = nn.Parameter(0.1 * torch.randn(size, embedding_size, generator=generator))

    def forward(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """ε [b, c, h, w] for latents [b, c, h, w], timesteps [b] and prompt_embeds [b, 1, E]."""
        bias = prompt_embeds[:, 0] @ self.prompt_weight.T
        drift = self.drift * (timesteps.to(self.drift.dtype) / 1000).view(-1, 1, 1, 1)
        return self.gain * latents + drift + bias.view(-1, *self.latent_shape)


class ToyDenoiser:
    """A `Denoiser` whose answer can be computed by hand, with Stable Diffusion's noise schedule or another.

    Pictures are σ(latents), their channels repeated to three, each latent a square of `pixels` × `pixels`.
    """

    def __init__(
        self,
        latent_shape: tuple[int, int, int] = (1, 4, 4),
        *,
        embedding_size: int = 8,
        pixels: int = 1,
        seed: int = 0,
        process: Process | None = None,
    ) -> None:
        self.network: nn.Module = ToyNetwork(latent_shape, embedding_size, seed)
        self.latent_shape = latent_shape
        self.device = torch.device("cpu")
        self.process: Process = process or _stable_diffusions_process()
        self._trained = self.network  # stays the bare one when `network` is wrapped
        self._embedding_size = embedding_size
        self._pixels = pixels
        self._made_with = self.trainable_state()

    def adapt(self, **_: object) -> None:
        """Nothing to choose: all of its weights are trained."""

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """prompt_embeds [B, 1, E]: standard normal, seeded by the text's CRC-32."""
        return {"prompt_embeds": torch.stack([self._embedding(text) for text in texts]).unsqueeze(1)}

    def noise_pred(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """ε [b, c, h, w] float32: `ToyNetwork`'s closed form."""
        dtype = next(self._trained.parameters()).dtype
        embeds = conditioning["prompt_embeds"].to(dtype)
        output: Tensor = self.network(latents.to(dtype), timesteps, embeds)
        return output.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, h · pixels, w · pixels] float32 in (0, 1); differentiable."""
        colours = torch.arange(3) % self.latent_shape[0]
        images = torch.sigmoid(latents.float()[:, colours])
        return images.repeat_interleave(self._pixels, dim=2).repeat_interleave(self._pixels, dim=3)

    def encode_images(self, images: Tensor) -> Tensor:
        """The latents whose pictures these are: logit of every colour's own channel."""
        colours = images[:, : self.latent_shape[0], :: self._pixels, :: self._pixels]
        return torch.logit(colours.float(), eps=1e-6)

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """The weights it was made with, while the block runs."""
        now = self.trainable_state()
        self.load_trainable_state(self._made_with)
        try:
            yield
        finally:
            self.load_trainable_state(now)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return list(self._trained.parameters())

    def trainable_state(self) -> dict[str, Tensor]:
        """Copies of the weights."""
        return {name: value.detach().clone() for name, value in self._trained.named_parameters()}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Raises `CheckpointError` where names or shapes differ."""
        expected = {name: tuple(value.shape) for name, value in self._trained.named_parameters()}
        got = {name: tuple(value.shape) for name, value in state.items()}
        if got != expected:
            raise CheckpointError(f"the toy denoiser expects the weights {expected}, got {got}")
        self._trained.load_state_dict(state)

    def export(self, folder: Path) -> None:
        """Write `diffusion_pytorch_model.safetensors`, diffusers' name for a network's weights."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.trainable_state(), folder / "diffusion_pytorch_model.safetensors")

    def _embedding(self, text: str) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
        return torch.randn(self._embedding_size, generator=generator)


def _stable_diffusions_process() -> Diffusion:
    """√β runs linearly from √0.00085 to √0.012; the last step ends on ᾱ_0 (set_alpha_to_one = False)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = (1 - betas).cumprod(dim=0)
    return Diffusion(alphas_cumprod, final_alpha_cumprod=float(alphas_cumprod[0]), steps_offset=1)
