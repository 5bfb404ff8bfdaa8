"""What a step does to the weights: AdamW (Loshchilov and Hutter, arXiv 1711.05101), torch's fused kernel without
torch.optim, which is slower (docs/measured/speed-detours.md); and averages of the weights, whose window grows with the
run (the power function of Karras et al., arXiv 2312.02696, eq. 5). With w_k after step k, the average is a_k = beta_k
a_{k-1} + (1 - beta_k) w_k, beta_k = (1 - 1/k)^(1 / window): a weight of age s counts as (1 - s/k)^(1/window - 1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-8


class AdamW:
    """Updates weights in place. `exp_avg`, `exp_avg_sq`: each weight's moments. `steps`: so far, on the device."""

    def __init__(self, groups: list[dict], beta1: float, beta2: float):
        """groups: of model/mup.py, whose tensors have their `grad` set at each step."""
        self.groups, self.beta1, self.beta2 = groups, beta1, beta2
        weights = [w for group in groups for w in group["params"]]
        self.exp_avg, self.exp_avg_sq = ({w: torch.zeros_like(w) for w in weights} for _ in range(2))
        self.steps = torch.zeros((), device=weights[0].device)
        self.rate: Tensor | float = torch.zeros_like(self.steps) if self.steps.is_cuda else 0.0

    def set_rate(self, rate: float):
        """Set the rate of the next step. On a GPU it lies on the device, where a recorded step (step.py) reads it."""
        self.rate = self.rate.fill_(rate) if isinstance(self.rate, Tensor) else rate

    @torch.no_grad()
    def step(self, scale: Tensor, skip: Tensor):
        """Take a step with gradients divided by `scale`; none where `skip` is 1. Both are scalars on the device."""
        self.steps += 1
        for group in self.groups:
            weights = group["params"]
            torch._fused_adamw_(
                weights, [w.grad for w in weights], [self.exp_avg[w] for w in weights],
                [self.exp_avg_sq[w] for w in weights], [], [self.steps] * len(weights),
                lr=self.rate * group["rate_factor"], beta1=self.beta1, beta2=self.beta2,
                weight_decay=group["weight_decay"], eps=EPS, amsgrad=False, maximize=False, grad_scale=scale,
                found_inf=skip,
            )  # fmt: skip
        self.steps -= skip


class EMA:
    """Averages of a rank's weights: averages[k] over windows[k], the first the run's result. Window 0: a copy."""

    def __init__(self, weights: list[Tensor], windows: Sequence[float]):
        self.live, self.windows = [w.detach() for w in weights], tuple(windows)
        self.averages = [[w.clone() for w in self.live] for _ in self.windows]
        # One update reads each weight for all windows in a row.
        self._live = [w for w in self.live for _ in self.windows]
        self._averages = [a for of_one_weight in zip(*self.averages) for a in of_one_weight]
        on_gpu, zero = self.live[0].is_cuda, torch.zeros((), device=self.live[0].device)
        self._shares: list[Tensor | float] = [zero.clone() if on_gpu else 0.0 for _ in self.windows]

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
