"""Nested runs begin as a longer run does, their parent (plan/nest.py), and are measured on its way as if trained alone.
One whose rate cools down branches off where that begins: after its cool-down the parent resumes from where it was."""

import os
from contextlib import contextmanager, nullcontext
from typing import Iterator

from ..distributed.ranks import Ranks
from ..errors import UserError
from ..logs import log
from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..rundir.lock import LockHeld, RunLock
from ..rundir.outcomes import Diverged
from ..rundir.record import read_state
from ..rundir.session import Writer, owning_run
from . import finalize
from .segment import Trainer, TrainingSetup


def find_due(at: RunPaths, parent: Run, ranks: Ranks) -> dict[int, list[tuple[RunPaths, Run]]]:
    """The nested runs of `parent` that are still to be measured, by the images at which they are due."""
    directories = [RunPaths(at.root.parent / run_id) for run_id in parent.readings]
    unmeasured = ranks.broadcast([nested for nested in directories if ranks.first and _is_to_be_measured(nested)])
    due: dict[int, list[tuple[RunPaths, Run]]] = {}
    for nested in unmeasured:
        run = read_run(nested.run)
        due.setdefault(run.stable_images, []).append((nested, run))
    return due


def _is_to_be_measured(at: RunPaths) -> bool:
    begun = at.attempts.is_dir() and any(os.scandir(at.attempts))
    return at.run.is_file() and not begun and read_state(at.metrics) not in ("finished", "diverged")


class NestedWriter(Writer):
    """The Writer of a nested run. With its heartbeat goes that of the parent run, which waits for it."""

    def __init__(self, at: RunPaths, run: Run, images: int, ranks: int, parent: Writer):
        self.parent = parent
        common = parent.record.file["steps"][: run.stable_images // run.recipe.batch_size]
        super().__init__(at, run, images, ranks, common)

    def beat(self, phase: str, images: int, loss: float | None, force: bool = False):
        super().beat(phase, images, loss, force)
        self.parent.beat("reading", self.run.stable_images, None)


def measure(setup: TrainingSetup, parent: Run, at: RunPaths, run: Run, parent_writer: Writer | None):
    """Measure the nested run `run`, which is due where the state is, and write its directory `at`. Raises Stopped when
    a signal asked for that; after a cool-down the state may then be the nested run's, but the parent was saved."""
    state, ranks = setup.state, setup.ranks
    setup.step.release()
    if parent_writer:
        parent_writer.beat("reading", state.images, state.loss_ema, force=True)
    with _branch(setup, parent, at, run) if has_cooldown(run) else nullcontext(), _locked(at, ranks) as is_free:
        if not is_free:
            return
        with (
            NestedWriter(at, run, state.images, ranks.world, parent_writer) if parent_writer else nullcontext()
        ) as writer:
            if has_cooldown(run):
                Trainer(setup, at, run, writer).train_until(run.n_images)
                setup.step.release()
            finalize.validate(setup, run, writer)
            finalize.save_final(setup, at, run, writer)
            finalize.evaluate(at, run, ranks, setup.stop, writer)
            if writer:
                writer.finish()


def has_cooldown(run: Run) -> bool:
    return run.stable_images < run.n_images


@contextmanager
def _locked(at: RunPaths, ranks: Ranks) -> Iterator[bool]:
    """Hold the lock of a nested run. Gives False where another process trains that run, which then measures it."""
    lock = None
    if ranks.first:
        try:
            lock = RunLock(at.lock)
        except LockHeld as holder:
            log.info(f"nested run not measured here: {holder}")
    is_free = ranks.broadcast(lock is not None)
    with owning_run(at, lock) if lock else nullcontext():
        yield is_free


@contextmanager
def _branch(setup: TrainingSetup, parent: Run, at: RunPaths, run: Run) -> Iterator[None]:
    """In here, state and checkpoints are those of the nested run `run`. Afterwards they are again, to the bit, those of
    `parent`, which is saved first. Any exception but Diverged passes through; the state is then still that of `run`."""
    state, checkpointer = setup.state, setup.checkpointer
    own_directory, images = checkpointer.directory, state.images
    checkpointer.save(state.facts(parent))
    checkpointer.wait()
    checkpointer.directory = at.checkpoint
    if facts := checkpointer.load_newest(run.run_id):
        state.restore(facts, run.recipe.batch_size)
    try:
        yield
    except Diverged as reason:
        log.info(str(reason))
    checkpointer.wait()
    checkpointer.directory = own_directory
    facts = checkpointer.load_newest(parent.run_id)
    if not facts or facts["images"] != images:
        unread = f"the checkpoint at {images} images, just written, cannot be read back"
        raise UserError(f"{own_directory}: {unread}; rerun the same command to resume from the one before")
    state.restore(facts, parent.recipe.batch_size)
