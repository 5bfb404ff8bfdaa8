"""What an attempt measures besides the loss: speed, data wait, memory, energy (rundir/record.py: MEASURED)."""

import resource
import time
from contextlib import contextmanager, suppress
from functools import cache
from typing import Iterator, TypeVar

import torch

from ..distributed.ranks import Ranks
from ..model.projection import cpuinfo
from ..plan.run import Run

POWER_S = 1.0  # Seconds between two queries of the GPU's power, which take the driver some time.
T = TypeVar("T")


class ThroughputMeter:
    """The clock of a run's training in one attempt, and what is measured by it. It is read at syncs (segment.py)."""

    def __init__(self, run: Run, images: int, ranks: Ranks):
        self.run, self.ranks = run, ranks
        self.data_wait_s, self.energy_j = 0.0, 0.0
        self._start, self._last_power_s = time.monotonic(), 0.0
        self._first_images, self._first_s, self._is_steady = images, 0.0, False

    def seconds(self) -> float:
        """Seconds of training so far in this attempt: those of nested runs do not count."""
        return time.monotonic() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._start += time.monotonic() - began

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches, while the time that each one took to come is added to `data_wait_s`."""
        began = time.perf_counter()
        for batch in batches:
            self.data_wait_s += time.perf_counter() - began
            yield batch
            began = time.perf_counter()
        self.data_wait_s += time.perf_counter() - began

    def peak_memory_bytes(self) -> int:
        if self.ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.ranks.device)
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def energy_so_far(self) -> float:
        """Joules of this rank's share of its GPU in this attempt; 0 where the driver does not report power."""
        now = self.seconds()
        if self.ranks.device.type == "cuda" and now - self._last_power_s > POWER_S:
            with suppress(Exception):  # No NVML, no binding for it, or a driver that does not report power.
                watts = torch.cuda.power_draw(self.ranks.device) / 1000
                self.energy_j += watts * (now - self._last_power_s) / self.ranks.runs_per_gpu
            self._last_power_s = now
        return self.energy_j

    def speed(self, images: int) -> dict[str, float]:
        """Speed until now, at `images` of the run; from the second call on since the first: compilation takes time."""
        now, run = self.seconds(), self.run
        images_per_s = (images - self._first_images) / max(now - self._first_s, 1e-9)
        if not self._is_steady:
            self._is_steady, self._first_s, self._first_images = True, now, images
        flops_per_s, peak = images_per_s * run.flops_per_image, run.execution.peak_flops_per_s * self.ranks.world
        speed = {"images_per_s": images_per_s, "tokens_per_s": images_per_s * run.tokens_per_image}
        return speed | {"flops_per_s": flops_per_s, "mfu": flops_per_s / peak if peak else 0.0}


@cache
def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = cpuinfo().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), device.type)
