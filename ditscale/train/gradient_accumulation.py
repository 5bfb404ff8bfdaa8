"""A rank's share of the global batch in micro-batches: as many images at once as fit into memory.

The gradient is that of the whole batch, whatever the micro-batch: each image's loss counts 1 / (images of the batch).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..diffusion.rectified_flow import losses
from ..distributed.ranks import Ranks
from ..errors import UserError
from ..plan.run import Run
from ..rundir.outcomes import OutOfMemory
from .layout.choose import Layout

LESS = "set cluster.recompute=blocks, cluster.sharding=full, or take a larger GPU"  # what to do
ROOM = 0.92  # of the memory that is left: the rest is for fragments and the collectives


class GradientAccumulation:
    """How a run's gradients are computed. `size`: images of a micro-batch; `halvings`: how often memory did not
    suffice."""

    def __init__(self, run: Run, model: nn.Module, layout: Layout, ranks: Ranks, most: int = 0):
        """most: images of a micro-batch that earlier attempts found to fit; 0: not known."""
        self.model, self.layout, self.ranks = model, layout, ranks
        self.batch, self.half = run.recipe.batch_size, run.recipe.precision == "bf16"
        self.share = self.batch // ranks.world
        self.most = min(most or self.share, self.share)
        self.size = min(run.execution.micro_batch or self.most, self.most)
        self.halvings = 0
        self.weight = torch.tensor(layout.scale / self.batch, device=ranks.device)  # of an image's loss in the gradient

    def gradient(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Add the gradient over (x0, text, eps, t) of this rank's share; returns the sum of its losses, on the device.

        Out of memory, the micro-batch is halved and the share begun again. Raises UserError when one image is too many,
        and OutOfMemory when weights are sharded: then the other ranks are in the middle of the same pass.
        """
        while True:
            try:
                return self.accumulate(batch)
            except RuntimeError as error:  # OutOfMemoryError is one
                if not is_memory(error):
                    raise
            self._halve()

    def accumulate(self, batch: tuple[Tensor, ...]) -> Tensor:
        """The same, once, in micro-batches of `size`; out of memory, it raises what torch does."""
        parts = [batch] if self.size >= len(batch[0]) else list(zip(*(part.split(self.size) for part in batch)))
        total = None
        for i, (x0, text, eps, t) in enumerate(parts):
            if len(parts) > 1:
                self.layout.set_last_microbatch(i == len(parts) - 1)
            with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.half):
                loss = losses(self.model, x0, text, eps, t).sum()
            (loss * self.weight).backward()  # to hand the weight to backward() would import sympy: half a second
            total = loss.detach() if total is None else total + loss.detach()
        return total

    def _halve(self):
        if self.size == 1:
            raise UserError(f"out of memory with a single image; {LESS}")
        half = (self.size + 1) // 2
        if self.layout.kind != "replicate":
            raise OutOfMemory(half)
        self.layout.zero_grad()
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        self.size = half
        self.halvings += 1
        print(f"out of memory: going on with micro-batches of {self.size} images", flush=True)

    def fit(self, batch: tuple[Tensor, ...]):
        """On a GPU, halve the share until memory has room for so many images, on all ranks: that is `size`.

        `batch` holds two images or more, this rank's or any. One and two of them are put through the model, twice, as
        in a step of several micro-batches; memory is linear in their number.
        """
        device = self.ranks.device
        sizes, used = [1, min(2, self.share)], []
        for n in [1, *sizes]:  # the first time, libraries take memory for themselves
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            self.size = n
            try:
                self.accumulate(tuple(torch.cat([part[:n]] * 2) for part in batch))
            except RuntimeError as error:
                if is_memory(error):
                    raise UserError(f"out of memory with {n} of its images at once; {LESS}") from None
                raise
            used.append(torch.cuda.max_memory_allocated(device) - before)
            self.layout.zero_grad()
        each = max(used[2] - used[1], 1)
        torch.cuda.empty_cache()
        mine = ROOM / self.ranks.runs_per_gpu  # of the memory that is free; runs beside this one look at it too
        left = mine * torch.cuda.mem_get_info(device)[0] - (used[1] - each)
        most = torch.tensor([left / each], device=device)
        self.ranks.all_reduce(most, torch.distributed.ReduceOp.MIN)
        self.size = self.most
        while self.size > max(1.0, most.item()):
            self.size = (self.size + 1) // 2


def is_memory(error: RuntimeError) -> bool:
    """The CPU's allocator, oneDNN, cuBLAS and cuDNN say it in words alone."""
    words = ("can't allocate memory", "could not create a primitive", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in words)
