"""For tests of plugins: contract checks for rewards and samplers, and denoisers to be done by hand.

    from ddpo_core.testing import check_reward, check_sampler

    def test_my_reward_keeps_the_contract():
        check_reward(MyReward(), info)

    def test_my_sampler_keeps_the_contract():
        check_sampler(MySampler(), info)

It needs torch, and neither weights nor a network. `ToyDenoiser` follows `protocols.Denoiser`, for tests of
samplers and estimators; `GaussianDenoiser` is exact where pictures are Gaussian, and `marginals` says what a
sampler makes of it.
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

from ddpo_core.denoising import GaussianStep, Policy
from ddpo_core.errors import CheckpointError, UsageError
from ddpo_core.info import RewardInfo, SamplerInfo
from ddpo_core.processes import Diffusion, Flow, Process
from ddpo_core.protocols import Reward, Sampler
from ddpo_core.rewards import as_scores
from ddpo_core.rollout import Noise, denoise
from ddpo_core.types import Conditioning, Judged, Population, Prompt, Schedule, Trajectory

__all__ = [
    "GaussianDenoiser",
    "GaussianNetwork",
    "ToyDenoiser",
    "ToyNetwork",
    "check_reward",
    "check_sampler",
    "example_images",
    "example_prompts",
    "judged_of",
    "marginals",
]

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
    None) an image's score depends on neither the other images nor their order. A reward that declares itself
    differentiable has `score(images, prompts)`, and its gradient reaches every image.

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
    if info is not None and info.differentiable:
        _check_gradient(name, reward, images, prompts)
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


# ---- samplers ----------------------------------------------------------------------------------------


def check_sampler(sampler: Sampler, info: SamplerInfo | None = None, *, num_steps: int = 8) -> None:
    """Hold a sampler to its contract on a model of each path that it declares (without `info`: takes).

    A schedule of finite numbers that goes from noise to picture; steps that can be drawn and rated by the
    same arithmetic, one by one as in a batch, exactly where the schedule says so; a gradient to the network's
    answer; no randomness of its own. A model of a path that it does not declare is refused with a
    `UsageError`. Raises `AssertionError` that says what is broken.
    """
    name = f"sampler {info.name!r}" if info else f"the sampler {type(sampler).__name__}"
    taken = 0
    for process in (_stable_diffusions_process(), Flow(shift=3.0)):
        denoiser = ToyDenoiser((2, 4, 3), process=process)  # no two sides alike
        try:
            schedules = [sampler.schedule(denoiser, steps) for steps in (1, num_steps)]
        except UsageError:
            assert info is None or process.path not in info.paths, (
                f"{name} declares to take {process.path} models, and refuses one"
            )
            continue
        assert info is None or process.path in info.paths, (
            f"{name} declares only {' and '.join(info.paths)} models; it expects to refuse a {process.path}"
            " model with a UsageError"
        )
        taken += 1
        for schedule, steps in zip(schedules, (1, num_steps), strict=True):
            _check_schedule(name, schedule, steps, process)
        policy = Policy(denoiser, sampler, schedules[1], guidance_scale=1.0)
        assert sampler.has_log_prob == bool(schedules[1].rated), (
            f"{name} says has_log_prob={sampler.has_log_prob}, and {len(schedules[1].rated)} of its"
            f" {num_steps} steps have a standard deviation above 0"
        )
        with _random_state_kept(name):
            if not policy.looks_back:
                _check_steps(name, policy)
            _check_walk(name, policy)
    assert taken, f"{name} takes neither diffusion nor flow models"


def _check_schedule(name: str, schedule: Schedule, num_steps: int, process: Process) -> None:
    """Of so many steps, with finite numbers, on timesteps of the model that fall from noise to picture."""
    timesteps = schedule.timesteps
    assert timesteps.shape == (num_steps,), (
        f"{name} expects a schedule of {num_steps} timesteps, got the shape {tuple(timesteps.shape)}"
    )
    if isinstance(process, Diffusion):
        kind, lowest, highest = torch.int64, 0, len(process.alphas_cumprod) - 1
    else:
        kind, lowest, highest = torch.float32, 0, process.num_train_timesteps
    assert timesteps.dtype == kind, (
        f"{name} expects timesteps of {kind} for a {process.path} model, got {timesteps.dtype}"
    )
    assert bool((timesteps[1:] < timesteps[:-1]).all()), (
        f"{name} expects timesteps that fall, got {timesteps}"
    )
    assert lowest <= timesteps.min() and timesteps.max() <= highest, (
        f"{name} expects timesteps from {lowest} to {highest}, got {timesteps}"
    )
    for table in ("latents_coef", "noise_coef", "std"):
        values: Tensor = getattr(schedule, table)
        assert values.dtype == torch.float32 and len(values) == num_steps, (
            f"{name} expects {table} of float32 for {num_steps} steps, got {values.dtype} of shape"
            f" {tuple(values.shape)}"
        )
        assert bool(values.isfinite().all()), f"{name} expects finite {table}, got {values}"
    assert bool((schedule.std >= 0).all()), f"{name} expects std of at least 0, got {schedule.std}"


def _check_steps(name: str, policy: Policy) -> None:
    """Each step by itself: its shape, what is rated, its gradient; and in a batch of different steps."""
    denoiser, schedule = policy.denoiser, policy.schedule
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(schedule.num_steps)
    latents, noise_pred, noise = torch.randn(3, len(steps), *denoiser.latent_shape, generator=generator)
    together = GaussianStep(*policy.sampler.step(schedule, steps, latents, noise_pred))
    for t in range(schedule.num_steps):
        row = slice(t, t + 1)
        answer = noise_pred[row].clone().requires_grad_()
        step = GaussianStep(*policy.sampler.step(schedule, steps[row], latents[row], answer))
        assert step.mean.shape == latents[row].shape, (
            f"{name} expects a mean of shape {tuple(latents[row].shape)}, got {tuple(step.mean.shape)}"
        )
        assert step.std.shape in ((1, 1, 1, 1), latents[row].shape), (
            f"{name} expects a standard deviation of shape (1, 1, 1, 1) or {tuple(latents[row].shape)},"
            f" got {tuple(step.std.shape)}"
        )
        assert step.mean.requires_grad, f"{name} expects to pass a gradient to noise_pred; step {t} has none"
        rated = t in schedule.rated
        assert bool((step.std > 0).all() if rated else (step.std == 0).all()), (
            f"{name}: step {t} is {'' if rated else 'not '}rated by its schedule, and its standard deviation"
            f" is {sorted(set(step.std.flatten().tolist()))}"
        )
        for part, batched in ((step.mean, together.mean), (step.std, together.std)):
            worst = (part - batched[row]).abs().max().item()
            assert worst <= TOLERANCE, f"{name}: step {t} alone differs by {worst:g} from step {t} in a batch"
        if rated:
            drawn = step.draw(noise[row])
            _check_rating(name, t, step.log_prob(drawn), together.log_prob(together.draw(noise))[row])


def _check_rating(name: str, t: int, log_prob: Tensor, again: Tensor) -> None:
    """A step that was drawn has a finite log-prob, and has it again: the ratio is 1."""
    assert bool(log_prob.isfinite().all()), f"{name}: step {t} rates itself with {log_prob.tolist()}"
    ratio_error = (log_prob - again).expm1().abs().max().item()
    assert ratio_error <= 1e-5, f"{name}: rated again, step {t} has a ratio of 1 ± {ratio_error:.2g}"


@torch.no_grad()
def _check_walk(name: str, policy: Policy) -> None:
    """From noise to picture, twice the same; every rated step of the walk is rated again with ratio 1."""
    denoiser = policy.denoiser
    conditioning = denoiser.encode([prompt.text for prompt in example_prompts()[:2]])
    first, second = (
        denoise(policy, conditioning, Noise([1, 2], denoiser.latent_shape, denoiser.device)) for _ in range(2)
    )
    assert torch.equal(first.latents[-1], second.latents[-1]), (
        f"{name} is not deterministic: from the same noise it makes two different pictures"
    )
    assert bool(torch.stack(first.latents).isfinite().all()), f"{name} makes latents that are not finite"
    for t in policy.schedule.rated:
        step = policy.step(torch.full((2,), t), first.latents[t], conditioning)
        _check_rating(name, t, first.log_probs[t], step.log_prob(first.latents[t + 1]))


@torch.no_grad()
def marginals(sampler: Sampler, denoiser: GaussianDenoiser, num_steps: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [T + 1, c, h, w] of the latents at every step: exact, nothing is drawn.

    The network's answer is affine in x_t, and so is every step: a Gaussian stays one. It starts as what x_t
    is at the first timestep, N(signal·mean, (signal·std)² + noise²). Slopes are read off two walks that begin
    1 apart.
    """
    policy = Policy(denoiser, sampler, sampler.schedule(denoiser, num_steps), guidance_scale=1.0)
    conditioning = {name: tensor.expand(2, -1, -1) for name, tensor in denoiser.encode([""]).items()}
    signal, noise = denoiser.process.scales(policy.schedule.timesteps[:1])
    mean, std = signal * denoiser.mean, ((signal * denoiser.std).square() + noise.square()).sqrt()
    if policy.looks_back:
        start = torch.stack([mean, mean + 1])
        walk = torch.stack(
            denoise(policy, conditioning, Noise([], (), denoiser.device), latents=start).latents
        )
        return walk[:, 0], std * (walk[:, 1] - walk[:, 0]).abs()
    means, stds = [mean], [std]
    for t in range(num_steps):
        step = policy.step(torch.full((2,), t), torch.stack([means[-1], means[-1] + 1]), conditioning)
        slope = step.mean[1] - step.mean[0]
        means.append(step.mean[0])
        stds.append(((slope * stds[-1]).square() + step.std[0].square()).sqrt())
    return torch.stack(means), torch.stack(stds)


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
        self._trained: nn.Module = self.network  # stays the bare one when `network` is wrapped
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


