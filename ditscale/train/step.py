"""A training step: gradients, optimizer, averages.

The gradient is that of the whole batch, whatever fits into memory: each image's loss counts 1 / (images of the batch).
On a GPU a step is recorded as a CUDA graph and then replayed, which launches all kernels of a small model at once."""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..diffusion.rectified_flow import losses
from ..distributed.ranks import Ranks
from ..errors import UserError
from ..logs import log
from ..plan.run import Run
from ..rundir.outcomes import OutOfMemory
from .batches import Batch
from .layout.replicated import Layout
from .state import State

REMEDY = "set cluster.recompute=blocks, cluster.sharding=full, or take a larger GPU"
USABLE = 0.92  # Share of free memory that micro-batches may take: the rest is for fragments and the collectives.
WARMUP_STEPS = 3  # Steps before the recording: they compile, and libraries allocate their workspaces.


class GradientAccumulation:
    """Computes a run's gradients. `size`: images of a micro-batch. `halvings`: how often memory did not suffice."""

    def __init__(self, run: Run, model: nn.Module, layout: Layout, ranks: Ranks, largest: int = 0):
        """largest: images of a micro-batch that earlier attempts found to fit; 0: not known."""
        self.model, self.layout, self.ranks = model, layout, ranks
        self.batch_size, self.bf16 = run.recipe.batch_size, run.recipe.precision == "bf16"
        self.share = self.batch_size // ranks.world
        self.largest = min(largest or self.share, self.share)
        self.size = min(run.execution.micro_batch or self.largest, self.largest)
        self.halvings = 0
        self.image_weight = torch.tensor(layout.scale / self.batch_size, device=ranks.device)  # in the gradient

    def gradient(self, batch: Batch) -> Tensor:
        """Add the gradient over this rank's share of a batch; returns the sum of its losses, on the device. Out of
        memory, the micro-batch is halved and the share begun again. Raises UserError when one image is too many, and
        OutOfMemory when weights are sharded: then the other ranks are in the middle of the same pass."""
        while True:
            try:
                return self.accumulate(batch)
            except RuntimeError as error:  # torch.OutOfMemoryError is one.
                if not is_out_of_memory(error):
                    raise
            self._halve()

    def accumulate(self, batch: Batch) -> Tensor:
        """The same, once, in micro-batches of `size`. Out of memory, it raises what torch does."""
        micro_batches = [batch] if self.size >= len(batch.x0) else list(batch.split(self.size))
        sums = []
        for i, micro_batch in enumerate(micro_batches):
            if len(micro_batches) > 1:
                self.layout.set_last_microbatch(i == len(micro_batches) - 1)
            with torch.autocast(batch.x0.device.type, torch.bfloat16, enabled=self.bf16):
                loss = losses(self.model, *micro_batch).sum()
            (loss * self.image_weight).backward()  # backward(weight) would import sympy: half a second.
            sums.append(loss.detach())
        return reduce(torch.add, sums)

    def _halve(self):
        if self.size == 1:
            raise UserError(f"out of memory with a single image; {REMEDY}")
        half = (self.size + 1) // 2
        if self.layout.kind != "replicate":
            raise OutOfMemory(half)
        self.layout.zero_grad()
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        self.size = half
        self.halvings += 1
        log.info(f"out of memory: continuing with micro-batches of {self.size} images")

    def fit(self, batch: Batch):
        """On a GPU, halve the share until every rank has memory for it: that becomes `size`. Memory is linear in the
        number of images, so it is measured with one and with two of `batch`, in two micro-batches as a step has."""
        device = self.ranks.device
        peaks = [self._peak_bytes(batch, n) for n in (1, 1, min(2, self.share))]
        # In the first pass, libraries allocate memory for themselves: it does not count.
        image_bytes = max(peaks[2] - peaks[1], 1)
        torch.cuda.empty_cache()
        # Runs that share this GPU measure the same free memory, so each takes its part of it.
        usable = USABLE / self.ranks.runs_per_gpu * torch.cuda.mem_get_info(device)[0] - (peaks[1] - image_bytes)
        fitting = torch.tensor([usable / image_bytes], device=device)
        self.ranks.all_reduce(fitting, torch.distributed.ReduceOp.MIN)
        self.size = self.largest
        while self.size > max(1.0, fitting.item()):
            self.size = (self.size + 1) // 2

    def _peak_bytes(self, batch: Batch, n: int) -> int:
        """Peak memory of a pass of two micro-batches of n images, without what is allocated already."""
        device, self.size = self.ranks.device, n
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            self.accumulate(Batch._make(torch.cat([part[:n]] * 2) for part in batch))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise UserError(f"out of memory with a micro-batch of {n}; {REMEDY}") from None
            raise
        peak = torch.cuda.max_memory_allocated(device) - before
        self.layout.zero_grad()
        return peak


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed. The CPU's allocator, oneDNN, cuBLAS and cuDNN say so only in their message."""
    messages = ("can't allocate memory", "could not create a primitive", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in messages)


class Result(NamedTuple):  # Of one step, on the device, valid until the next step.
    loss: Tensor  # the sum over this rank's share of the batch
    grad_norm: Tensor  # of the whole gradient, before clipping


class Step:
    """The steps of one attempt at a run. clip: the largest norm of a gradient."""

    def __init__(self, state: State, accumulation: GradientAccumulation, clip: float, record: bool):
        self.state, self.accumulation, self.clip = state, accumulation, clip
        record = record and accumulation.ranks.world == 1 and accumulation.ranks.device.type == "cuda"
        self.stream = torch.cuda.Stream() if record else None  # None: steps are not recorded.
        self.recording: tuple[torch.cuda.CUDAGraph, list[Tensor], Result] | None = None  # with the inputs it reads
        self.warmup_steps = 0

    def __call__(self, batch: Batch, number: int, rate: float) -> Result:
        """Take step `number`, counted from 1, on this rank's share of the batch."""
        self.state.set_step(number, rate)
        if self.stream is not None and self.recording is None and self.warmup_steps >= WARMUP_STEPS:
            self._record(batch, self.stream)
        if self.recording is not None:
            graph, inputs, result = self.recording
            torch._foreach_copy_(inputs, list(batch))
            graph.replay()
            return result
        if self.stream is None:
            return self._eager(batch)
        self.warmup_steps += 1  # A warm-up must be on the stream of the recording.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = self._eager(batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def _eager(self, batch: Batch) -> Result:
        return Result(self.accumulation.gradient(batch), self.state.step(self.clip))

    def _record(self, batch: Batch, stream: torch.cuda.Stream):
        """Record a step on copies of the batch, computing nothing. Where memory is short, steps stay eager."""
        inputs, graph = [part.clone() for part in batch], torch.cuda.CUDAGraph()
        try:
            # Other threads meanwhile pin memory for batches to come (batches.py), or wait for a checkpoint's copies.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = Result(self.accumulation.accumulate(Batch(*inputs)), self.state.step(self.clip))
            self.recording = graph, inputs, result
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.release()
            self.stream = None

    def release(self):
        """Free the memory of the recording for something else. The next step, if there is one, is recorded anew."""
        if self.stream is not None:
            self.recording = None
            torch.cuda.empty_cache()
