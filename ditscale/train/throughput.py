"""What an attempt measures of its training steps, beside the loss: speed, data wait, memory, energy (rundir/record.py:
MEASURED)."""

from __future__ import annotations

import resource
import time
from typing import Iterator

import torch

from ..distributed.ranks import Ranks
from ..plan.run import Run

POWER_S = 1.0  # between two questions to the GPU's driver


class ThroughputMeter:
    """Read between steps, at a look of the loop (loop.py), never in the middle."""

    def __init__(self, run: Run, images: int, ranks: Ranks):
        self.run, self.ranks = run, ranks
        self.waited_s, self.energy_j = 0.0, 0.0
        self.began = self.asked = time.monotonic()
        self.from_images = images
        self.steady = False
        self.sharing = ranks.runs_per_gpu  # runs on this GPU

    def timed(self, batches: Iterator) -> Iterator:
        """The batches, the time that each one took to come being noted."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def pause(self, seconds: float):
        """So many seconds just now were not of training."""
        self.began, self.asked = self.began + seconds, self.asked + seconds

    def peak_memory_bytes(self) -> int:
        """Of this rank: its GPU's, or where there is none the process's."""
        if self.ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.ranks.device)
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def energy_so_far(self) -> float:
        """Joules of this rank's GPU since the attempt began, or its part where runs share one; 0 where the driver does
        not tell."""
        now = time.monotonic()
        if self.ranks.device.type == "cuda" and now - self.asked > POWER_S:
            try:
                self.energy_j += torch.cuda.power_draw(self.ranks.device) / 1000 * (now - self.asked) / self.sharing
            except Exception:  # no NVML, no binding for it, or a driver that does not say
                pass
            self.asked = now
        return self.energy_j

    def speed(self, images: int) -> dict:
        """Of the attempt until now, at `images` of the run. The first look is left out once there is a second: it holds
        what comes before steps are steady, compilation above all."""
        now = time.monotonic()
        per_s = (images - self.from_images) / max(now - self.began, 1e-9)
        if not self.steady:
            self.steady, self.began, self.from_images = True, now, images
        flops_per_s, peak = per_s * self.run.flops_per_image, self.run.execution.peak_flops_per_s * self.ranks.world
        return {
            "images_per_s": per_s,
            "tokens_per_s": per_s * self.run.tokens_per_image,
            "flops_per_s": flops_per_s,
            "mfu": flops_per_s / peak if peak else 0.0,
        }


def device_name(device: torch.device) -> str:
    """What the hardware calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = open("/proc/cpuinfo").read().splitlines()
    except OSError:
        return device.type
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), device.type)
