"""The layout of a model's weights over the ranks of a run: whole on each (replicated.py), or in shards (fsdp.py).

replicate   fastest for small models: one reduction a step
full        a shard on each rank
hybrid      a shard on each rank of a node, the same on every node: only gradients cross the network between nodes
"""

import os
from typing import Mapping, Protocol

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ...distributed.ranks import Ranks
from ...errors import UserError
from ...model.dit import DiT
from .replicated import LARGE, Factor, LoneLayout, ReplicatedLayout

STATE_BYTES = 16  # Of a parameter: weight, gradient and AdamW's two moments, fp32.
EMA_BYTES = 4  # Of a parameter, for each window.
SMALL = 0.25  # Share of free memory: a state below it leaves enough for activations.
# Parameters whose gradients GPUs add in a small part of a step. FSDP adds more while it computes the next block's.
QUICK = 5e7


class Layout(Protocol):
    """A model's weights, laid out over ranks. The optimizer's moments and the EMA are laid out as `weights` are."""

    kind: str  # replicate, full or hybrid
    scale: float  # of a rank's loss, so that reduce_gradients() gives the gradient of the sum over ranks
    weights: list[Tensor]  # what this rank holds, fp32
    lr_factors: list[float]  # each weight's learning rate as a factor of the run's

    def set_last_microbatch(self, is_last: bool):
        """Before a backward pass: whether it is the step's last. Gradients are accumulated in any case."""

    def reduce_gradients(self) -> Tensor:
        """After a step's backward passes: gradients become the sum over ranks. Returns their norm, a scalar on the
        device."""

    def zero_grad(self):
        """Before a step's backward passes, which add to what is there."""

    def weights_changed(self):
        """After the weights were changed from outside."""

    def mesh_on(self, device_type: str) -> DeviceMesh | None:
        """The ranks as a mesh for `named`, the dimension over which weights are sharded last; None where weights are
        whole. All ranks must call it."""

    def named(self, tensors: list[Tensor], mesh: DeviceMesh | None = None) -> Mapping[str, Tensor]:
        """Tensors laid out as `weights` are, by the parameters' names. mesh: `mesh_on` their device, if that is
        not the model's."""

    def gather_full(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """`named` on the CPU, gathered from all ranks; rank 0 gets copies, the others nothing."""


def lay_out(model: DiT, sharding: str, precision: str, factor: Factor, ranks: Ranks, averages: int = 1) -> Layout:
    """Lay the weights of `model` (on the CPU, equal on all ranks) over the ranks; it is on its device afterwards.
    averages: the number of EMAs.

    Raises UserError when it cannot be done as `sharding` says.
    """
    n_params = sum(p.numel() for p in model.parameters())
    kind = choose(sharding, n_params, ranks, averages)
    if kind == "replicate":
        layout = LoneLayout if ranks.world == 1 and n_params >= LARGE else ReplicatedLayout
        return layout(model.to(ranks.device), factor, ranks)
    from .fsdp import FSDPLayout  # Here, because FSDP takes a second to import.

    return FSDPLayout(model, kind, precision, factor, ranks)


def choose(sharding: str, n_params: int, ranks: Ranks, averages: int = 1) -> str:
    """Choose replicate, full or hybrid. One rank has nothing to shard; "auto" shards what is not small, or not quick to
    reduce between GPUs, inside nodes if it fits there."""
    if ranks.world == 1:
        return "replicate"
    nodes = ranks.world // ranks.per_node
    if sharding == "hybrid" and (nodes * ranks.per_node != ranks.world or nodes == 1 or ranks.per_node == 1):
        raise UserError(
            f"execution.sharding: hybrid needs several nodes of several ranks, not {ranks.world} ranks, "
            f"{ranks.per_node} to a node; choose full or replicate"
        )
    if sharding != "auto":
        return sharding
    size, free = (STATE_BYTES + EMA_BYTES * averages) * n_params, ranks.broadcast(_free_bytes(ranks))
    if size < SMALL * free and (ranks.device.type == "cpu" or n_params < QUICK):
        return "replicate"
    inside = nodes > 1 and ranks.per_node > 1 and nodes * ranks.per_node == ranks.world
    return "hybrid" if inside and size < 2 * SMALL * free * ranks.per_node else "full"


def _free_bytes(ranks: Ranks) -> int:
    """Free memory of a rank: its GPU's, or its part of the node's."""
    if ranks.device.type == "cuda":
        return torch.cuda.mem_get_info(ranks.device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // ranks.per_node
