"""A rehearsal: a dry run of a study from end to end, with simulated losses and injected faults, then a check that no
run was lost. It is a study of its own in DIR/rehearsal."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from .. import units
from ..collect.table import collect
from ..config import Rehearsal, Study, check
from ..errors import UserError
from ..files import write_text
from ..launch.backends.limits import array_limit
from ..launch.monitor.status import DONE, RunStatus
from ..launch.wait import bring_to_end
from ..laws import fit, read_table
from ..laws.synthetic import Truth
from ..logs import log
from ..naming import StudyPaths
from ..pipeline import write_json
from ..plan.grid import plan_grid
from ..plan.study import plan_run, write_study
from ..report.page import write_report
from .account import Account, account
from .faults import Injector, check_nodes

MAX_LAUNCHES = 20  # Launches after which the rehearsal makes no progress.
PROGRESS_S = 10.0  # Seconds between messages about progress.
E, ALPHA, BETA, LOSS = 0.2, 0.35, 0.35, 0.65  # LOSS: at the optimum of the middle budget.
CHECKPOINTS = 4  # Checkpoints of a run.


def rehearse(
    root: str, study: Study, *, seconds: float, noise: float, seed: int, faults: float, nodes: int | None
) -> Account:
    """Rehearse `study` in root/rehearsal and account for it. An interrupted rehearsal resumes where it stopped.
    seconds: duration of each run's steps. noise: log-normal scatter of a loss. faults: share of the runs that is hit.
    nodes: how many nodes are lost (None: as check_nodes). Raises UserError when it was done before, or cannot begin."""
    nodes = check_nodes(nodes, study.cluster.name)
    if study.cluster.name == "slurm":
        array_limit()
    paths = StudyPaths(Path(root) / "rehearsal")
    if (paths.root / "rehearsal.json").exists():
        raise UserError(f"{paths.root}: was rehearsed already (see rehearsal.md); delete it to rehearse again")
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


def rehearsal_of(study: Study, seconds: float, noise: float, seed: int) -> Study:
    """The study with losses of a surface whose optimum at the middle budget is the middle size. Raises UserError."""
    if study.rehearsal:
        raise UserError("this study is a rehearsal itself; rehearse the study it belongs to")
    planned = plan_grid(study)
    mean = float(np.mean(np.log(study.budgets)))
    budget = min(study.budgets, key=lambda b: abs(np.log(b) - mean))
    sizes = np.log([run.n_params for run in planned.runs if run.budget_flops == budget and run.role == "grid"])
    middle = float(np.exp((sizes.min() + sizes.max()) / 2))
    # kappa is C / (N D), the median over the planned runs, as the fit takes it.
    kappa = float(np.median([r.achieved_flops / (r.n_params * r.n_tokens) for r in planned.runs]))
    truth = Truth.anchored(E, ALPHA, BETA, middle, LOSS, budget, kappa)
    surface = {name: float(f"{getattr(truth, name):.6g}") for name in ("E", "A", "B", "alpha", "beta")}
    rehearsal = Rehearsal(**surface, noise=noise, seconds=seconds, seed=seed)
    check(rehearsal, "rehearsal")
    cluster = replace(study.cluster, checkpoint_s=max(seconds / CHECKPOINTS, 0.01))
    return replace(study, rehearsal=rehearsal, cluster=cluster)


class Watcher:
    """Logs the progress of a rehearsal. done: whether every run is. slowest_s: the slowest reading of the status."""

    def __init__(self, began: float):
        self.began, self.done, self.slowest_s, self.reported = began, False, 0.0, -PROGRESS_S

    def show(self, statuses: list[RunStatus], took_s: float):
        self.done = all(s.state in DONE for s in statuses)
        self.slowest_s = max(self.slowest_s, took_s)
        if self.done or time.monotonic() - self.reported > PROGRESS_S:
            self.reported = time.monotonic()
            states = ", ".join(f"{n} {state}" for state, n in Counter(s.state for s in statuses).most_common())
            log.info(f"{units.duration(time.time() - self.began):>7}  {states}")
