"""EMA weights over a window that a run did not keep, combined from those it kept (Karras et al., arXiv 2312.02696)."""

from collections.abc import Sequence

import numpy as np

from ..errors import UserError


def combine(window: float, windows: Sequence[float]) -> tuple[np.ndarray, float]:
    """Coefficients [len(windows)] that combine the averages over the kept `windows` to the one over `window` at a run's
    end, and the relative error of the combined profile, 0 for a kept window (section 3.2 and appendix C).

    Over t in [0, 1] of the run the profile of a window is p_g(t) = (g + 1) t^g, g = 1/window - 1, and <p_a, p_b> =
    (a + 1)(b + 1) / (a + b + 1). The coefficients x minimise |p - sum_i x_i p_i|; the error is that minimum over |p|.
    Unlike the authors', they sum to 1, so that a weight that no longer changes keeps its value. Only averages at the
    end of the run are kept, so the error has a floor (docs/recipe.md). Raises UserError at a window outside of those.
    """
    if window in windows:
        return np.array([float(w == window) for w in windows]), 0.0
    used = np.array([w > 0 for w in windows])  # A plain copy, window 0, has no profile.
    low, high = (pick((w for w in windows if w > 0), default=0) for pick in (min, max))
    if not low < window < high:
        raise UserError(
            f"EMA window {window:g}: is neither one that the run kept ({', '.join(f'{w:g}' for w in windows)}) nor "
            f"between two; to have it, plan with recipe.ema_also=[{window:g}]"
        )

    g, target = 1 / np.array(windows)[used] - 1, 1 / window - 1
    product = lambda a, b: (a + 1) * (b + 1) / (a + b + 1)
    gram, onto, own, one = product(g[:, None], g), product(g, target), product(target, target), np.ones((len(g), 1))
    x = np.linalg.solve(np.block([[gram, one], [one.T, 0]]), [*onto, 1])[:-1]  # The last is the Lagrange multiplier.
    coefficients = np.zeros(len(windows))
    coefficients[used] = x
    return coefficients, float(np.sqrt(max(own - 2 * x @ onto + x @ gram @ x, 0) / own))
