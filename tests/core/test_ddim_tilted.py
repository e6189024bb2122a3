"""Noise that differs from row to row: each row is DDIM with an η of its own."""

import math

import pytest
import torch

from ddpo_core.denoising import GaussianStep
from ddpo_core.errors import UsageError
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.samplers.ddim_tilted import TiltedDDIM
from ddpo_core.testing import GaussianDenoiser, ToyDenoiser, marginals

SHAPE = (2, 5, 3)


def step(sampler, t=3, batch=2):
    generator = torch.Generator().manual_seed(0)
    latents, noise_pred, noise = torch.randn(3, batch, *SHAPE, generator=generator)
    schedule = sampler.schedule(ToyDenoiser(SHAPE), 8)
    kernel = GaussianStep(*sampler.step(schedule, torch.full((batch,), t), latents, noise_pred))
    return kernel, kernel.draw(noise)


def test_each_row_is_ddim_with_its_own_eta():
    # five rows, tilt 0.6: η²/0.25 is 0.4, 0.7, 1, 1.3, 1.6 from top to bottom
    tilted, drawn = step(TiltedDDIM(eta=0.5, tilt=0.6))
    assert tilted.std.shape == (2, *SHAPE)
    for row, share in enumerate((0.4, 0.7, 1.0, 1.3, 1.6)):
        plain, plainly_drawn = step(DDIM(eta=0.5 * math.sqrt(share)))
        torch.testing.assert_close(tilted.mean[:, :, row], plain.mean[:, :, row])
        torch.testing.assert_close(tilted.std[:, :, row], plain.std[:, :, 0].expand(2, 2, 3))
        torch.testing.assert_close(drawn[:, :, row], plainly_drawn[:, :, row])


def test_the_mean_variance_over_the_picture_is_ddims():
    tilted, _ = step(TiltedDDIM(eta=0.5, tilt=0.6))
    plain, _ = step(DDIM(eta=0.5))
    torch.testing.assert_close(tilted.std.square().mean(), plain.std.square().mean())


def test_the_log_prob_is_that_of_torch_normal():
    tilted, drawn = step(TiltedDDIM())
    expected = torch.distributions.Normal(tilted.mean, tilted.std).log_prob(drawn).flatten(1).mean(1)
    torch.testing.assert_close(tilted.log_prob(drawn), expected)


def test_without_tilt_it_is_ddim():
    tilted, _ = step(TiltedDDIM(eta=1.0, tilt=0.0))
    plain, _ = step(DDIM(eta=1.0))
    torch.testing.assert_close(tilted.mean, plain.mean)
    torch.testing.assert_close(tilted.std, plain.std.expand_as(tilted.std))


def test_each_rows_marginals_are_those_of_its_own_ddim():
    denoiser = GaussianDenoiser(0.4, 0.6, latent_shape=SHAPE)
    _, tilted = marginals(TiltedDDIM(eta=0.5, tilt=0.6), denoiser, 8)
    for row, share in ((0, 0.4), (4, 1.6)):
        _, plain = marginals(DDIM(eta=0.5 * math.sqrt(share)), denoiser, 8)
        torch.testing.assert_close(tilted[:, :, row], plain[:, :, row], atol=1e-5, rtol=1e-5)


def test_a_picture_of_one_row_has_nothing_to_tilt():
    denoiser = ToyDenoiser((1, 1, 4))
    ours, plain = (s.schedule(denoiser, 6) for s in (TiltedDDIM(eta=0.5), DDIM(eta=0.5)))
    torch.testing.assert_close(ours.std[:, 0, 0, 0], plain.std)


@pytest.mark.parametrize(("options", "complaint"), [({"tilt": 1.0}, "got 1"), ({"eta": 0.9}, "η of 1.1")])
def test_an_eta_beyond_one_in_some_row_is_refused(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        TiltedDDIM(**options)


def test_the_hint_of_a_refused_eta_is_accepted():
    with pytest.raises(UsageError) as caught:
        TiltedDDIM(eta=1.0, tilt=0.5)
    eta = float(caught.value.hint.split("eta=")[1].split()[0])
    assert eta == 0.81 and TiltedDDIM(eta=eta, tilt=0.5).has_log_prob
