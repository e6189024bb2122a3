"""Flow-GRPO's kernel: a flow's ODE turned into an SDE of the same marginals (arXiv 2505.05470, Eq. 9–10).

    x_{t+1} = x_t + [v + s²/(2σ)·(x_t + (1 − σ)·v)]·Δ + s·√(−Δ)·z,    Δ = σ' − σ < 0
    s = a·√(σ / (1 − σ))

σ belongs to this timestep and σ' to the next entry of the schedule; a is the noise level. On the first step,
where σ = 1, s has a pole: as in the reference implementation, 1 − σ is taken of the second entry there. Its
steps shrink to the ODE's as a → 0.

The last step, to σ' = 0, draws noise as well, s·√σ, which stays in the picture: more of it the fewer steps.
`cps` leaves none.
"""

from __future__ import annotations

from ddpo_core.protocols import Denoiser
from ddpo_core.samplers.affine import Affine, tabulated
from ddpo_core.samplers.paths import flow_steps
from ddpo_core.types import Schedule


class FlowSDE(Affine):
    """Euler–Maruyama steps. `noise_level` 0 is `flow-ode`: then no step has a log-prob."""

    def __init__(self, *, noise_level: float = 0.7, spacing: str | None = None) -> None:
        self.noise_level = noise_level
        self.spacing = spacing
        self.has_log_prob = noise_level > 0

    def schedule(self, denoiser: Denoiser, num_steps: int) -> Schedule:
        """T steps from σ = 1 to 0; all are rated."""
        steps = flow_steps("flow-sde", denoiser, num_steps, self.spacing)
        sigma, move = steps.sigma, steps.sigma_next - steps.sigma
        diffusion = self.noise_level**2 * sigma / (1 - sigma.where(sigma < 1, steps.sigma_next))  # s²
        drift = diffusion / (2 * sigma)
        latents_coef = 1 + drift * move
        noise_coef = (1 + drift * (1 - sigma)) * move
        return tabulated(
            steps.timesteps, latents_coef, noise_coef, (-diffusion * move).sqrt(), denoiser.device
        )
