"""A straight line through the points of many rows at once: a law in ln C and its thousands of replicates."""

import numpy as np
from numpy.typing import ArrayLike


def line(x: np.ndarray, y: np.ndarray, weights: ArrayLike = 1.0) -> np.ndarray:
    """(height at x = 0, slope) (..., 2) by weighted least squares for each row of y (..., K) on x (K,). NaN entries of
    y (a slice whose refit has no minimum) are left out of their row; fewer than 2 left give NaN."""
    use = np.isfinite(y)
    w, y = np.where(use, weights, 0.0), np.where(use, y, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = w.sum(-1, keepdims=True)
        mean_x, mean_y = ((w * v).sum(-1, keepdims=True) / total for v in (x, y))
        off = w * (x - mean_x)
        slope = (off * y).sum(-1, keepdims=True) / (off * (x - mean_x)).sum(-1, keepdims=True)
    slope = np.where(use.sum(-1, keepdims=True) >= 2, slope, np.nan)
    return np.concatenate([mean_y - slope * mean_x, slope], axis=-1)
