"""How a run is executed is settled when it is launched: ranks, threads and checkpoints are the cluster's, not the
plan's."""

from __future__ import annotations

from ..config import Cluster
from ..naming import StudyPaths
from ..plan.run import Run, executed
from ..plan.study import write_run


def settle(paths: StudyPaths, runs: list[Run], cluster: Cluster, ranks: int):
    """Write the execution of runs that are to start into their run.yaml, where it says otherwise. Raises UserError
    where that cannot be written."""
    for run in runs:
        settled = executed(run, cluster, ranks)
        if settled != run:
            write_run(paths, settled)
