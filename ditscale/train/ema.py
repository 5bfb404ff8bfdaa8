"""EMA weights whose averaging window grows with the run (the power function of Karras et al., arXiv 2312.02696, eq. 5).

With weights w_k after step k, the average is a_k = beta_k a_{k-1} + (1 - beta_k) w_k, beta_k = (1 - 1/k)^(1 / window):
a weight of age s counts as (1 - s/k)^(1/window - 1), so the average reaches back over about `window` of the run so far.
At every moment of a run it is the right average for a run that ends there.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class EMA:
    """Averages of a rank's weights: averages[k] over windows[k], tensors as the weights are. The first is the run's
    result. A window of 0 keeps a plain copy."""

    def __init__(self, weights: list[Tensor], windows: Sequence[float]):
        self.live, self.windows = [w.detach() for w in weights], tuple(windows)
        self.averages = [[w.clone() for w in self.live] for _ in self.windows]
        # One update reads each weight for all windows in a row.
        self._live = [w for w in self.live for _ in self.windows]
        self._averages = [a for of_one_weight in zip(*self.averages) for a in of_one_weight]
        device = self.live[0].device
        self._shares: list[Tensor | float] = [
            torch.zeros((), device=device) if device.type == "cuda" else 0.0 for _ in self.windows
        ]

    def set_step(self, step: int):
        """Set what the weights after optimiser step number `step`, counted from 1, count: 1 - beta of each window. On a
        GPU these lie on the device, where a recorded step (step.py) reads them."""
        for k, (window, share) in enumerate(zip(self.windows, self._shares)):
            value = 1 - (1 - 1 / step) ** (1 / window) if window else 1.0
            self._shares[k] = share.fill_(value) if isinstance(share, Tensor) else value

    @torch.no_grad()
    def update(self, skip: Tensor):
        """Average after that step. skip: a scalar on the device, 1 where the step was skipped, else 0."""
        shares = [share * (1 - skip) for share in self._shares]
        torch._foreach_lerp_(self._averages, self._live, shares * len(self.live))

    @torch.no_grad()
    def swap(self):
        """Exchange the first window's averages and live weights; twice is the identity."""
        for weight, average in zip(self.live, self.averages[0]):
            copy = weight.clone()
            weight.copy_(average)
            average.copy_(copy)
