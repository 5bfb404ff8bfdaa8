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
