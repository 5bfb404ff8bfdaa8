"""Errors of stratified means: validation triples carry one timestep of each of n equal strata, in order."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, ndtri

MOST_LEVELS, FEWEST_STRATA = 10, 10  # levels of noise, and strata in one


def covariance(samples: np.ndarray) -> np.ndarray:
    """Covariance [runs, runs] of the means of stratified samples [runs, n] that share their strata and triples.

    Neighbouring strata are paired and the pair's difference stands for its noise (Cochran, "Sampling Techniques", 1977,
    section 5A.12, collapsed strata). The trend inside a pair makes it slightly too large, never too small.
    """
    runs, n = samples.shape
    pairs = samples[:, : n // 2 * 2].astype(float).reshape(runs, n // 2, 2)
    difference = pairs[:, :, 0] - pairs[:, :, 1]
    return difference @ difference.T / n**2


def standard_error(samples: np.ndarray) -> float:
    """Standard error of the mean of one run's stratified samples [n]."""
    return float(np.sqrt(covariance(samples[None])[0, 0]))


def noise_levels(n: int, timesteps: str) -> np.ndarray:
    """Borders [L + 1] in t of equally many of n strata, ten levels or, so that each has ten, fewer; from the timesteps'
    distribution as diffusion/rectified_flow.py has it."""
    u = np.linspace(0, n, max(1, min(MOST_LEVELS, n // FEWEST_STRATA)) + 1).round() / n
    return expit(ndtri(u)) if timesteps == "logit-normal" else u


def losses_of_levels(samples: np.ndarray, levels: int) -> np.ndarray:
    """Mean losses [runs, levels] of stratified samples [runs, n] between the borders of `noise_levels`."""
    n = samples.shape[1]
    starts = np.linspace(0, n, levels + 1).round().astype(int)
    return np.add.reduceat(samples, starts[:-1], axis=1, dtype=float) / np.diff(starts)


def controlled(samples: np.ndarray, control: np.ndarray, window: int = 64) -> np.ndarray:
    """Stratified samples [n] less what a control [n] of known mean 0 explains of them: the same mean, less noise.

    A regression estimator (Cochran, chapter 7) whose slopes follow the strata: each sample takes its slope from the
    samples of the other parity in its window, of which it is independent, so no bias comes in.
    """
    made = np.array(samples, dtype=float)
    if len(made) < 8:
        return made
    for block in np.array_split(np.arange(len(made)), max(1, len(made) // window)):
        for own, other in ((block[::2], block[1::2]), (block[1::2], block[::2])):
            y, z = samples[other], control[other]
            made[own] -= (y - y.mean()) @ z / (z @ z) * control[own]
    return made
