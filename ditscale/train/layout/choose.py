"""The layout of a model's weights over the ranks of a run: whole on each (replicated.py: replicate, fastest for small
models), or in shards (fsdp.py): full, on all ranks; hybrid, on each node's, so that only gradients leave a node."""

import os

import torch

from ...distributed.ranks import Ranks
from ...errors import UserError
from ...model.dit import DiT
from .replicated import LARGE, Factor, Layout, LoneLayout, ReplicatedLayout

STATE_BYTES = 16  # Of a parameter: weight, gradient and AdamW's two moments, fp32.
EMA_BYTES = 4  # Of a parameter, for each window.
SMALL = 0.25  # Share of free memory: a state below it leaves enough for activations.
QUICK = 5e7  # Parameters whose gradients GPUs add in a small part of a step; FSDP adds them while it computes.


def lay_out(model: DiT, sharding: str, precision: str, factor: Factor, ranks: Ranks, averages: int = 1) -> Layout:
    """Lay the weights of `model` (on the CPU, equal on all ranks) over the ranks; it is on its device afterwards.
    averages: the number of EMAs. Raises UserError when it cannot be done as `sharding` says."""
    n_params = sum(p.numel() for p in model.parameters())
    kind = choose(sharding, n_params, ranks, averages)
    if kind == "replicate":
        layout = LoneLayout if ranks.world == 1 and n_params >= LARGE else ReplicatedLayout
        return layout(model.to(ranks.device), factor, ranks)
    from .fsdp import FSDPLayout  # Here, because FSDP takes a second to import.

    return FSDPLayout(model, kind, precision, factor, ranks)


def choose(sharding: str, n_params: int, ranks: Ranks, averages: int = 1) -> str:
    """replicate, full or hybrid. "auto" shards what is not small, or not quick to reduce, inside nodes if it fits."""
    if ranks.world == 1:
        return "replicate"
    nodes = ranks.world // ranks.per_node
    if sharding == "hybrid" and (nodes * ranks.per_node != ranks.world or nodes == 1 or ranks.per_node == 1):
        has = f"not {ranks.world} ranks, {ranks.per_node} to a node; choose full or replicate"
        raise UserError(f"execution.sharding: hybrid needs several nodes of several ranks, {has}")
    if sharding != "auto":
        return sharding
    size, free = (STATE_BYTES + EMA_BYTES * averages) * n_params, ranks.broadcast(_free_bytes(ranks))
    if size < SMALL * free and (ranks.device.type == "cpu" or n_params < QUICK):
        return "replicate"
    inside = nodes > 1 and ranks.per_node > 1 and nodes * ranks.per_node == ranks.world
    return "hybrid" if inside and size < 2 * SMALL * free * ranks.per_node else "full"


def _free_bytes(ranks: Ranks) -> int:
    if ranks.device.type == "cuda":
        return torch.cuda.mem_get_info(ranks.device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // ranks.per_node
