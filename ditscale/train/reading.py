"""Readings: runs that are the beginning of this one (plan/nest.py), measured on the way as if they had been trained alone."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Callable

from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..store.lock import Held, RunLock
from ..store.record import read_state
from .ranks import Ranks
from .writer import Writer, holding


class Readings:
    """Those of a run that are still to be made. Known to all ranks alike."""

    def __init__(self, at: RunPaths, run: Run, ranks: Ranks):
        runs_dir, self.ranks = at.root.parent, ranks
        found = [RunPaths(runs_dir / run_id) for run_id in run.readings]
        waiting = [shorter for shorter in found if ranks.first and shorter.run.is_file() and _is_ours(shorter)]
        waiting = ranks.share(waiting)
        self.at = {read_run(shorter.run).n_images: shorter for shorter in waiting}

    def due(self, images: int) -> bool:
        return images in self.at

    def make(self, images: int, rows: Callable, measure: Callable[[RunPaths, Run, Writer | None], None]):
        """Write the run that ends at so many images: `rows(n)` are the first n of this run's record, `measure` does the rest, on all ranks.

        One that somebody trains at this moment is left to them.
        """
        at = self.at.pop(images)
        run, lock = read_run(at.run), None
        if self.ranks.first:
            try:
                lock = RunLock(at.lock)
            except Held as holder:
                print(f"not read: {holder}", flush=True)
        if not self.ranks.share(lock is not None):
            return
        with holding(at, lock) if lock else nullcontext():
            with Writer(at, run, 0, self.ranks.world) if lock else nullcontext() as writer:
                if writer:
                    writer.write_steps(0, rows(run.steps))
                measure(at, run, writer)


def _is_ours(at: RunPaths) -> bool:
    """Whether a run is neither done nor begun on its own."""
    alone = at.attempts.is_dir() and any(os.scandir(at.attempts))
    return not alone and read_state(at.metrics) not in ("finished", "diverged")
