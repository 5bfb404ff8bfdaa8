"""A rank's share of the global batch in micro-batches: as many images at once as fit into memory.

The gradient is that of the whole batch, whatever the micro-batch: each image's loss counts 1 / (images of the batch).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..diffusion.rectified_flow import losses
from ..errors import UserError
from ..plan.run import Run
from .parallel import Layout
from .ranks import Ranks

ROOM = 0.92  # of the memory that is left: the rest is for fragments and the collectives


class MicroBatches:
    """How a run's gradients are computed. `size`: images of a micro-batch; `halvings`: how often memory did not suffice."""

    def __init__(self, run: Run, model: nn.Module, layout: Layout, ranks: Ranks):
        self.model, self.layout, self.ranks = model, layout, ranks
        self.batch, self.half = run.recipe.batch_size, run.recipe.precision == "bf16"
        self.share = self.batch // ranks.world
        self.size = min(run.execution.micro_batch or self.share, self.share)
        self.halvings = 0
        self.weight = torch.tensor(layout.scale / self.batch, device=ranks.device)  # of an image's loss in the gradient

    def gradient(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Add the gradient over (x0, text, eps, t) of this rank's share; returns the sum of its losses, on the device.

        Out of memory, the micro-batch is halved and the share begun again. Raises UserError when one image is too many, or
        when weights are sharded: then the other ranks are in the middle of the same pass.
        """
        while True:
            try:
                return self._accumulate(batch)
            except RuntimeError as error:  # OutOfMemoryError is one
                if not _is_memory(error):
                    raise
            self._halve()

    def _accumulate(self, batch: tuple[Tensor, ...]) -> Tensor:
        parts = [batch] if self.size >= len(batch[0]) else list(zip(*(part.split(self.size) for part in batch)))
        total = None
        for i, (x0, text, eps, t) in enumerate(parts):
            if len(parts) > 1:
                self.layout.last(i == len(parts) - 1)
            with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.half):
                loss = losses(self.model, x0, text, eps, t).sum()
            (loss * self.weight).backward()  # to hand the weight to backward() would import sympy: half a second
            total = loss.detach() if total is None else total + loss.detach()
        return total

    def _halve(self):
        if self.size == 1:
            raise UserError(
                "out of memory with a single image; set cluster.recompute=blocks, cluster.sharding=full, or take a larger GPU"
            )
        if self.layout.kind != "replicate":
            raise UserError(
                f"out of memory with micro-batches of {self.size} images on shards; set execution.micro_batch: "
                f"{self.size // 2} in run.yaml, run again"
            )
        self.layout.zero()
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        self.size = (self.size + 1) // 2
        self.halvings += 1
        print(f"out of memory: going on with micro-batches of {self.size} images", flush=True)

    def fit(self, batch: tuple[Tensor, ...]):
        """On a GPU, halve the share until memory has room for so many images, on all ranks: that is `size`.

        `batch` holds two images or more, this rank's or any. One and two of them are put through the model, twice, as in a
        step of several micro-batches; memory is linear in their number.
        """
        device = self.ranks.device
        sizes, used = [1, min(2, self.share)], []
        for n in [1, *sizes]:  # the first time, libraries take memory for themselves
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            self.size = n
            self._accumulate(tuple(torch.cat([part[:n]] * 2) for part in batch))
            used.append(torch.cuda.max_memory_allocated(device) - before)
            self.layout.zero()
        each = max(used[2] - used[1], 1)
        torch.cuda.empty_cache()
        left = ROOM * torch.cuda.mem_get_info(device)[0] - (used[1] - each)
        most = torch.tensor([left / each], device=device)
        self.ranks.all_reduce(most, torch.distributed.ReduceOp.MIN)
        self.size = self.share
        while self.size > max(1.0, most.item()):
            self.size = (self.size + 1) // 2


def _is_memory(error: RuntimeError) -> bool:
    """The CPU's allocator and oneDNN say it in words alone."""
    words = ("can't allocate memory", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in words)
