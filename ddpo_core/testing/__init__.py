"""For tests of plugins: the contracts of rewards and samplers, and denoisers to be done by hand.

    from ddpo_core.testing import RewardContract, check_reward, check_sampler

    class TestRedness(RewardContract):      # a test for each check of an installed reward
        spec = "redness"

    def test_my_reward_keeps_the_contract():      # the same for a reward that is there, up to the first fault
        check_reward(MyReward(), info)

    def test_my_sampler_keeps_the_contract():
        check_sampler(MySampler(), info)

It needs torch, and neither weights nor a network. `ddpo_core.testing.plugin` has fixtures for pytest.
`ToyDenoiser` follows `protocols.Denoiser`, for tests of
samplers and estimators; `GaussianDenoiser` is exact where pictures are Gaussian, and `marginals` says what a
sampler makes of it.
"""

from ddpo_core.testing.denoisers import GaussianDenoiser, GaussianNetwork, ToyDenoiser, ToyNetwork
from ddpo_core.testing.examples import example_images, example_prompts, judged_of
from ddpo_core.testing.rewards import check_reward
from ddpo_core.testing.samplers import check_sampler, marginals
from ddpo_core.testing.suite import RewardContract

__all__ = [
    "GaussianDenoiser",
    "GaussianNetwork",
    "RewardContract",
    "ToyDenoiser",
    "ToyNetwork",
    "check_reward",
    "check_sampler",
    "example_images",
    "example_prompts",
    "judged_of",
    "marginals",
]
