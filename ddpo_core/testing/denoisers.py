"""Models small enough to be done by hand."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ddpo_core.errors import CheckpointError
from ddpo_core.processes import Diffusion, Process
from ddpo_core.types import Conditioning


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
        self.process: Process = process or stable_diffusions_process()
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


def stable_diffusions_process() -> Diffusion:
    """√β runs linearly from √0.00085 to √0.012; the last step ends on ᾱ_0 (set_alpha_to_one = False)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = (1 - betas).cumprod(dim=0)
    return Diffusion(alphas_cumprod, final_alpha_cumprod=float(alphas_cumprod[0]), steps_offset=1)
