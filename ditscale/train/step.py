"""A training step: gradients, optimizer, averages. On a GPU it is recorded once as a CUDA graph, and replayed from then
on.

A small model's step on a GPU takes as long as its CPU needs to launch the kernels one by one: 538 kernels and 18.4 ms
at 384x6, where they compute for 15.5 ms (H100). A replay launches all of them at once.
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


class Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    result: Result


class Step:
    """The steps of one attempt at a run. clip: the largest norm of a gradient."""

    def __init__(self, state: State, accumulation: GradientAccumulation, clip: float, record: bool):
        """record: record the step where that is possible, on one rank with a GPU."""
        self.state, self.accumulation, self.clip = state, accumulation, clip
        record = record and accumulation.ranks.world == 1 and accumulation.ranks.device.type == "cuda"
        self.stream = torch.cuda.Stream() if record else None  # None: steps are not recorded.
        self.recording: Recording | None = None
        self.warmup_steps = 0

    def __call__(self, batch: Batch, number: int, rate: float) -> Result:
        """Take step `number`, counted from 1, on this rank's share of the batch."""
        self.state.set_step(number, rate)
        if self.stream is not None and self.recording is None and self.warmup_steps >= WARMUP_STEPS:
            self._record(batch, self.stream)
        if self.recording is not None:
            torch._foreach_copy_(self.recording.inputs, list(batch))
            self.recording.graph.replay()
            return self.recording.result
        if self.stream is not None:
            self.warmup_steps += 1
            return self._on_stream(batch, self.stream)
        return self._eager(batch)

    def _eager(self, batch: Batch) -> Result:
        return Result(self.accumulation.gradient(batch), self.state.step(self.clip))

    def _on_stream(self, batch: Batch, stream: torch.cuda.Stream) -> Result:
        """On the stream of the recording, as its warm-up must be."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self._eager(batch)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _record(self, batch: Batch, stream: torch.cuda.Stream):
        """Record a step on copies of the batch; nothing is computed. Where there is no memory for that, steps stay
        eager."""
        inputs, graph = [part.clone() for part in batch], torch.cuda.CUDAGraph()
        try:
            # Other threads meanwhile pin memory for batches to come (batches.py), or wait for a checkpoint's copies.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = Result(self.accumulation.accumulate(Batch(*inputs)), self.state.step(self.clip))
            self.recording = Recording(graph, inputs, result)
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
