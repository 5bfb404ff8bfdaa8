"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) by torch's fused kernel, called directly.

It computes what torch.optim.AdamW(fused=True) does, to the bit. That class imports torch's compiler when it is made:
1.2 s of CPU time, much for the small runs of a study; and its Python takes 3 % of a step at 48x2
(docs/measured/speed-detours.md).
"""

import torch
from torch import Tensor

EPS = 1e-8


class AdamW:
    """Updates weights in place. `exp_avg`, `exp_avg_sq`: each weight's moments. `steps`: the number of steps so far, a
    scalar on the device."""

    def __init__(self, groups: list[dict], beta1: float, beta2: float):
        """groups: tensors as `params` whose `grad` is set at each step, with `rate_factor` and `weight_decay`
        (model/mup.py)."""
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
        """Take a step with the gradients divided by `scale`; none at all where `skip` is 1. Both are scalars on the
        device."""
        self.steps += 1
        for group in self.groups:
            weights = group["params"]
            torch._fused_adamw_(
                weights,
                [w.grad for w in weights],
                [self.exp_avg[w] for w in weights],
                [self.exp_avg_sq[w] for w in weights],
                [],
                [self.steps] * len(weights),
                lr=self.rate * group["rate_factor"],
                beta1=self.beta1,
                beta2=self.beta2,
                weight_decay=group["weight_decay"],
                eps=EPS,
                amsgrad=False,
                maximize=False,
                grad_scale=scale,
                found_inf=skip,
            )
        self.steps -= skip
