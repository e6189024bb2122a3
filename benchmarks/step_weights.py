"""How much each denoising step weighs in a policy gradient: |dμ/dε| / σ, by step.

    python benchmarks/step_weights.py --model pocket --num-steps 12

The gradient of a step's log-prob is (x − μ) / σ² · dμ/dθ: standard normal noise × |dμ/dε| / σ × dε/dθ.
"""

from __future__ import annotations

import argparse

from ddpo_core.discovery import registry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--num-steps", type=int, default=12)
    arguments = parser.parse_args()
    found = registry()
    denoiser = found.build("model", arguments.model)
    schedule = found.build("sampler", arguments.sampler).schedule(denoiser, arguments.num_steps)
    weights = (schedule.noise_coef.abs() / schedule.std)[schedule.rated]
    shares = weights.square() / weights.square().sum()
    print("timestep  |dμ/dε|/σ  share of the squares")
    for t, weight, share in zip(schedule.rated, weights.tolist(), shares.tolist(), strict=True):
        print(f"{schedule.timesteps[t].item():8}  {weight:9.2f}  {share:6.1%}")


if __name__ == "__main__":
    main()
