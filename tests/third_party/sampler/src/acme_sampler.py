"""A sampler in one file and one hook: guess the picture, and put fresh noise on it.

x_{t+1} = √ᾱ' · x̂0 + √(1 − ᾱ') · (√(1 − kept²) · z + kept · ε),    x̂0 = (x_t − √(1 − ᾱ)·ε) / √ᾱ
"""

from ddpo_core import Option, SamplerInfo, UsageError, hookimpl
from ddpo_core.types import Schedule

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_samplers():
    yield SamplerInfo(
        name="guess-again",
        summary="guess the picture, and put fresh noise on it",
        factory="acme_sampler:GuessAgain",
        options=(
            Option(name="kept", type="float", default=0.5, minimum=0, maximum=0.9, help="of the noise"),
        ),
        requires=("torch",),
    )


class GuessAgain:
    has_log_prob = True

    def __init__(self, *, kept=0.5):
        self.kept = kept

    def schedule(self, denoiser, num_steps):
        import torch  # not when ddpo lists its plugins

        process = denoiser.process
        if process.path != "diffusion":
            raise UsageError(f"guess-again: expected a diffusion model, got a {process.path} model")
        alphas = process.alphas_cumprod
        timesteps = torch.linspace(len(alphas) - 1, 1, num_steps).long()
        alpha = alphas[timesteps]
        alpha_next = torch.cat([alpha[1:], alpha.new_tensor([process.final_alpha_cumprod])])
        latents_coef = (alpha_next / alpha).sqrt()
        noise_coef = self.kept * (1 - alpha_next).sqrt() - latents_coef * (1 - alpha).sqrt()
        std = ((1 - self.kept**2) * (1 - alpha_next)).sqrt()
        return Schedule(
            timesteps.to(denoiser.device),
            *(table.float().to(denoiser.device) for table in (latents_coef, noise_coef, std)),
        )

    def step(self, schedule, steps, latents, noise_pred):
        latents_coef, noise_coef, std = (
            table[steps].view(-1, 1, 1, 1)
            for table in (schedule.latents_coef, schedule.noise_coef, schedule.std)
        )
        return latents_coef * latents + noise_coef * noise_pred, std
