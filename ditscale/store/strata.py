"""Errors of stratified means: validation triples carry one timestep of each of n equal strata, in order."""

from __future__ import annotations

import numpy as np


def covariance(samples: np.ndarray) -> np.ndarray:
    """Covariance [runs, runs] of the means of stratified samples [runs, n] that share their strata and triples.

    Neighbouring strata are paired and the pair's difference stands for its noise (Cochran, "Sampling Techniques", 1977,
    section 5A.12, collapsed strata). The trend inside a pair makes it slightly too large, never too small.
    """
    runs, n = samples.shape
    pairs = samples[:, : n // 2 * 2].astype(float).reshape(runs, -1, 2)
    difference = pairs[:, :, 0] - pairs[:, :, 1]
    return difference @ difference.T / n**2


def standard_error(samples: np.ndarray) -> float:
    """Standard error of the mean of one run's stratified samples [n]."""
    return float(np.sqrt(covariance(samples[None])[0, 0]))


def controlled(samples: np.ndarray, control: np.ndarray, window: int = 64) -> np.ndarray:
    """Stratified samples [n] less what a control [n] of known mean 0 explains of them: the same mean, less noise.

    A regression estimator (Cochran, chapter 7) whose slopes follow the strata: each sample takes its slope from the samples of
    the other parity in its window, of which it is independent, so no bias comes in.
    """
    made = np.array(samples, dtype=float)
    if len(made) < 8:
        return made
    for block in np.array_split(np.arange(len(made)), max(1, len(made) // window)):
        for own, other in ((block[::2], block[1::2]), (block[1::2], block[::2])):
            y, z = samples[other], control[other]
            made[own] -= (y - y.mean()) @ z / (z @ z) * control[own]
    return made
