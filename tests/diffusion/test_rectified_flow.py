"""Rectified flow against closed forms on Gaussian data."""

import math

import pytest
import torch

from ditscale.diffusion import rectified_flow as rf
from ditscale.diffusion.rectified_flow import sample

SCALE, MEAN = 0.5, 0.3  # data: x0 = MEAN + SCALE * normal


def best_velocity(x, t, text=None):
    """E[eps - x0 | x_t] for the Gaussian data."""
    t = rf.expand(t, x).to(x.dtype)
    variance = (1 - t) ** 2 * SCALE**2 + t**2
    residual = (x - (1 - t) * MEAN) / variance
    return t * residual - (MEAN + (1 - t) * SCALE**2 * residual)


def test_path_ends():
    x0, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(rf.interpolate(x0, eps, torch.zeros(2)), x0)
    torch.testing.assert_close(rf.interpolate(x0, eps, torch.ones(2)), eps)


def test_loss_of_the_best_model():
    """E|v - v*|^2 = s^2 / ((1-t)^2 s^2 + t^2): the posterior variance of eps - x0."""
    n = 4000
    index = torch.arange(n)
    x0 = MEAN + SCALE * torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    eps, _ = rf.draw_noise(0, "uniform", index, x0.shape)
    for t in (0.1, 0.5, 0.9):
        found = rf.losses(best_velocity, x0, None, eps, torch.full((n,), t)).mean().item()
        assert found == pytest.approx(SCALE**2 / ((1 - t) ** 2 * SCALE**2 + t**2), rel=0.02)


@pytest.mark.parametrize("length", [1, 7, 16, 48])
def test_timesteps_are_independent_of_the_batch(length):
    """To the bit: a run that was stopped draws them in batches of other lengths than one that was not."""
    u = (torch.arange(4096) + 0.5) / 4096
    apart = torch.cat([rf.timestep(part.clone(), "logit-normal") for part in u.split(length)])
    assert torch.equal(rf.timestep(u, "logit-normal"), apart)


def test_timesteps():
    u = (torch.arange(100001) + 0.5) / 100001
    t = rf.timestep(u, "logit-normal")
    z = torch.logit(t.double())
    assert abs(z.mean()) < 1e-4 and abs(z.std() - 1) < 1e-3
    assert torch.equal(rf.timestep(u, "uniform"), u)


def test_noise_is_a_function_of_position():
    eps, t = rf.draw_noise(3, "logit-normal", torch.arange(100), torch.Size([100, 3, 4, 4]))
    part, part_t = rf.draw_noise(3, "logit-normal", torch.tensor([7, 42]), torch.Size([2, 3, 4, 4]))
    assert torch.equal(eps[[7, 42]], part) and torch.equal(t[[7, 42]], part_t)
    assert not torch.equal(rf.draw_noise(4, "logit-normal", torch.arange(100), eps.shape)[0], eps)
    assert eps.flatten().std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("steps, tolerance", [(16, 2e-2), (64, 1.5e-3)])
def test_sampler_reaches_the_data(steps, tolerance):
    """The exact flow of a Gaussian carries eps to MEAN + SCALE * eps; Heun's error falls with the square of the
    step."""
    eps = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = lambda x, t, text: best_velocity(x, t)
    found = sample(model, eps.float(), None, steps)
    assert (found - (MEAN + SCALE * eps)).abs().max() < tolerance * math.e
