"""A large model on its run's only rank: gradients stay what the backward pass has made, parameter by parameter.

Replicated's one buffer of gradients is cleared, added to and kept. For a small model that is cheap and saves calls. At
28.6M parameters on a CPU it is a tenth of the memory at most, and 3 to 5 % of a step (docs/training-measured.md). It
moves 16 bytes a parameter and step: 16 GB, or 4 ms of an H200, at a billion of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .replicate import Factor, norm

LARGE = 2**23  # parameters; below, one buffer is as fast or faster


class Alone:
    """A model's weights on the only rank: a Layout (parallel.py)."""

    kind = "replicate"
    scale = 1.0
    shape_of_ranks = ()

    def __init__(self, model: nn.Module, factor: Factor, device: torch.device):
        self._parameters = dict(model.to(device).named_parameters())
        self.weights = [p.detach() for p in self._parameters.values()]
        self.factors = [factor(name, p) for name, p in self._parameters.items()]

    def last(self, is_last: bool):
        pass

    def reduce(self) -> Tensor:
        for p, weight in zip(self._parameters.values(), self.weights):
            weight.grad = p.grad
        gradients = [weight.grad for weight in self.weights]
        if gradients[0].is_cuda:
            return nn.utils.get_total_norm(gradients)
        return torch.stack([norm(part.reshape(-1)) for part in gradients]).square().sum().sqrt()

    def zero(self):
        for p, weight in zip(self._parameters.values(), self.weights):
            p.grad = weight.grad = None

    def changed(self):
        pass

    def named(self, parts: list[Tensor], mesh=None) -> dict[str, Tensor]:
        return dict(zip(self._parameters, parts))

    def whole(self, parts: list[Tensor]) -> dict[str, Tensor]:
        return {name: part.detach().cpu().clone() for name, part in self.named(parts).items()}
