"""A training step: gradients, optimizer, averages. On a GPU it is recorded once as a CUDA graph and then replayed: a
small model's step takes as long as the CPU needs to launch its kernels one by one, and a replay launches all at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .batches import Batch
from .gradient_accumulation import GradientAccumulation, is_out_of_memory
from .state import State

WARMUP_STEPS = 3  # Steps before the recording: they compile, and libraries allocate their workspaces.


class Result(NamedTuple):
    """Of one step, on the device, valid until the next step."""

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
