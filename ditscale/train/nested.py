"""Nested runs: those that begin as this one does (plan/nest.py), measured on the way as if they were trained alone."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from ..distributed.ranks import Ranks
from ..errors import UserError
from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..rundir.lock import LockHeld, RunLock
from ..rundir.outcomes import Diverged
from ..rundir.record import read_state
from ..rundir.session import Writer, owning_run
from .checkpointer import Checkpointer
from .state import State


class NestedRuns:
    """Those of a run that are still to be made. Known to all ranks alike."""

    def __init__(self, at: RunPaths, run: Run, ranks: Ranks):
        runs_dir, self.ranks = at.root.parent, ranks
        found = [RunPaths(runs_dir / run_id) for run_id in run.readings]
        waiting = [shorter for shorter in found if ranks.first and shorter.run.is_file() and _is_ours(shorter)]
        waiting = ranks.broadcast(waiting)
        self.waiting: dict[int, list[tuple[RunPaths, Run]]] = {}  # by the images at which they are due
        for shorter in waiting:
            run = read_run(shorter.run)
            self.waiting.setdefault(run.stable_images, []).append((shorter, run))

    def due(self, images: int) -> bool:
        return images in self.waiting

    def take(self, images: int) -> tuple[RunPaths, Run]:
        """A run that is to be read at so many images; it is not due any more."""
        taken = self.waiting[images].pop(0)
        if not self.waiting[images]:
            del self.waiting[images]
        return taken

    @contextmanager
    def locked(self, at: RunPaths) -> Iterator[bool]:
        """Hold a run's lock; False where somebody trains it at this moment: it is left to them."""
        lock = None
        if self.ranks.first:
            try:
                lock = RunLock(at.lock)
            except LockHeld as holder:
                print(f"not read: {holder}", flush=True)
        free = self.ranks.broadcast(lock is not None)
        with owning_run(at, lock) if lock else nullcontext():
            yield free

    def writer(self, at: RunPaths, run: Run, images: int, rows: Callable[[int], np.ndarray]):
        """The run's Writer, on the first rank, None on others; its record begins with the rows of the steps it has in
        common with this run: `rows(n)` are this run's first n. `images`: where its own training begins or goes on, or
        its end."""
        if not self.ranks.first:
            return nullcontext()
        return Writer(at, run, images, self.ranks.world, rows(run.stable_images // run.recipe.batch_size))


def _is_ours(at: RunPaths) -> bool:
    """Whether a run is neither done nor begun on its own."""
    alone = at.attempts.is_dir() and any(os.scandir(at.attempts))
    return not alone and read_state(at.metrics) not in ("finished", "diverged")


@contextmanager
def branch(state: State, shards: Checkpointer, run: Run, shorter: Run, directory: Path) -> Iterator[None]:
    """In here state and checkpoints are those of the run `shorter`, whose checkpoints are in `directory`; afterwards
    they are again those of `run`, to the bit, for the first thing done is to save it.

    Where an attempt was interrupted in here, the next comes by here again, and goes on from the newest checkpoint of
    `shorter`. That `shorter` diverged is its own affair. Whatever else is raised in here passes through: the state is
    then still that of `shorter`.
    """
    own, images = shards.directory, state.images
    shards.save(state.facts(run))
    shards.settle()
    shards.directory = directory
    found = shards.load_newest(shorter.run_id)
    if found:
        state.restore(found, run.recipe.batch_size)
    try:
        yield
    except Diverged as reason:
        print(reason, flush=True)
    shards.settle()
    shards.directory = own
    found = shards.load_newest(run.run_id)
    if not found or found["images"] != images:
        raise UserError(
            f"{own}: the checkpoint at {images} images, just written, cannot be read back; the same command goes on "
            "from the one before"
        )
    state.restore(found, run.recipe.batch_size)
