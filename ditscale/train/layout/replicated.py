"""Data parallelism of whole models: every rank holds all weights and adds its gradients to the others'. All weights are
views of one buffer and all gradients of another, ordered by the factors of their learning rates (model/mup.py). So
reducing and clipping are one call each, AdamW and EMA one call per factor (docs/measured/speed-detours.md)."""

from typing import Callable, Mapping, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ...distributed.ranks import Ranks

Factor = Callable[[str, nn.Parameter], float]  # A parameter's learning rate as a factor of the run's.
ALIGN = 16  # Values: each weight starts on a cache line of 64 bytes.
SUM_BLOCK = 2**18  # Squares added in a row: their sum is exact to 2e-7; of 2**22 squares, with AVX2, to 1e-5.
LARGE = 2**23  # Parameters. Below, one buffer of gradients is as fast or faster than none (LoneLayout).


class Layout(Protocol):
    """A model's weights, laid out over ranks. The optimizer's moments and the EMA are laid out as `weights` are."""

    kind: str  # replicate, full or hybrid
    scale: float  # of a rank's loss, so that reduce_gradients() gives the gradient of the sum over ranks
    weights: list[Tensor]  # what this rank holds, fp32
    lr_factors: list[float]  # each weight's learning rate as a factor of the run's

    def set_last_microbatch(self, is_last: bool):
        """Before a backward pass: whether it is the step's last. Gradients are accumulated in any case."""
        return None

    def reduce_gradients(self) -> Tensor:
        """After a step's backward passes: sum gradients over ranks. Returns their norm, a scalar on the device."""

    def zero_grad(self):
        """Before a step's backward passes, which add to what is there."""

    def weights_changed(self):
        """After the weights were changed from outside."""
        return None

    def mesh_on(self, device_type: str) -> DeviceMesh | None:
        """By all ranks: a mesh for `named`, the dimension of shards last; None where weights are whole."""
        return None

    def named(self, tensors: list[Tensor], mesh: DeviceMesh | None = None) -> Mapping[str, Tensor]:
        """Tensors laid out as `weights` are, by the parameters' names. mesh: `mesh_on` another device, if any."""

    def gather_full(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """`named` on the CPU, gathered from all ranks; rank 0 gets copies, the others nothing."""


class ReplicatedLayout(Layout):
    kind = "replicate"
    scale = 1.0

    def __init__(self, model: nn.Module, factor: Factor, ranks: Ranks):
        self.ranks = ranks
        ends: dict[float, int] = {}  # by factor, where the next weight goes
        self._places: dict[str, tuple[int, int, torch.Size]] = {}  # index of the weight, offset in it, shape
        for name, p in model.named_parameters():
            begin = ends.setdefault(factor(name, p), 0)
            self._places[name] = list(ends).index(factor(name, p)), begin, p.shape
            ends[factor(name, p)] = begin - (-p.numel() // ALIGN) * ALIGN
        self.lr_factors, sizes = list(ends), list(ends.values())
        weights, self.gradient = (torch.zeros(sum(sizes), device=ranks.device) for _ in range(2))
        self.weights, gradients = list(weights.split(sizes)), list(self.gradient.split(sizes))
        weight_views, gradient_views = self.named(self.weights), self.named(gradients)
        for name, p in model.named_parameters():
            weight_views[name].copy_(p.detach())
            p.data, p.grad = weight_views[name], gradient_views[name]
        for weight, gradient in zip(self.weights, gradients):
            weight.grad = gradient

    def reduce_gradients(self) -> Tensor:
        self.ranks.all_reduce(self.gradient)
        return norm(self.gradient)

    def zero_grad(self):
        self.gradient.zero_()

    def named(self, tensors: list[Tensor], mesh: DeviceMesh | None = None) -> dict[str, Tensor]:
        return {name: tensors[i][at : at + shape.numel()].view(shape) for name, (i, at, shape) in self._places.items()}

    def gather_full(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        if not self.ranks.first:
            return {}
        return {name: tensor.detach().cpu().clone() for name, tensor in self.named(tensors).items()}


class LoneLayout(ReplicatedLayout):
    """A large model's weights on a run's only rank. Gradients stay where the backward pass makes them, since a buffer
    takes a tenth of the peak memory, and 3 % of a step (docs/measured/speed-detours.md)."""

    def __init__(self, model: nn.Module, factor: Factor, ranks: Ranks):
        self.ranks, self._parameters = ranks, dict(model.named_parameters())
        self.weights = [p.detach() for p in self._parameters.values()]
        self.lr_factors = [factor(name, p) for name, p in self._parameters.items()]

    def reduce_gradients(self) -> Tensor:
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        if gradients[0].is_cuda:
            return nn.utils.get_total_norm(gradients)
        return torch.stack([norm(gradient.reshape(-1)) for gradient in gradients]).square().sum().sqrt()

    def zero_grad(self):
        for p, weight in zip(self._parameters.values(), self.weights):
            p.grad = weight.grad = None

    def named(self, tensors: list[Tensor], mesh: DeviceMesh | None = None) -> dict[str, Tensor]:
        return dict(zip(self._parameters, tensors))


def norm(values: Tensor) -> Tensor:
    """Euclidean norm of a vector. On a CPU torch's own is off by 1.6e-3 at 28.6M values, and takes twice as long."""
    if values.is_cuda:
        return torch.linalg.vector_norm(values)
    if len(values) <= SUM_BLOCK:
        return torch.dot(values, values).sqrt()
    return torch.stack([torch.dot(block, block) for block in values.split(SUM_BLOCK)]).sum().sqrt()
