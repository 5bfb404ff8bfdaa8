"""Fully sharded data parallelism (ZeRO-3; Rajbhandari et al., arXiv 1910.02054) by torch's FSDP2. Optimizer, EMA and
checkpoints see this rank's shards alone, as plain tensors."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ...distributed.ranks import Ranks
from ...errors import UserError
from ...model.dit import DiT
from .replicated import Factor, Layout


class FSDPLayout(Layout):
    """A model's weights in shards: "full" over all ranks, "hybrid" over the ranks of each node, the nodes being
    replicas. bf16: weights travel and compute in bf16, gradients are reduced in fp32."""

    def __init__(self, model: DiT, kind: str, precision: str, factor: Factor, ranks: Ranks):
        self.kind, self.ranks = kind, ranks
        # On CPUs, gloo has no mean over ranks before torch 2.9, and FSDP does not run at all without it.
        if ranks.device.type == "cpu" and torch.__version__ < "2.9":
            old = f"takes torch 2.9 or later on CPUs, and this is {torch.__version__}"
            raise UserError(f"execution.sharding: {kind} {old}; choose replicate")
        self.scale = float(ranks.world)  # FSDP takes the mean over ranks.
        self.mesh = self.mesh_on(ranks.device.type)
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        policy = half if precision == "bf16" else MixedPrecisionPolicy()
        for block in model.blocks:
            fully_shard(block, mesh=self.mesh, mp_policy=policy)
        fully_shard(model, mesh=self.mesh)  # The rest is small, and stays in fp32.
        self.modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
        # Some versions of torch, such as 2.9, copy uneven shards when first gathered: do so before referring to them.
        for module in self.modules:
            module.unshard()
            module.reshard()
        self._parameters = {name: p for name, p in model.named_parameters() if isinstance(p, DTensor)}
        self.weights = [_local(p.detach()) for p in self._parameters.values()]
        self.lr_factors = [factor(name, p) for name, p in self._parameters.items()]
        self._checked = False

    def mesh_on(self, device_type: str) -> DeviceMesh:
        world, per_node = self.ranks.world, self.ranks.per_node
        if self.kind == "full":
            return init_device_mesh(device_type, (world,), mesh_dim_names=("shards",))
        return init_device_mesh(device_type, (world // per_node, per_node), mesh_dim_names=("nodes", "shards"))

    def set_last_microbatch(self, is_last: bool):
        root = self.modules[0]
        root.set_requires_gradient_sync(is_last)
        root.set_is_last_backward(is_last)

    def reduce_gradients(self) -> Tensor:
        if not self._checked:  # Once, after FSDP's own preparations: what is trained here must be what it gathers.
            pairs = zip(self._parameters.values(), self.weights)
            if any(_local(p).data_ptr() != weight.data_ptr() for p, weight in pairs):
                moved = "keeps shards elsewhere than this version of ditscale expects"
                raise RuntimeError(f"torch {torch.__version__} {moved}; use cluster.sharding=replicate")
            self._checked = True
        gradients = [_local(p.grad) for p in self._parameters.values()]
        for weight, gradient in zip(self.weights, gradients):
            weight.grad = gradient
        square = nn.utils.get_total_norm(gradients).square()
        torch.distributed.all_reduce(square, group=self.mesh.get_group("shards"))
        return square.sqrt()

    def zero_grad(self):
        for p, weight in zip(self._parameters.values(), self.weights):
            p.grad = weight.grad = None

    def weights_changed(self):
        for module in self.modules:
            module.reshard()  # What was gathered for a forward pass without a backward pass may still be there.

    def named(self, tensors: list[Tensor], mesh: DeviceMesh | None = None) -> dict[str, DTensor]:
        whole = lambda local, p: DTensor.from_local(
            local, mesh or self.mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
        )
        return {name: whole(tensor, p) for (name, p), tensor in zip(self._parameters.items(), tensors)}

    def gather_full(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        full = {}
        for name, tensor in self.named(tensors).items():
            whole = tensor.full_tensor()  # One at a time: the whole model need not fit besides the shards.
            if self.ranks.first:
                full[name] = whole.cpu()
        return full


def _local(tensor: Tensor | None) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.to_local()
