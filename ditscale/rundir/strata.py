"""Errors of stratified means: validation triples carry one timestep of each of n equal strata, in order."""

import numpy as np
from scipy.special import expit, ndtri

MOST_LEVELS, FEWEST_STRATA = 10, 10  # noise levels, and strata in each


def covariance(samples: np.ndarray) -> np.ndarray:
    """Covariance [runs, runs] of the means of stratified samples [runs, n] that share their strata and triples.

    Neighbouring strata are paired and the pair's difference stands for its noise (Cochran, "Sampling Techniques", 1977,
    section 5A.12, collapsed strata). The trend inside a pair makes it slightly too large, never too small."""
    runs, n = samples.shape
    pairs = samples[:, : n // 2 * 2].astype(float).reshape(runs, n // 2, 2)
    difference = pairs[:, :, 0] - pairs[:, :, 1]
    return difference @ difference.T / n**2


def standard_error(samples: np.ndarray) -> float:
    """Standard error of the mean of one run's stratified samples [n]."""
    return float(np.sqrt(covariance(samples[None])[0, 0]))


def noise_levels(n: int, timesteps: str) -> np.ndarray:
    """Borders [L + 1] in t of noise levels that have equally many of the n strata: ten levels, or fewer so that each
    has ten strata. `timesteps` names the distribution of diffusion/rectified_flow.py."""
    u = np.linspace(0, n, max(1, min(MOST_LEVELS, n // FEWEST_STRATA)) + 1).round() / n
    return expit(ndtri(u)) if timesteps == "logit-normal" else u


def losses_of_levels(samples: np.ndarray, levels: int) -> np.ndarray:
    """Mean losses [runs, levels] of stratified samples [runs, n] between the borders of `noise_levels`."""
    n = samples.shape[1]
    starts = np.linspace(0, n, levels + 1).round().astype(int)
    return np.add.reduceat(samples, starts[:-1], axis=1, dtype=float) / np.diff(starts)


def controlled(samples: np.ndarray, control: np.ndarray, window: int = 64) -> np.ndarray:
    """Stratified samples [n] minus what a control variate [n] of known mean 0 explains: the same mean, less noise.

    A regression estimator (Cochran, chapter 7) whose slopes follow the strata: each sample takes its slope from the
    samples of the other parity in its window, which are independent of it, so there is no bias."""
    reduced = np.array(samples, dtype=float)
    if len(reduced) < 8:
        return reduced
    for block in np.array_split(np.arange(len(reduced)), max(1, len(reduced) // window)):
        for own, other in ((block[::2], block[1::2]), (block[1::2], block[::2])):
            y, z = samples[other], control[other]
            reduced[own] -= (y - y.mean()) @ z / (z @ z) * control[own]
    return reduced