class GaussianNetwork(nn.Module):
    """The best answer about x_t where x0 ~ N(mean, std²) element by element: affine in x_t.

    E[x0 | x_t] = mean + signal·std²·r    E[ε | x_t] = noise·r
    r = (x_t − signal·mean) / (signal²·std² + noise²)
    """

    def __init__(self, mean: Tensor, std: Tensor, process: Process) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean)  # [c, h, w]
        self.log_std = nn.Parameter(std.log())  # [c, h, w]
        self.process = process

    def forward(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """ε, or of a flow ε − x0, [b, c, h, w] for latents [b, c, h, w] and timesteps [b]."""
        signal, noise = (scale.view(-1, 1, 1, 1) for scale in self.process.scales(timesteps))
        variance = (2 * self.log_std).exp()
        rest = (latents - signal * self.mean) / (signal.square() * variance + noise.square())
        return self.process.target(self.mean + signal * variance * rest, noise * rest)


class GaussianDenoiser(ToyDenoiser):
    """A `Denoiser` that is exact for pictures x0 ~ N(mean, std²), element by element, whatever the prompt.

    What a sampler makes of it is known exactly: `marginals`. Its weights are mean and log std.
    """

    def __init__(
        self,
        mean: Tensor | float = 0.5,
        std: Tensor | float = 0.5,
        process: Process | None = None,
        *,
        latent_shape: tuple[int, int, int] = (1, 4, 4),
        pixels: int = 1,
    ) -> None:
        super().__init__(latent_shape, pixels=pixels, process=process)
        mean, std = (torch.as_tensor(each).float().expand(latent_shape).clone() for each in (mean, std))
        self.network = self._trained = GaussianNetwork(mean, std, self.process)
        self._made_with = self.trainable_state()

    @property
    def mean(self) -> Tensor:
        """[c, h, w]"""
        return torch.as_tensor(self._trained.mean).detach()

    @property
    def std(self) -> Tensor:
        """[c, h, w]"""
        return torch.as_tensor(self._trained.log_std).detach().exp()


def _stable_diffusions_process() -> Diffusion:
    """√β runs linearly from √0.00085 to √0.012; the last step ends on ᾱ_0 (set_alpha_to_one = False)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = (1 - betas).cumprod(dim=0)
    return Diffusion(alphas_cumprod, final_alpha_cumprod=float(alphas_cumprod[0]), steps_offset=1)
