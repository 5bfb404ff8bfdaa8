"""A training step: gradients, optimizer, averages. On a GPU it is recorded once and played from then on, as a CUDA
graph.

What a small model's step takes on a GPU is the time its host needs to start the kernels one by one: 538 of them, 18.4
ms, at 384x6, where they compute for 15.5 ms (H100). A recorded step is started at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .gradient_accumulation import GradientAccumulation, is_memory
from .state import State

WARM = 3  # steps before one is recorded: they compile, and libraries take memory for themselves


class Step:
    """Steps of one attempt of a run; `clip`: of the gradient's norm."""

    def __init__(self, state: State, micro: GradientAccumulation, clip: float, recorded: bool):
        """recorded: where it can be: on one rank, on a GPU."""
        self.state, self.micro, self.clip = state, micro, clip
        self.recorded = recorded and micro.ranks.world == 1 and micro.ranks.device.type == "cuda"
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream() if self.recorded else None
        self.taken = 0

    def __call__(self, batch: tuple[Tensor, ...], number: int, rate: float) -> tuple[Tensor, Tensor]:
        """Step `number` from 1 on (x0, text, eps, t), this rank's share of the batch: the sum of its losses and the
        norm of the whole gradient, on the device, where they stay until the next step."""
        self.state.pace(number, rate)
        if not self.recorded:
            return self._eager(batch)
        if self.graph is None and self.taken >= WARM:
            self._record(batch)
        if self.graph is None:
            self.taken += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                made = self._eager(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            return made
        torch._foreach_copy_(self.inputs, list(batch))
        self.graph.replay()
        return self.made

    def _eager(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return self.micro.gradient(batch), self.state.step(self.clip)

    def _record(self, batch: tuple[Tensor, ...]):
        """Record a step on copies of the batch; nothing is computed. Where there is no memory for that, steps stay as
        they are."""
        self.inputs = [part.clone() for part in batch]
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads meanwhile pin memory for batches to come (batches.py), or wait for a checkpoint's copies
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.made = self.micro.accumulate(tuple(self.inputs)), self.state.step(self.clip)
            self.graph = graph
        except RuntimeError as error:
            if not is_memory(error):
                raise
            self.release()
            self.recorded = False

    def release(self):
        """Give the recorded step's memory back, for something else to use it; it is recorded anew when there is a next
        step."""
        if self.recorded:
            self.graph = self.made = self.inputs = None
            torch.cuda.empty_cache()
