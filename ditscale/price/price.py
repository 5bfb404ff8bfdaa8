"""What a study costs: hours of devices and of the clock, disk, data, energy and money, of each run and in all.

The clock's hours are a schedule: list scheduling of the runs that are trained by themselves, in the order in which a
launch starts them, under the cluster's limits. Runs nested in another count there. Waiting for other people's jobs in
a queue is not known, and not in it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .. import units
from ..config import Budget, Cluster, Study
from ..errors import UserError
from ..plan.grid import plan_probe
from ..plan.run import Run
from ..result import Result
from . import storage
from .resources import Machine, Place, Times, classes, place_of, times
from .schedule import makespan, shares, with_requeues
from .speed import Speeds

STAGES = ("grid", "rate", "probe")  # In the order in which a whole study trains them.
TIB = 2**40


@dataclass(frozen=True)
class RunPrice(Result):
    """What one training costs, with the runs nested in it. Seconds are of its job, without waiting in a queue."""

    run_id: str
    role: str
    n_params: int
    start_s: float
    train_s: float
    measure_s: float
    executions: int  # 1, or more where it is requeued at the cluster's longest time limit
    device_hours: float  # its GPUs, or its cores where it has none
    energy_j: float
    checkpoint_bytes: int  # final weights and averages, which stay
    read_bytes: int
    files: int
    source: str  # of the speed
    factor: float  # The time is expected within a factor of this.

    @property
    def total_s(self) -> float:
        return self.executions * self.start_s + self.train_s + self.measure_s


@dataclass(frozen=True)
class Part(Result):
    """The runs of one stage together, levers with the grid."""

    stage: str
    trainings: int
    runs: int
    device_hours: float
    wall_s: float
    longest_s: float
    longest_run: str
    energy_j: float
    disk_bytes: int  # what stays, with records
    peak_bytes: int  # and at most, while runs train
    read_bytes: int
    files: int
    usd: float


@dataclass(frozen=True)
class Price(Result):
    """The price of a study. `device`: "GPU" or "core", whose hours are counted."""

    device: str
    parts: tuple[Part, ...]
    runs: tuple[RunPrice, ...]
    factor: float
    sources: tuple[str, ...]
    limit_hours: float  # of the study's budget; 0: none
    at_once: str  # how many jobs at once, in words
    probe_is_a_guess: bool = False

    COMPUTED = ("device_hours", "wall_s", "usd", "energy_j", "disk_bytes", "read_bytes", "files")

    def _sum(self, name: str) -> Any:
        return sum(getattr(part, name) for part in self.parts)

    @property
    def device_hours(self) -> float:
        return self._sum("device_hours")

    @property
    def wall_s(self) -> float:
        return self._sum("wall_s")

    @property
    def usd(self) -> float:
        return self._sum("usd")

    @property
    def energy_j(self) -> float:
        return self._sum("energy_j")

    @property
    def disk_bytes(self) -> int:
        return self._sum("disk_bytes")

    @property
    def read_bytes(self) -> int:
        return self._sum("read_bytes")

    @property
    def files(self) -> int:
        return self._sum("files") + storage.OTHER_FILES

    def part(self, stage: str) -> Part | None:
        return next((part for part in self.parts if part.stage == stage), None)

    def summary(self) -> str:
        """The section of `ditscale plan`."""
        hours = self.device_hours
        span = f"{units.compact(hours / self.factor)} to {units.compact(hours * self.factor)}"
        what = f"{units.compact(hours)} {self.device}-hours ({span})"
        lines = [f"price: {what}, {units.duration(self.wall_s)} by the clock with {self.at_once}"]
        head = ("", "trainings", f"{self.device}-hours", "clock", "longest", "disk", "at most", "data read", "files")
        widths = (-7, 9, max(9, len(head[2])), 8, 8, 9, 9, 9, 7)
        rows = [head] + [
            (p.stage, p.trainings, units.compact(p.device_hours), units.duration(p.wall_s), units.duration(p.longest_s),
             size(p.disk_bytes), size(p.peak_bytes), size(p.read_bytes), p.files)
            for p in self.parts
        ]  # fmt: skip
        lines += ["  " + " ".join(f"{v:{'<' if w < 0 else '>'}{abs(w)}}" for v, w in zip(r, widths)) for r in rows]
        whole = sum(r.total_s for r in self.runs) or 1.0
        start, measure = sum(r.executions * r.start_s for r in self.runs), sum(r.measure_s for r in self.runs)
        more = [f"{start / whole:.1%} of the time to start, {measure / whole:.1%} to validate and evaluate"]
        more += [f"{self.energy_j / 3.6e6:.3g} kWh"] * bool(self.energy_j)
        more += [f"{self.usd:,.2f} USD"] * bool(self.usd)
        requeued = sum(r.executions > 1 for r in self.runs)
        more += [f"{requeued} requeued at the longest time limit"] * bool(requeued)
        lines.append("  " + "; ".join(more))
        if self.probe_is_a_guess:
            lines.append("  the probe's size is a guess from the grid's, until there is a law")
        lines += [f"  speed: {source}" for source in self.sources]
        return "\n".join(lines)


def price(
    runs: Sequence[Run], study: Study, speeds: Speeds | None = None, machine: Machine | None = None,
    probe_is_a_guess: bool = False,
) -> Price:  # fmt: skip
    """The price of runs of a study, those that it names. machine: this one, where the cluster is local. Raises
    UserError where the cluster cannot execute a run."""
    speeds, machine, cluster = speeds or Speeds(), machine or Machine(), study.cluster
    trained = [run for run in runs if run.within not in {r.run_id for r in runs}]
    placed = {run.run_id: place_of(run, cluster, machine) for run in trained}
    taken = {run.run_id: times(run, placed[run.run_id], speeds) for run in trained}
    prices = [_of_run(run, study, placed[run.run_id], taken[run.run_id], runs) for run in trained]
    parts = [_part(stage, runs, prices, study, speeds, machine) for stage in STAGES]
    total = sum(p.device_hours for p in prices) or 1.0
    factor = math.exp(sum(p.device_hours * math.log(p.factor) for p in prices) / total)
    counted: dict[str, list[float]] = {}
    for p in prices:
        counted.setdefault(p.source, []).append(p.factor)
    sources = tuple(
        f"{name} ({len(f)} of {len(prices)} trainings, within a factor {max(f):.2g})" for name, f in counted.items()
    )
    budget = study.budget or Budget()
    device = "GPU" if any(place.gpu for place in placed.values()) else "core"
    made = tuple(part for part in parts if part)
    return Price(
        device,
        made,
        tuple(prices),
        factor,
        sources,
        budget.gpu_hours,
        _at_once(cluster, machine),
        probe_is_a_guess,
    )


def _of_run(run: Run, study: Study, place: Place, taken: Times, runs: Sequence[Run]) -> RunPrice:
    own = [run, *(r for r in runs if r.within == run.run_id)]
    work, executions = taken.train_s + taken.measure_s, 1
    if study.cluster.name == "slurm":
        limit = 3600 * study.cluster.max_time_h - study.cluster.signal_s
        _, executions = with_requeues(work, taken.start_s, max(limit, 60.0))
    hours = (executions * taken.start_s + work) * place.devices / 3600
    watts = (study.budget or Budget()).watts or taken.speed.watts
    return RunPrice(
        run.run_id, run.role, run.n_params, taken.start_s, taken.train_s, taken.measure_s, executions, hours,
        3600 * hours * watts, sum(map(storage.final_bytes, own)), storage.read_bytes(run),
        sum(map(storage.n_files, own)), taken.speed.source, taken.speed.factor,
    )  # fmt: skip


def _part(
    stage: str, runs: Sequence[Run], prices: Sequence[RunPrice], study: Study, speeds: Speeds, machine: Machine
) -> Part | None:
    stages = {run.run_id: run.stage for run in runs}
    own = {p.run_id: p for p in prices if stages[p.run_id] == stage}
    if not own:
        return None
    trained = [run for run in runs if run.run_id in own]
    every = [run for run in runs if run.run_id in own or run.within in own]
    hours = sum(p.device_hours for p in own.values())
    wall_s, at_once, idle = _wall(trained, own, study.cluster, speeds, machine)
    hours += idle
    longest = max(own.values(), key=lambda p: p.total_s)
    disk = sum(map(storage.final_bytes, every)) + sum(map(storage.record_bytes, every))
    largest = sorted((storage.resume_bytes(run) for run in trained), reverse=True)
    return Part(
        stage, len(own), len(every), hours, wall_s, longest.total_s, longest.run_id,
        sum(p.energy_j for p in own.values()), disk, disk + sum(largest[:at_once]),
        sum(p.read_bytes for p in own.values()), sum(p.files for p in own.values()),
        hours * (study.budget or Budget()).usd_per_gpu_hour,
    )  # fmt: skip


def _wall(
    trained: Sequence[Run], prices: dict[str, RunPrice], cluster: Cluster, speeds: Speeds, machine: Machine
) -> tuple[float, int, float]:
    """Seconds from the first start to the last end; how many runs train at once at most; and hours of devices that
    packed jobs hold while the last of their runs ends."""
    seconds = lambda run: prices[run.run_id].total_s
    if cluster.name == "local":
        order = sorted(trained, key=lambda run: (-run.budget_flops, -run.n_images))  # As launch/backends/local.py.
        slots = [place_of(run, cluster, machine).ranks for run in order]
        return makespan([seconds(run) for run in order], slots, machine.workers), machine.workers, 0.0
    order = sorted(trained, key=lambda run: -run.n_images * run.flops_per_image)
    wall_s, most, idle = 0.0, 0, 0.0
    for some in _batched(order, cluster.max_queued or len(order)):  # A launch submits no more; the next waits for all.
        by_class = classes(some, cluster, speeds)
        jobs = [[*_batched(own, what.size.pack)] for what, own in by_class.items()]
        limits = shares(cluster.parallel, [*map(len, jobs)])
        wall_s += max(makespan([max(map(seconds, job)) for job in own], 1, limit) for own, limit in zip(jobs, limits))
        most = max(most, sum(min(n or len(own), len(own)) * w.size.pack for own, n, w in zip(jobs, limits, by_class)))
        for job in (job for own in jobs for job in own):
            held = max(map(seconds, job)) * len(job) - sum(map(seconds, job))
            idle += held * place_of(job[0], cluster, machine).devices / 3600
    return wall_s, most, idle


def _batched(runs: Sequence[Run], n: int) -> Iterator[Sequence[Run]]:
    return (runs[i : i + n] for i in range(0, len(runs), n))


def _at_once(cluster: Cluster, machine: Machine) -> str:
    if cluster.name == "local":
        return f"{machine.workers} run{'s'[: machine.workers > 1]} at once"
    jobs = f"{cluster.parallel} jobs at once" if cluster.parallel else "all jobs at once (cluster.parallel=0)"
    return f"{jobs}, waiting in the queue not counted"


def with_probe(study: Study, runs: Sequence[Run]) -> tuple[list[Run], bool]:
    """The runs with the study's probe; and whether its size is a guess: the optimum of the study's prior, or the middle
    size of the largest budget grown with the root of the budget, as N* does under equal exponents."""
    if any(run.role == "probe" for run in runs):
        return [*runs], False
    grid = [run for run in runs if run.role == "grid"] or runs
    top = max(run.budget_flops for run in grid)
    sizes = sorted(run.n_params for run in grid if run.budget_flops == top)
    middle = sizes[len(sizes) // 2] * math.sqrt(study.probe_budget / top)
    guess = study.prior.optimum(study.probe_budget) if study.prior else middle
    try:
        probe = plan_probe(study, guess)
    except UserError:
        return [*runs], False
    return [*runs, replace(probe, rehearsal=None)], True


def size(n: float) -> str:
    """Bytes for people: 1.2 TiB."""
    for name in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < 1000:
            return f"{n:.3g} {name}"
        n /= 1024
    return f"{n:.3g} PiB"
