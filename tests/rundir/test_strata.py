"""Standard errors of stratified means, by doing the experiment again and again."""

import numpy as np
import pytest
import torch

from ditscale.diffusion.rectified_flow import timestep
from ditscale.rundir.strata import controlled, losses_of_levels, noise_levels, standard_error


def samples(rng, n=512):
    """Stratified samples with a trend, and noise that grows and is partly a control's doing. The true mean is 1/3 +
    1."""
    u = (np.arange(n) + 0.5) / n
    control = rng.normal(size=n)
    return u**2 + 1 + (1 - u) * control + 0.1 * (1 + u) * rng.normal(size=n), control


def test_the_standard_error_is_the_scatter_of_repetitions():
    rng = np.random.default_rng(0)
    made = [samples(rng)[0] for _ in range(2000)]
    scatter = np.std([y.mean() for y in made])
    assert np.mean([standard_error(y) for y in made]) == pytest.approx(scatter, rel=0.06)


def test_a_control_takes_noise_and_leaves_the_mean():
    rng = np.random.default_rng(1)
    made = [controlled(*samples(rng)) for _ in range(2000)]
    means = np.array([y.mean() for y in made])
    truth = 1 / 3 + 1
    assert abs(means.mean() - truth) < 4 * means.std() / 2000**0.5
    assert np.mean([standard_error(y) for y in made]) == pytest.approx(means.std(), rel=0.08)
    without = np.std([samples(rng)[0].mean() for _ in range(2000)])
    assert means.std() < 0.35 * without  # the control is all but 0.15 of the noise of 0.6


@pytest.mark.parametrize("timesteps", ["logit-normal", "uniform"])
@pytest.mark.parametrize("n, levels", [(2048, 10), (10_000, 10), (64, 6), (15, 1)])
def test_noise_levels_lie_between_the_timesteps_of_their_triples(n, levels, timesteps):
    borders = noise_levels(n, timesteps)
    assert len(borders) == levels + 1 and borders[0] == 0 and borders[-1] == 1
    t = timestep((torch.arange(n, dtype=torch.float64) + 0.5) / n, timesteps).numpy()
    level = np.searchsorted(borders, t) - 1
    assert np.ptp(np.bincount(level)) <= 1
    samples = np.stack([t**2, 1 - t]).astype("f4")
    expected = [[row[level == k].mean() for k in range(levels)] for row in samples.astype(float)]
    np.testing.assert_allclose(losses_of_levels(samples, levels), expected, rtol=1e-12)
