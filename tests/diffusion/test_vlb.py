"""The variational bound against entropies of Gaussian data."""

import math

import pytest
import torch

from ditscale.diffusion import vlb
from ditscale.rundir.strata import controlled, standard_error

T_MIN = 1e-3  # the data's smallest scale is 0.1: here the end can be further out than on a model's untrained times


def bound(model, data, n=60_000, seed=0, scale=1.0):
    """Mean and standard error of the bound on data [n], in nats per dimension: times are stratified and |eps|^2
    controlled."""
    x0 = data.sample(n, seed)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    t, length = vlb.logit_timestep((torch.arange(n, dtype=torch.float64) + 0.5) / n, T_MIN)
    scaled = lambda x, t, text: scale * model(x, t)
    parts = vlb.diffusion(scaled, x0, None, eps, t, length) + vlb.prior(x0) + vlb.reconstruction(x0, eps, None, T_MIN)
    samples = controlled(parts.numpy(), (eps.square().flatten(1).mean(1) - 1).numpy())
    return samples.mean(), standard_error(samples)


@pytest.mark.slow
def test_the_best_model_reaches_the_entropy(gaussian):
    """The bound is tight where the model is the best one; test_the_ends_do_not_matter says so without sampling
    error."""
    found, se = bound(gaussian, gaussian, n=300_000)
    assert se < 1.2e-3 and abs(found - gaussian.entropy()) < 1e-3 + 2 * se
    assert found > gaussian.entropy() - 3 * se


def test_a_model_of_other_data_reaches_its_cross_entropy(gaussian, other_gaussian):
    """The flow of another Gaussian is still the exact reversal of a diffusion, so its bound is -log p of that
    Gaussian."""
    found, se = bound(other_gaussian, gaussian)
    truth = other_gaussian.cross_entropy(gaussian)
    assert truth > gaussian.entropy() + 1
    assert abs(found - truth) < 1e-3 + 3 * se


@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_it_is_a_bound_for_any_model(gaussian, scale):
    """No model's expected -log p is below the entropy of the data, and so no model's bound is."""
    found, se = bound(gaussian, gaussian, scale=scale)
    assert found > gaussian.entropy() + 3 * se


def test_the_ends_do_not_matter(gaussian):
    """The integral of the best velocity's error, E||v - v*||^2 = sum s^2 / ((1-t)^2 s^2 + t^2), by quadrature: the
    bound at any ends far out is the entropy to 1e-3, without sampling error."""
    s2 = gaussian.scale.square()
    for t_min, t_max in ((1e-3, 1 - 1e-3), (3e-4, 0.99), (1e-4, 1 - 1e-4)):
        t, length = vlb.logit_timestep(torch.linspace(0, 1, 20001, dtype=torch.float64), t_min, t_max)
        error = (s2 / ((1 - t[:, None]) ** 2 * s2 + t[:, None] ** 2)).mean(1)
        integral = length * torch.trapezoid((1 - t) ** 2 * error, dx=1 / 20000).item()
        x0 = gaussian.sample(20_000)
        ends = vlb.prior(x0, t_max).mean().item() + vlb.reconstruction(x0[:1], x0[:1], None, t_min).item()
        assert integral + ends == pytest.approx(gaussian.entropy(), abs=1e-3)


def test_reconstruction_of_pixels():
    """-log p of the right level under the normalised Gaussian on the levels, against a direct sum over 2001 of them."""
    width = 2 / 255
    for t_min in (1e-3, 5e-3, 5e-2):
        s = t_min / (1 - t_min)
        eps = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x0 = (torch.tensor([0, 17, 200, 255]).double() * width - 1)[:, None, None, None].expand_as(eps)
        z = x0 + s * eps
        levels = (torch.arange(-1000, 1256).double()) * width - 1
        log_p = -0.5 * ((x0 - z) / s).square() - (-0.5 * ((z[..., None] - levels) / s).square()).logsumexp(-1)
        torch.testing.assert_close(vlb.reconstruction(x0, eps, width, t_min), -log_p.flatten(1).mean(1))


def test_pixels_and_density_agree_where_levels_are_fine():
    """A density p in bins of width w has -log P = -log p - log w: at a coarse end both forms of the reconstruction
    agree."""
    eps = torch.randn(500, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    width = 2 / 255
    found = vlb.reconstruction(torch.zeros_like(eps), eps, width, 0.05).mean()
    assert found.item() == pytest.approx(vlb.reconstruction(eps, eps, None, 0.05)[0].item() - math.log(width), abs=0.02)
