"""How a run is executed is settled when it is launched: ranks, threads and checkpoints are the cluster's, not the plan's."""

from __future__ import annotations

from typing import Iterable

from ..config import Cluster
from ..naming import StudyPaths
from ..plan.run import Run, executed
from ..plan.study import write_run


def settle(paths: StudyPaths, runs: Iterable[Run], cluster: Cluster, ranks: int) -> list[Run]:
    """Write the execution of runs that are to start into their run.yaml, where it says otherwise; returns them so.

    Raises UserError where that cannot be written.
    """
    settled = [executed(run, cluster, ranks) for run in runs]
    for run, before in zip(settled, runs):
        if run != before:
            write_run(paths, run)
    return settled
