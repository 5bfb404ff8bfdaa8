"""Data parallelism of whole models: every rank holds all weights and adds its gradients to the others'.

All weights are views of one buffer and all gradients of another, ordered by the factors of their rates (model/mup.py).
So reducing and clipping are a call each, AdamW and EMA one a factor. For the small models of a miniature a call's
latency is what counts: at width 48 on a CPU core these took 0.63 ms of a step parameter by parameter, and 0.18 ms in
one buffer.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor, nn

from ...distributed.ranks import Ranks

Factor = Callable[[str, nn.Parameter], float]  # of the run's rate, for a parameter
ALIGN = 16  # values: each weight starts on a cache line
IN_A_ROW = 2**18  # squares whose sum has an error of 2e-7 where BLAS adds few at once (AVX2); of 2**22 it is 1e-5


class ReplicatedLayout:
    """A model's weights on every rank: a Layout (choose.py)."""

    kind = "replicate"
    scale = 1.0
    shape_of_ranks = ()

    def __init__(self, model: nn.Module, factor: Factor, ranks: Ranks):
        self.ranks = ranks
        ends: dict[float, int] = {}
        self._places = {}  # of a parameter: which of the weights, where in it, and its shape
        for name, p in model.named_parameters():
            begin = ends.setdefault(factor(name, p), 0)
            self._places[name] = list(ends).index(factor(name, p)), begin, p.shape
            ends[factor(name, p)] = begin - (-p.numel() // ALIGN) * ALIGN
        self.factors, sizes = list(ends), list(ends.values())
        weights, self.gradient = (torch.zeros(sum(sizes), device=ranks.device) for _ in range(2))
        self.weights, gradients = list(weights.split(sizes)), list(self.gradient.split(sizes))
        views = self.named(self.weights), self.named(gradients)
        for name, p in model.named_parameters():
            views[0][name].copy_(p.detach())
            p.data, p.grad = views[0][name], views[1][name]
        for weight, gradient in zip(self.weights, gradients):
            weight.grad = gradient

    def set_last_microbatch(self, is_last: bool):
        pass

    def reduce_gradients(self) -> Tensor:
        self.ranks.all_reduce(self.gradient)
        return norm(self.gradient)

    def zero_grad(self):
        self.gradient.zero_()

    def weights_changed(self):
        pass

    def named(self, parts: list[Tensor], mesh=None) -> dict[str, Tensor]:
        return {name: parts[i][at : at + shape.numel()].view(shape) for name, (i, at, shape) in self._places.items()}

    def gather_full(self, parts: list[Tensor]) -> dict[str, Tensor]:
        return (
            {name: part.detach().cpu().clone() for name, part in self.named(parts).items()} if self.ranks.first else {}
        )


def norm(values: Tensor) -> Tensor:
    """Euclidean, of a vector. On a CPU torch's own adds up so many squares in a row that at 28.6M values it is off by
    1.6e-3, and takes twice as long."""
    if values.is_cuda:
        return torch.linalg.vector_norm(values)
    if len(values) <= IN_A_ROW:
        return torch.dot(values, values).sqrt()
    return torch.stack([torch.dot(part, part) for part in values.split(IN_A_ROW)]).sum().sqrt()


# ---- the only rank of a run
#
# Gradients stay what the backward pass has made, parameter by parameter. Replicated's one buffer of gradients is
# cleared, added to and kept: for a small model that is cheap and saves calls; at 28.6M parameters on a CPU it is a
# tenth of the memory at most, and 3 to 5 % of a step (docs/training-measured.md). It moves 16 bytes a parameter and
# step.

LARGE = 2**23  # parameters; below, one buffer is as fast or faster


class LoneLayout:
    """A model's weights on the only rank: a Layout (choose.py)."""

    kind = "replicate"
    scale = 1.0
    shape_of_ranks = ()

    def __init__(self, model: nn.Module, factor: Factor, device: torch.device):
        self._parameters = dict(model.to(device).named_parameters())
        self.weights = [p.detach() for p in self._parameters.values()]
        self.factors = [factor(name, p) for name, p in self._parameters.items()]

    def set_last_microbatch(self, is_last: bool):
        pass

    def reduce_gradients(self) -> Tensor:
        for p, weight in zip(self._parameters.values(), self.weights):
            weight.grad = p.grad
        gradients = [weight.grad for weight in self.weights]
        if gradients[0].is_cuda:
            return nn.utils.get_total_norm(gradients)
        return torch.stack([norm(part.reshape(-1)) for part in gradients]).square().sum().sqrt()

    def zero_grad(self):
        for p, weight in zip(self._parameters.values(), self.weights):
            p.grad = weight.grad = None

    def weights_changed(self):
        pass

    def named(self, parts: list[Tensor], mesh=None) -> dict[str, Tensor]:
        return dict(zip(self._parameters, parts))

    def gather_full(self, parts: list[Tensor]) -> dict[str, Tensor]:
        return {name: part.detach().cpu().clone() for name, part in self.named(parts).items()}
