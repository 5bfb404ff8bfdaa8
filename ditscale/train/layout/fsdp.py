"""Fully sharded data parallelism (ZeRO-3; Rajbhandari et al., arXiv 1910.02054) by torch's FSDP2.

A block's weights are gathered before its forward and its backward pass, and its gradients are reduced and scattered
after the latter. Optimizer, EMA and checkpoints see this rank's shards alone, as plain tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ...distributed.ranks import Ranks
from ...errors import UserError
from .replicated import Factor


class FSDPLayout:
    """A model's weights in shards: "full" over all ranks, "hybrid" over the ranks of each node, the nodes being
    replicas: a Layout (choose.py). bf16: weights travel and compute in bf16, gradients are reduced in fp32.
    """

    def __init__(self, model: nn.Module, kind: str, precision: str, factor: Factor, ranks: Ranks):
        self.kind, self.model, self.ranks = kind, model, ranks
        # gloo takes no means there, or FSDP does not run at all
        if ranks.device.type == "cpu" and torch.__version__ < (2, 9):
            raise UserError(
                f"execution.sharding: {kind} takes torch 2.9 or later on CPUs, and this is {torch.__version__}; choose "
                "replicate"
            )
        self.scale = float(ranks.world)  # FSDP takes the mean over ranks
        self.shape_of_ranks = (ranks.world,) if kind == "full" else (ranks.world // ranks.per_node, ranks.per_node)
        self.mesh = self.mesh_on(ranks.device.type)
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        policy = half if precision == "bf16" else MixedPrecisionPolicy()
        for block in model.blocks:
            fully_shard(block, mesh=self.mesh, mp_policy=policy)
        fully_shard(model, mesh=self.mesh)  # the rest: small, in fp32
        # some versions of torch, 2.9 for one, copy uneven shards when they are first gathered: now, before we hold them
        for module in self._modules():
            module.unshard()
            module.reshard()
        self._parameters: dict[str, DTensor] = dict(model.named_parameters())
        self.weights = [p.detach().to_local() for p in self._parameters.values()]
        self.factors = [factor(name, p) for name, p in self._parameters.items()]
        self._checked = False

    def _modules(self) -> list[FSDPModule]:
        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]

    def mesh_on(self, device_type: str) -> DeviceMesh:
        """The ranks as a mesh, the dimension over which weights are sharded last."""
        return init_device_mesh(
            device_type, self.shape_of_ranks, mesh_dim_names=("nodes", "shards")[-len(self.shape_of_ranks) :]
        )

    def set_last_microbatch(self, is_last: bool):
        self.model.set_requires_gradient_sync(is_last)
        self.model.set_is_last_backward(is_last)

    def reduce_gradients(self) -> Tensor:
        if not self._checked:  # once, after FSDP's own preparations: what is trained here is what it gathers
            held = zip(self._parameters.values(), self.weights)
            if any(p.to_local().data_ptr() != weight.data_ptr() for p, weight in held):
                raise RuntimeError(
                    f"torch {torch.__version__} keeps shards elsewhere than this version of ditscale expects; use "
                    "cluster.sharding=replicate"
                )
            self._checked = True
        gradients = [p.grad.to_local() for p in self._parameters.values()]
        for weight, gradient in zip(self.weights, gradients):
            weight.grad = gradient
        square = nn.utils.get_total_norm(gradients).square()
        torch.distributed.all_reduce(square, group=self.mesh.get_group("shards"))
        return square.sqrt()

    def zero_grad(self):
        for p, weight in zip(self._parameters.values(), self.weights):
            p.grad = weight.grad = None

    def weights_changed(self):
        for module in self._modules():
            module.reshard()  # what was gathered for a forward pass without a backward one may still be there

    def named(self, parts: list[Tensor], mesh: DeviceMesh | None = None) -> dict[str, DTensor]:
        """Tensors that lie as `weights` do, by the parameters' names, as shards of the whole. `mesh`: of where they
        are."""
        return {
            name: DTensor.from_local(
                part, mesh or self.mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
            )
            for (name, p), part in zip(self._parameters.items(), parts)
        }

    def gather_full(self, parts: list[Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, part in self.named(parts).items():
            gathered = part.full_tensor()  # one at a time: the whole model need not fit beside the shards
            if self.ranks.first:
                found[name] = gathered.cpu()
        return found
