"""What a study has spent, from its runs' own files: hours of devices, work that was lost, time waiting for data."""

from collections.abc import Iterable
from dataclasses import dataclass

from .. import units
from ..files import read_mapping
from ..naming import RunPaths
from ..plan.run import Run
from ..rundir.attempts import Attempt, read_attempts
from ..rundir.record import Totals, read_totals
from .speed import is_gpu


@dataclass(frozen=True)
class Spent:
    """Of one run. Seconds are of its job; devices: its GPUs, or its cores."""

    seconds: float = 0.0
    lost_s: float = 0.0  # steps that were trained again, and all of a run that failed or diverged
    data_wait_s: float = 0.0  # of the attempts whose records say so
    energy_j: float = 0.0
    devices: float = 1.0
    gpu: bool = False


def spent_on(at: RunPaths, run: Run, state: str) -> Spent:
    """What a run has taken so far. Nested runs count with their parent, which trains them."""
    attempts = read_attempts(at)
    if not attempts:
        return Spent()
    totals = read_totals(at.metrics)
    seconds = sum(max(0.0, end - attempt.started_unix) for attempt, end in zip(attempts, _ends(at, attempts, totals)))
    gpu = bool(attempts[-1].gpus) or is_gpu(totals.device)
    lost_s = sum(attempt.lost_images for attempt in attempts) / totals.images_per_s if totals.images_per_s else 0.0
    if state in ("failed", "diverged"):
        lost_s = seconds
    devices = attempts[-1].ranks * (1 / attempts[-1].runs_per_gpu if gpu else run.execution.threads)
    return Spent(seconds, min(lost_s, seconds), totals.data_wait_s, totals.energy_j, devices, gpu)


def _ends(at: RunPaths, attempts: list[Attempt], totals: Totals) -> list[float]:
    """When each attempt ended: as the next one saw it, and the last by its record or its last sign of life."""
    beat = read_mapping(at.heartbeat, {"unix": float}).get("unix", 0.0)
    return [*(later.before_unix for later in attempts[1:]), max(beat, totals.ended_unix)]


@dataclass(frozen=True)
class Total:
    """Of a study."""

    device: str
    hours: float
    lost_hours: float
    wait_share: float  # of the time
    energy_j: float  # as the GPUs reported it

    def __str__(self) -> str:
        if not self.hours:
            return ""
        text = f"spent {units.compact(self.hours)} {self.device}-hours"
        text += f" and {units.compact(self.energy_j / 3.6e6)} kWh" * bool(self.energy_j)
        if self.lost_hours:
            text += f", {units.compact(self.lost_hours)} of them lost to kills, failures and divergence"
        return text + (f", {self.wait_share:.1%} waiting for data" if self.wait_share else "")


def total(spent: Iterable[Spent]) -> Total:
    """The sum over runs."""
    every = [s for s in spent if s.seconds]
    hours = lambda name: sum(getattr(s, name) * s.devices for s in every) / 3600
    whole = hours("seconds")
    device = "GPU" if any(s.gpu for s in every) else "core"
    return Total(
        device, whole, hours("lost_s"), hours("data_wait_s") / whole if whole else 0.0, sum(s.energy_j for s in every)
    )
