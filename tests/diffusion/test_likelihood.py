"""Exact likelihood against the density of Gaussian data, whose best velocity is known."""

import pytest
import torch

from ditscale.diffusion.likelihood import Stiff, exact_divergence, hutchinson_divergence, log_likelihood, solve

TEXT = torch.zeros(4000)  # Captions that the Gaussians do not look at.


def signs(*shape, seed=1):
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def test_divergences_of_a_known_field(gaussian):
    x, t = gaussian.sample(5), torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    truth = torch.tensor([gaussian.velocity_trace(s) for s in t.tolist()], dtype=torch.float64)
    v, trace = exact_divergence(gaussian, x, t, TEXT)
    torch.testing.assert_close(v, gaussian(x, t))
    torch.testing.assert_close(trace, truth)
    probes = signs(100, *x.shape)
    one_by_one = torch.stack([hutchinson_divergence(gaussian, x, t, TEXT, z[None])[1] for z in probes])
    _, mean = hutchinson_divergence(gaussian, x, t, TEXT, probes)
    torch.testing.assert_close(mean, one_by_one.mean(0))
    assert ((mean - truth).abs() <= 4 * one_by_one.std(0) / 10 + 1e-9).all()


@pytest.mark.parametrize("tolerance, error", [(1e-3, 1e-3), (1e-6, 1e-6)])
def test_likelihood_with_the_exact_trace(gaussian, tolerance, error):
    x = gaussian.sample(16)
    found, path = log_likelihood(gaussian, x, TEXT, None, tolerance)
    assert (found - gaussian.log_p(x)).abs().max() < error
    assert (path.evaluations > 6).all()


@pytest.mark.slow
def test_likelihood_by_hutchinson_is_unbiased(gaussian):
    """One probe scatters by 0.13 nats per dimension here; the mean is right, and P probes scatter by 1 / sqrt(P) of
    it."""
    x = gaussian.sample(4000)
    one, _ = log_likelihood(gaussian, x, TEXT, signs(1, *x.shape), 1e-4)
    many, _ = log_likelihood(gaussian, x, TEXT, signs(16, *x.shape), 1e-4)
    one, many = one - gaussian.log_p(x), many - gaussian.log_p(x)
    assert one.mean().abs() < 4 * one.std() / 4000**0.5 + 1e-5
    assert many.mean().abs() < 1e-3
    if one.std() > 1e-3:  # the signs are exact for a diagonal Jacobian
        assert many.std() == pytest.approx(one.std().item() / 4, rel=0.1)


def test_an_image_does_not_depend_on_its_batch(gaussian):
    x = gaussian.sample(8)
    together, path = log_likelihood(gaussian, x, TEXT, None, 1e-4)
    alone, own = log_likelihood(gaussian, x[3:4], TEXT, None, 1e-4)
    torch.testing.assert_close(together[3:4], alone, rtol=0, atol=1e-12)
    assert path.evaluations[3] == own.evaluations[0]


def test_the_order_of_the_solver():
    """x' = 2 t x, l' = x^2: x(1) = e, l(1) = int exp(2 t^2) dt; the error follows the tolerance over four decades."""
    t = torch.linspace(0, 1, 200001, dtype=torch.float64)
    truth = torch.trapezoid((2 * t**2).exp(), t).item()
    field = lambda x, t, rows: (2 * t[:, None] * x, x[:, 0] ** 2)
    for tolerance in (1e-4, 1e-6, 1e-8):
        path = solve(field, torch.ones(1, 1, dtype=torch.float64), tolerance)
        assert abs(path.x.item() - torch.e) < 20 * tolerance and abs(path.l.item() - truth) < 20 * tolerance


def test_a_field_that_cannot_be_followed_is_refused():
    with pytest.raises(Stiff):
        solve(lambda x, t, rows: (x * torch.nan, x[:, 0]), torch.ones(1, 1), 1e-3)
    with pytest.raises(Stiff):
        solve(lambda x, t, rows: ((t[:, None] * 1e5).sin() * 1e3, x[:, 0]), torch.ones(1, 1), 1e-6, most=500)
