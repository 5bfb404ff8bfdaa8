"""A rehearsal: a dry run of a study from end to end, with simulated losses and injected faults, then a check that no
run was lost. It is a study of its own in DIR/rehearsal, marked in its study.yaml, its runs, records and tables.
"""

import shutil
import time
from collections import Counter
from pathlib import Path

from .. import units
from ..collect.table import collect
from ..config import Study
from ..errors import UserError
from ..files import write_text
from ..launch.monitor.status import DONE, RunStatus
from ..launch.wait import bring_to_end
from ..laws import fit, read_table
from ..logs import log
from ..naming import StudyPaths
from ..pipeline import write_json
from ..plan.grid import plan_grid
from ..plan.study import plan_run, write_study
from ..report.page import write_report
from .account import Account, account
from .faults import Injector, check_nodes
from .surface import rehearsal_of

MAX_LAUNCHES = 20  # Launches after which the rehearsal makes no progress.
PROGRESS_S = 10.0  # Seconds between messages about progress.


def rehearse(
    root: str, study: Study, *, seconds: float, noise: float, seed: int, faults: float, nodes: int | None
) -> Account:
    """Rehearse `study` in root/rehearsal and account for it. An interrupted rehearsal resumes where it stopped.

    seconds: duration of each run's steps. noise: log-normal scatter of a loss. faults: share of the runs that is hit.
    nodes: how many nodes are lost (None: one, on the cluster of slurm/local). Raises UserError when the rehearsal is
    finished already, or cannot begin.
    """
    nodes = check_nodes(nodes, study.cluster.name)
    if study.cluster.name == "slurm" and shutil.which("sbatch") is None:
        raise UserError("sbatch is not on the PATH; run on a login node of the cluster, or use cluster=local")
    paths = StudyPaths(Path(root) / "rehearsal")
    if (paths.root / "rehearsal.json").exists():
        raise UserError(
            f"{paths.root}: was rehearsed already (see rehearsal.md); delete that directory to rehearse again"
        )
    began = time.time()
    marked = rehearsal_of(study, seconds, noise, seed)
    planned = plan_grid(marked)
    write_study(paths.root, marked)
    for run in planned.runs:
        plan_run(paths, run)
    log.info(f"REHEARSAL in {paths.root}: {len(planned.runs)} runs, {marked.rehearsal}")
    watcher, launches = Watcher(began), 0
    with Injector(paths, study.cluster.name, faults, nodes, seed):
        while not watcher.done and launches < MAX_LAUNCHES:
            launches += 1
            watcher.show(bring_to_end(paths, marked.cluster, "grid", watcher.show), 0.0)
    wall_s = time.time() - began

    log.info(collect(paths.root).summary())
    laws = fit(read_table(paths.root), targets=(units.compact(study.probe_budget),))
    write_json(paths.laws, laws.to_dict())
    log.info(f"report: {write_report(paths.root)}")
    result = account(paths, laws, launches, wall_s, watcher.slowest_s)
    write_json(paths.root / "rehearsal.json", result.to_dict())
    write_text(paths.root / "rehearsal.md", result.summary() + "\n")
    return result


class Watcher:
    """Logs the progress of a rehearsal. done: whether every run is. slowest_s: the slowest reading of the status."""

    def __init__(self, began: float):
        self.began, self.done, self.slowest_s, self.reported = began, False, 0.0, -PROGRESS_S

    def show(self, statuses: list[RunStatus], took_s: float):
        """Take note of a study's status, and the seconds it took to read."""
        self.done = all(s.state in DONE for s in statuses)
        self.slowest_s = max(self.slowest_s, took_s)
        if self.done or time.monotonic() - self.reported > PROGRESS_S:
            self.reported = time.monotonic()
            states = ", ".join(f"{n} {state}" for state, n in Counter(s.state for s in statuses).most_common())
            log.info(f"{units.duration(time.time() - self.began):>7}  {states}")
