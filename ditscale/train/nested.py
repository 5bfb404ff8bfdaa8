"""Nested runs: those that begin as a longer run does, their parent (plan/nest.py), and are measured on its way as if
each had been trained alone.

A nested run whose learning rate cools down at its end branches off where that begins: its cool-down is trained, and the
parent run resumes from where it was.
"""

from __future__ import annotations

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
from ..rundir.session import Writer, holding
from . import finalize
from .segment import Trainer, TrainingSetup


def find_due(at: RunPaths, parent: Run, ranks: Ranks) -> dict[int, list[tuple[RunPaths, Run]]]:
    """The nested runs of `parent` that are still to be measured, by the images at which they are due."""
    found = [RunPaths(at.root.parent / run_id) for run_id in parent.readings]
    # Rank 0 looks, so that all ranks know the same.
    unmeasured = ranks.broadcast([nested for nested in found if ranks.first and _is_ours(nested)])
    due: dict[int, list[tuple[RunPaths, Run]]] = {}
    for nested in unmeasured:
        run = read_run(nested.run)
        due.setdefault(run.stable_images, []).append((nested, run))
    return due


def _is_ours(at: RunPaths) -> bool:
    """Whether a nested run is planned, neither finished nor diverged, and was never started on its own."""
    if not at.run.is_file() or (at.attempts.is_dir() and any(os.scandir(at.attempts))):
        return False
    return read_state(at.metrics) not in ("finished", "diverged")


def measure(setup: TrainingSetup, parent: Run, at: RunPaths, run: Run, parent_writer: Writer | None):
    """Measure the nested run `run`, which is due where the state is, and write its directory `at`.

    Raises Stopped when a signal asked for a stop. Where the run has a cool-down, the state may then be that of the
    nested run, and the parent run was saved.
    """
    setup.step.release()
    if parent_writer:
        parent_writer.beat("reading", setup.state.images, setup.state.loss_ema, force=True)
    with _branch(setup, parent, at, run) if has_cooldown(run) else nullcontext():
        with _locked(at, setup.ranks) as is_free:
            if is_free:
                _train_and_measure(setup, at, run, parent_writer)


def has_cooldown(run: Run) -> bool:
    """Whether a run has training of its own to do after what it has in common with its parent."""
    return run.stable_images < run.n_images


def _train_and_measure(setup: TrainingSetup, at: RunPaths, run: Run, parent_writer: Writer | None):
    state, ranks = setup.state, setup.ranks
    common_steps = run.stable_images // run.recipe.batch_size
    with (
        Writer(at, run, state.images, ranks.world, parent_writer.record.file["steps"][:common_steps])
        if parent_writer
        else nullcontext()
    ) as writer:
        if has_cooldown(run):
            Trainer(setup, at, run, writer, parent_writer).train_until(run.n_images)
            setup.checkpointer.wait()
            setup.step.release()
        finalize.validate(state, setup.held_out, run, ranks, writer)
        finalize.save_final(at, run, state, ranks, writer)
        finalize.evaluate(at, run, ranks, setup.stop, writer, parent_writer)
        if writer:
            writer.finish()


@contextmanager
def _locked(at: RunPaths, ranks: Ranks) -> Iterator[bool]:
    """Hold the lock of a nested run. Gives False where another process trains that run just now: then it keeps it."""
    lock = None
    if ranks.first:
        try:
            lock = RunLock(at.lock)
        except LockHeld as holder:
            log.info(f"nested run not measured here: {holder}")
    is_free = ranks.broadcast(lock is not None)
    with holding(at, lock) if lock else nullcontext():
        yield is_free


@contextmanager
def _branch(setup: TrainingSetup, parent: Run, at: RunPaths, run: Run) -> Iterator[None]:
    """In here, state and checkpoints are those of the nested run `run`. Afterwards they are those of `parent` again, to
    the bit, because the first thing done is to save it.

    An attempt that is interrupted in here leaves checkpoints of `run`; the next attempt resumes from the newest of
    them. If `run` diverges, the parent run is unaffected. Any other exception passes through, and the state is then
    still that of `run`.
    """
    state, checkpointer = setup.state, setup.checkpointer
    own_directory, images = checkpointer.directory, state.images
    checkpointer.save(state.facts(parent))
    checkpointer.wait()
    checkpointer.directory = at.checkpoint
    facts = checkpointer.load_newest(run.run_id)
    if facts:
        state.restore(facts, run.recipe.batch_size)
    try:
        yield
    except Diverged as reason:
        log.info(str(reason))
    checkpointer.wait()
    checkpointer.directory = own_directory
    facts = checkpointer.load_newest(parent.run_id)
    if not facts or facts["images"] != images:
        raise UserError(
            f"{own_directory}: the checkpoint at {images} images, just written, cannot be read back; rerun the same "
            "command to resume from the one before"
        )
    state.restore(facts, parent.recipe.batch_size)
