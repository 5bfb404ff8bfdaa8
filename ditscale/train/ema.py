"""EMA weights whose averaging window grows with the run (the power function of Karras et al., arXiv 2312.02696, eq. 5).

With weights w_k after step k, the average is a_k = beta_k a_{k-1} + (1 - beta_k) w_k, beta_k = (1 - 1/k)^(1 / window):
a weight of age s counts as (1 - s/k)^(1/window - 1), so the average reaches back over about `window` of the run so far.
At every moment of a run it is the right average for a run that ends there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError


class EMA:
    """Averages of a rank's weights, beside them in memory: averages[k] over windows[k], tensors as the weights are. The
    first is the run's result. A window of 0 keeps a plain copy."""

    def __init__(self, weights: list[Tensor], windows: Sequence[float]):
        self.live, self.windows = [w.detach() for w in weights], tuple(windows)
        self.averages = [[w.clone() for w in self.live] for _ in self.windows]
        self._averages = [a for of_one_weight in zip(*self.averages) for a in of_one_weight]
        self._live = [w for w in self.live for _ in self.windows]  # each is read for all windows in a row
        device = self.live[0].device
        self.shares = [torch.zeros((), device=device) if device.type == "cuda" else 0.0 for _ in self.windows]

    def pace(self, step: int):
        """What the weights after optimiser step number `step`, counted from 1, count: 1 - beta of each window. On a GPU
        these lie on the device, where a recorded step (step.py) reads them."""
        for k, window in enumerate(self.windows):
            share = 1 - (1 - 1 / step) ** (1 / window) if window else 1.0
            self.shares[k] = self.shares[k].fill_(share) if isinstance(self.shares[k], Tensor) else share

    @torch.no_grad()
    def update(self, skip: Tensor):
        """After that step. `skip`: a scalar, 1 where it was skipped, else 0; on the device: here it is not known."""
        shares = [share * (1 - skip) for share in self.shares]
        torch._foreach_lerp_(self._averages, self._live, shares * len(self.live))

    @torch.no_grad()
    def swap(self):
        """Exchange the first window's averages and live weights; twice is the identity."""
        for weight, average in zip(self.live, self.averages[0]):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)


def between(window: float, kept: Sequence[float]) -> tuple[np.ndarray, float]:
    """The average over `window` at the end of a run, made of those over the windows `kept`: post-hoc EMA (Karras et
    al., section 3.2 and appendix C).

    Returns the coefficients [len(kept)] of the kept averages and the relative error of the profile they make, 0 for a
    kept window. Over t in [0, 1] of the run the profile of a window is p_g(t) = (g + 1) t^g, g = 1/window - 1, and
    <p_a, p_b> = (a + 1)(b + 1) / (a + b + 1). The coefficients x make |p - sum_i x_i p_i| least; the error is that over
    |p|.

    Unlike there, they sum to 1: of two averages, over 0.05 and 0.1, they would else sum to 1.027 at 0.07, and scale a
    weight that no longer moves by that. And unlike there no snapshots along the run are kept, so the error is not as
    small as one likes: of these two at most 3.7 %, at 0.07; docs/recipe.md has it for others. Raises UserError at a
    window outside of those kept.
    """
    if window in kept:
        return np.array([float(w == window) for w in kept]), 0.0
    used = np.array([w > 0 for w in kept])  # a plain copy, window 0, has no profile
    low, high = (pick((w for w in kept if w > 0), default=0) for pick in (min, max))
    if not low < window < high:
        raise UserError(
            f"EMA window {window:g}: is neither one that the run kept ({', '.join(f'{w:g}' for w in kept)}) nor "
            f"between two; to have it, plan with recipe.ema_also=[{window:g}]"
        )

    g, target = 1 / np.array(kept)[used] - 1, 1 / window - 1
    product = lambda a, b: (a + 1) * (b + 1) / (a + b + 1)
    gram, onto, own, one = product(g[:, None], g), product(g, target), product(target, target), np.ones((len(g), 1))
    x = np.linalg.solve(np.block([[gram, one], [one.T, 0]]), [*onto, 1])[:-1]  # the last is the multiplier of the sum
    found = np.zeros(len(kept))
    found[used] = x
    return found, float(np.sqrt(max(own - 2 * x @ onto + x @ gram @ x, 0) / own))
