"""What each run asks of Slurm; runs that ask for the same share an array."""

import math
from collections import defaultdict
from dataclasses import dataclass, replace

from .. import units
from ..config import Cluster, Size
from ..errors import UserError
from ..naming import StudyPaths
from ..plan.run import Execution, Run
from ..plan.study import write_run

START_S = 300  # to load Python, torch and the data from a slow file system
HOURS = (0.25, 0.5, 1, 2, 4, 8, 12, 24, 48, 72, 96, 168)  # Few time limits make few arrays.


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


def resources(run: Run, cluster: Cluster) -> Resources:
    """The class of a run. Raises UserError when no row is large enough, or its batch does not divide over the ranks."""
    size = next((s for s in cluster.sizes if run.n_params <= s.up_to_params), None)
    if size is None:
        end = units.count(cluster.sizes[-1].up_to_params)
        has = f"run {run.run_id} has {units.count(run.n_params)} parameters"
        raise UserError(f"{has}, and cluster.sizes ends at {end}; add a row for it")
    ranks = size.nodes * size.ranks
    if run.recipe.batch_size % ranks:
        batch = f"a batch of {run.recipe.batch_size} images does not divide over the {ranks} ranks"
        raise UserError(f"run {run.run_id}: {batch} that cluster.sizes gives it; change nodes or ranks of that row")
    training = (run.n_images + run.branch_images) * run.flops_per_image
    measuring = (1 + len(run.readings)) * run.evaluation_flops  # Nested runs have their parent's size and settings.
    takes = (training + measuring) / (ranks * size.flops_per_s)
    seconds = START_S + cluster.margin * (run.rehearsal.seconds if run.rehearsal else takes)
    hours = min(next((h for h in HOURS if 3600 * h >= seconds), HOURS[-1]), cluster.max_time_h)
    return Resources(size, max(1, math.ceil(60 * hours)))


def classes(runs: list[Run], cluster: Cluster) -> dict[Resources, list[Run]]:
    """Runs by what they ask for; the class with the longest run first, and in a class the longest run."""
    found: dict[Resources, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda r: -r.n_images * r.flops_per_image):
        found[resources(run, cluster)].append(run)
    return dict(found)


def shares(total: int, counts: list[int]) -> list[int]:
    """Split "at most `total` at once" over arrays of `counts` tasks: in proportion, at least 1 each; 0 is no limit."""
    if not total:
        return [0] * len(counts)
    given = [1] * len(counts)
    while sum(given) < min(total, sum(counts)):
        needy = max((i for i in range(len(counts)) if given[i] < counts[i]), key=lambda i: counts[i] / given[i])
        given[needy] += 1
    return given


def settle(paths: StudyPaths, runs: list[Run], cluster: Cluster, ranks: int):
    """Write into each run.yaml how the run is executed on this cluster, where it differs. Raises UserError."""
    for run in runs:
        settled = replace(run, execution=Execution.on(cluster, ranks))
        if settled != run:
            write_run(paths, settled)
