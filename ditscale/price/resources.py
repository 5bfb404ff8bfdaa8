"""Where each run executes: what it takes of a machine or asks of Slurm; runs that ask for the same share an array."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .. import units
from ..config import Cluster, Size
from ..errors import UserError
from ..plan.run import Run
from .speed import Estimate, Speeds

START_S = 300  # to load Python, torch and the data from a slow file system
HOURS = (0.25, 0.5, 1, 2, 4, 8, 12, 24, 48, 72, 96, 168)  # Few time limits make few arrays.
WORTH_FLOPS = 1.5e8  # Of a step, per thread: with less work, threads wait for each other.


@dataclass(frozen=True)
class Machine:
    """This machine, as a local launch uses it: runs at once, and GPUs (0: none)."""

    workers: int = 1
    gpus: int = 0


@dataclass(frozen=True)
class Place:
    """What one run takes: ranks of so many threads, and devices: its GPUs, or cores where it has none."""

    ranks: int
    threads: int
    gpu: bool
    devices: float
    stated: float = 0.0  # FLOP/s of a rank in the cluster's table


@dataclass(frozen=True)
class Times:
    """Seconds of a run's job, without waiting in a queue."""

    start_s: float
    train_s: float
    measure_s: float  # validation and evaluation, of the runs nested in it too
    speed: Estimate

    @property
    def total_s(self) -> float:
        return self.start_s + self.train_s + self.measure_s


@dataclass(frozen=True)
class Resources:
    """A resource class: a row of the cluster's table, and a time limit in minutes."""

    size: Size
    minutes: int

    @property
    def ranks(self) -> int:
        return self.size.nodes * self.size.ranks

    def __str__(self) -> str:
        nodes = f"{self.size.nodes} nodes, " if self.size.nodes > 1 else ""
        gpus = f"{self.size.gpus * self.size.nodes} GPU, " if self.size.gpus else ""
        packed = f"{self.size.pack} runs a job, " if self.size.pack > 1 else ""
        return f"{packed}{nodes}{gpus}{self.ranks} rank{'s'[: self.ranks > 1]}, {units.duration(60 * self.minutes)}"


def row_of(run: Run, cluster: Cluster) -> Size:
    """The row of the cluster's table that holds a run. Raises UserError where none does, or its batch does not fit."""
    size = next((s for s in cluster.sizes if run.n_params <= s.up_to_params), None)
    if size is None:
        end = units.count(cluster.sizes[-1].up_to_params)
        has = f"run {run.run_id} has {units.count(run.n_params)} parameters"
        raise UserError(f"{has}, and cluster.sizes ends at {end}; add a row for it")
    ranks = size.nodes * size.ranks
    if run.recipe.batch_size % ranks:
        batch = f"a batch of {run.recipe.batch_size} images does not divide over the {ranks} ranks"
        raise UserError(f"run {run.run_id}: {batch} that cluster.sizes gives it; change nodes or ranks of that row")
    return size


def place_here(run: Run, cluster: Cluster, machine: Machine) -> Place:
    """A run on this machine. The probe, which runs alone, has as many ranks, up to `cluster.probe_ranks` or the GPUs,
    as divide its batch; without either it has all threads that it can use."""
    ranks, threads = 1, cluster.threads
    most = min(cluster.probe_ranks or machine.gpus, machine.gpus or cluster.probe_ranks)
    if run.role == "probe" and most:
        ranks = next(n for n in range(most, 0, -1) if run.recipe.batch_size % n == 0)
    elif run.role == "probe":
        worth = round(run.flops_per_image * run.recipe.batch_size / WORTH_FLOPS)
        threads = max(threads, min(worth, threads * machine.workers))
    sharing = -(-machine.workers // machine.gpus) if machine.gpus and run.role != "probe" else 1
    devices = ranks / sharing if machine.gpus else ranks * threads
    return Place(ranks, threads, machine.gpus > 0, devices)


def place_of(run: Run, cluster: Cluster, machine: Machine) -> Place:
    """Where the study's cluster executes a run. Raises UserError as `row_of`."""
    if cluster.name == "local":
        return place_here(run, cluster, machine)
    size = row_of(run, cluster)
    ranks, gpus = size.nodes * size.ranks, size.nodes * size.gpus
    devices = gpus / size.pack if gpus else ranks * cluster.threads
    return Place(ranks, cluster.threads, gpus > 0, devices, size.flops_per_s)


def times(run: Run, place: Place, speeds: Speeds) -> Times:
    """How long a run's job takes, with the runs nested in it, which have its size and its settings."""
    speed = speeds.of(run, place.gpu, place.threads, place.stated)
    if run.rehearsal:
        return Times(speed.start_s, run.rehearsal.seconds, 0.0, speed)
    flops = (run.n_images + run.branch_images) * run.flops_per_image
    measure = (1 + len(run.readings)) * speed.measure_s(run, place.ranks)
    return Times(speed.start_s, flops / (speed.flops_per_s * place.ranks), measure, speed)


def resources(run: Run, cluster: Cluster, speeds: Speeds | None = None) -> Resources:
    """The class of a run. Raises UserError as `row_of`."""
    takes = times(run, place_of(run, cluster, Machine()), speeds or Speeds())
    seconds = START_S + cluster.margin * (takes.train_s + takes.measure_s)
    hours = min(next((h for h in HOURS if 3600 * h >= seconds), HOURS[-1]), cluster.max_time_h)
    return Resources(row_of(run, cluster), max(1, math.ceil(60 * hours)))


def classes(runs: Sequence[Run], cluster: Cluster, speeds: Speeds | None = None) -> dict[Resources, list[Run]]:
    """Runs by what they ask for; the class with the longest run first, and in a class the longest run."""
    found: dict[Resources, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda r: -r.n_images * r.flops_per_image):
        found[resources(run, cluster, speeds)].append(run)
    return dict(found)
