"""EMA weights whose averaging window grows with the run (the power function of Karras et al., arXiv 2312.02696, eq. 5).

With weights w_k after step k, the average is a_k = beta_k a_{k-1} + (1 - beta_k) w_k, beta_k = (1 - 1/k)^(1 / window): a
weight of age s counts as (1 - s/k)^(1/window - 1), so the average reaches back over about `window` of the run so far. At
every moment of a run it is the right average for a run that ends there.
"""

from __future__ import annotations

import torch
from torch import Tensor


class EMA:
    """Averages of a rank's weights, beside them in memory. window 0 keeps a plain copy."""

    def __init__(self, weights: list[Tensor], window: float):
        self.live, self.window = [w.detach() for w in weights], window
        self.averages = [w.clone() for w in self.live]

    @torch.no_grad()
    def update(self, step: int, skip: Tensor | None = None):
        """After optimiser step number `step`, counted from 1. `skip`: a scalar, 1 where the step was skipped, else 0."""
        beta = (1 - 1 / step) ** (1 / self.window) if self.window else 0.0
        if skip is None:
            torch._foreach_lerp_(self.averages, self.live, 1 - beta)
        else:  # on the device: whether it was skipped is not known here
            torch._foreach_lerp_(self.averages, self.live, [(1 - beta) * (1 - skip)] * len(self.live))

    @torch.no_grad()
    def swap(self):
        """Exchange averages and live weights; twice is the identity."""
        for weight, average in zip(self.live, self.averages):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)
