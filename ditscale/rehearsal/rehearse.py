"""A study rehearsed: the same plan and the same launcher, runs whose losses are known, and faults; then an account.

The rehearsal is a study of its own in DIR/rehearsal, marked in its study.yaml, its runs, records and tables.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

from .. import units
from ..collect.table import collect
from ..config import Study
from ..errors import UserError
from ..launch.monitor.status import DONE, RunStatus
from ..launch.wait import bring_to_end
from ..laws import fit, read_table
from ..naming import StudyPaths
from ..pipeline import write_json
from ..plan.grid import plan_grid
from ..plan.study import plan_run, write_study
from ..report.page import write_report
from .account import Account, account, write
from .faults import Injector, check_nodes
from .surface import rehearsal_of

LAUNCHES = 20  # more than that is no progress


def rehearse(
    root: str, study: Study, *, seconds: float, noise: float, seed: int, faults: float, nodes: int | None
) -> Account:
    """Rehearse `study` in root/rehearsal and account for it. An interrupted rehearsal goes on where it stopped.

    seconds: of each run's steps; noise: log-normal, of a loss; faults: share of the runs that is hit; nodes: how many
    are lost (None: one, on the cluster of slurm/local). Raises UserError when it is finished already, or cannot begin.
    """
    nodes = check_nodes(nodes, study.cluster.name)
    if study.cluster.name == "slurm" and shutil.which("sbatch") is None:
        raise UserError("sbatch is not on the PATH; run on a login node of the cluster, or take cluster=local")
    paths = StudyPaths(Path(root) / "rehearsal")
    if (paths.root / "rehearsal.json").exists():
        raise UserError(
            f"{paths.root}: was rehearsed already (rehearsal.md tells); to do it again delete that directory"
        )
    began = time.time()
    marked = rehearsal_of(study, seconds, noise, seed)
    planned = plan_grid(marked)
    write_study(paths.root, marked)
    for run in planned.runs:
        plan_run(paths, run)
    print(f"REHEARSAL in {paths.root}: {len(planned.runs)} runs, {marked.rehearsal}", flush=True)
    watcher = Watcher(paths, began)
    with Injector(paths, study.cluster.name, faults, nodes, seed):
        while not watcher.done and watcher.launches < LAUNCHES:
            watcher.launches += 1
            watcher.look(bring_to_end(paths, marked.cluster, "grid", watcher.look), 0.0)
    wall_s = time.time() - began

    print(collect(paths.root).summary())
    budget = units.compact(study.probe_budget)
    laws = fit(read_table(paths.root), targets=(budget,))
    write_json(paths.laws, laws.to_dict())
    print(f"report: {write_report(paths.root)}")
    made = account(paths, laws, watcher.launches, wall_s, watcher.slowest_s)
    write(paths, made)
    return made


class Watcher:
    """What the rehearsal has come to: a line now and then, the slowest status, whether every run is done."""

    EVERY_S = 10.0

    def __init__(self, paths: StudyPaths, began: float):
        self.paths, self.began = paths, began
        self.launches, self.done, self.slowest_s, self.last = 0, False, 0.0, 0.0

    def look(self, statuses: list[RunStatus], took_s: float):
        """Take note of a study's status, which took so long to find."""
        self.done = all(s.state in DONE for s in statuses)
        self.slowest_s = max(self.slowest_s, took_s)
        if self.done or time.monotonic() - self.last > self.EVERY_S:
            self.last = time.monotonic()
            states = Counter(s.state for s in statuses)
            after = units.duration(time.time() - self.began)
            print(f"{after:>7}  {', '.join(f'{n} {state}' for state, n in states.most_common())}", flush=True)
