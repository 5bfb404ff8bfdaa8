"""The training of one run, from its directory alone. To resume: the same call again.

One clock, images seen, drives schedule, EMA, checkpoints and resume. Data, noise and timesteps are functions of
(seed, position), so a resumed run repeats exactly what the interrupted one would have done.
"""

from __future__ import annotations

import gc
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from ..data.captions import Dropout
from ..data.open import open_source
from ..data.source import Source
from ..diffusion.rectified_flow import Noise
from ..distributed.ranks import Ranks, start
from ..errors import UserError
from ..evaluate import run as evaluation
from ..evaluate.finished import has_final
from ..evaluate.held_out import HeldOut, check_makers
from ..evaluate.settings import Settings
from ..model.compile import compiles, speed_up
from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..plan.schedule import rate_factor
from ..rundir import checkpoints, micro_batch
from ..rundir.lock import RunLock
from ..rundir.outcomes import Diverged, OutOfMemory, RankLost, Stopped
from ..rundir.record import STEP, is_full, read_state
from ..rundir.session import Writer, owning_run, smoothed
from ..rundir.signals import StopFlag
from . import attention_backend, finalize
from .batches import stream
from .checkpointer import Checkpointer
from .gradient_accumulation import GradientAccumulation
from .heap import keep_freed_memory
from .nested import NestedRuns, branch
from .state import State, build
from .step import Step
from .throughput import ThroughputMeter, device_name

SYNC_STEPS = 16  # steps between looks at the device: losses, stop requests and checkpoints wait for one
EXPLODED = 10.0  # a smoothed loss above this is a diverged run: an untrained model starts near 1
MIN_UNSAVED_S = 10.0  # of training: less is not saved once more before validation
CHECKPOINT_LIKELY_S = 2.0  # of training still to come: such a run is likely to need a checkpoint
MAX_NONFINITE_STEPS = 10  # so many steps in a row without a finite gradient are a diverged run too


@dataclass
class Attempt:
    """What an attempt at a run trains with; the runs that are read from it (nested.py) are trained with the same."""

    ranks: Ranks
    source: Source
    held_out: list[HeldOut]
    state: State
    shards: Checkpointer
    make_step: Step
    stop: StopFlag


def train(run_dir: Path | str, lock: RunLock | None = None) -> str:
    """Train the run of a directory to its end and measure it; returns the record's state, "finished".

    `lock` is the run's, where the caller holds it already. Raises UserError on a user's mistake, Diverged on a diverged
    run, Stopped when a signal asked for a stop, OutOfMemory when memory ran out on shards. When one of several ranks
    ends otherwise, the others do within a minute, by RankLost; those two are Stopped as well.
    """
    at = RunPaths(run_dir)
    run = read_run(at.run)
    torch.set_num_threads(run.execution.threads)
    keep_freed_memory()
    ranks, orderly = start(at.root, at.rendezvous), False
    size = micro_batch.read_limit(at, ranks.world)
    try:
        with owning_run(at, lock) if ranks.first else nullcontext():
            try:
                with attention_backend.chosen(run, ranks):
                    state = _attempt(at, run, ranks)
            except OutOfMemory as short:  # on this rank
                micro_batch.write_limit(at, ranks.world, short.size)
                raise
            except (Stopped, Diverged, checkpoints.CheckpointNotWritten):  # on all ranks alike
                try:
                    ranks.barrier()
                    orderly = True
                except RuntimeError:
                    pass  # one is gone by now; what happened before is what counts
                raise
            except RuntimeError as error:
                if not ranks.peer_died(error):
                    raise
                if (smaller := micro_batch.read_limit(at, ranks.world)) != size:
                    raise OutOfMemory(smaller) from None
                raise RankLost(at) from None
            ranks.barrier()
            orderly = True
            return state
    finally:
        ranks.close(orderly)


def _attempt(at: RunPaths, run: Run, ranks: Ranks) -> str:
    recipe = run.recipe
    if recipe.batch_size % ranks.world:
        raise UserError(f"{at.root}: a batch of {recipe.batch_size} images does not divide over {ranks.world} ranks")
    if read_state(at.metrics) == "finished":
        return "finished"
    stop = StopFlag()
    at.failure.unlink(missing_ok=True)

    if run.evaluation:
        evaluation.check(run, Settings(run.evaluation))  # now, not after a week of training

    # ---- data, model, and where an earlier attempt left off
    mine, shards, images = None, None, run.n_images
    trained = ranks.first and is_full(at.metrics) and has_final(at.checkpoint, run.run_id)
    trained = ranks.broadcast(trained)  # then its evaluation was interrupted
    if not trained:
        source, held_out = open_source(run.data), finalize.held_out(run, ranks)
        for data in held_out:
            check_makers(source, data.source, data.name)
        state = build(run, ranks)
        shards = state.shards(at.checkpoint, ranks)
        found = shards.load_newest(run.run_id)
        if found:
            state.restore(found, recipe.batch_size)
        images = state.images
        mine = Attempt(ranks, source, held_out, state, shards, _step_of(at, run, ranks, state, source), stop)

    # ---- the record: only rank 0 writes
    try:
        with Writer(at, run, images, ranks.world) if ranks.first else nullcontext() as writer:
            if mine:
                _train(mine, at, run, writer)
                mine.make_step.release()
                finalize.validate(mine.state, mine.held_out, run, mine.ranks, writer)
                shards.settle()
                finalize.save_final(at, run, state, ranks, writer)
                mine = state = shards = None  # what is measured now is in the final checkpoint
                _free(ranks.device)
            finalize.evaluate(at, run, ranks, stop, writer)
            if writer:
                writer.finish()
        return "finished"
    finally:
        if shards:
            shards.close()
        stop.restore()


def _free(device: torch.device):
    """Give the memory of a model that is not used any more back: on a GPU the next one may need it."""
    if device.type == "cuda":
        gc.collect()  # compiled methods refer to what they are methods of
        torch.cuda.empty_cache()


def _step_of(at: RunPaths, run: Run, ranks: Ranks, state: State, source: Source) -> Step:
    """The run's steps, of micro-batches that fit into memory, by a compiled model where it is to be."""
    device = ranks.device
    micro = GradientAccumulation(run, state.model, state.layout, ranks, micro_batch.read_limit(at, ranks.world))
    speed_up(state.model, False, run.execution.recompute)  # what is recomputed takes no memory: it counts for the fit
    if device.type == "cuda" and not run.execution.micro_batch:
        index = torch.arange(2)
        x0, text = (part.to(device) for part in source.batch(index))
        micro.fit((x0, text, *Noise(run.seed, run.recipe.timesteps).draw(index.to(device), x0.shape)))
    compiled = compiles(run, device)
    speed_up(state.model, compiled, run.execution.recompute)
    return Step(state, micro, run.recipe.clip, compiled)


def _train(mine: Attempt, at: RunPaths, run: Run, writer: Writer | None, host: Writer | None = None):
    """Optimiser steps from where the state is to the run's last image. host: of the run that this one branches off."""
    ranks, state, shards, make_step = mine.ranks, mine.state, mine.shards, mine.make_step
    recipe, device, micro = run.recipe, ranks.device, make_step.micro
    noise = Noise(run.seed, recipe.timesteps)
    captions = Dropout(run.seed, recipe.caption_dropout)
    batches = stream(
        mine.source, noise, captions, state.images, run.n_images, recipe.batch_size, ranks.rank, ranks.world, device
    )
    meter = ThroughputMeter(run, state.images, ranks)
    # loss and gradient norm of steps not yet looked at; energy
    pending = torch.zeros(SYNC_STEPS + 1, 2, device=device)
    rates, filled, skipped_before = [], 0, state.skipped
    elapsed_before = writer.elapsed_before if writer else 0.0
    readings = NestedRuns(at, run, ranks)

    def read() -> bool:
        """Make the readings that are due here, if any are; their seconds are not of this run's training. Whether it was
        told to stop meanwhile: then this run stops here too, and reads again when it goes on."""
        nonlocal began, last_save
        if not readings.due(state.images):
            return False
        paused, images, told = time.monotonic(), state.images, False
        make_step.release()
        if writer:
            writer.beat("reading", images, state.loss_ema, force=True)
        other, shorter = readings.take(images)
        branches = shorter.n_images > images
        try:
            with branch(state, shards, run, shorter, other.checkpoint) if branches else nullcontext():
                with readings.locked(other) as free:
                    if free:
                        _read(mine, other, shorter, readings, writer)
        except OutOfMemory:
            raise
        except Stopped:
            if branches:  # this run was saved before
                raise Stopped(at, images, run.n_images) from None
            told = True
        took = time.monotonic() - paused
        began, last_save = began + took, last_save + took
        meter.pause(took)
        return told or read()

    from_images = state.images
    began = last_save = time.monotonic()
    if read():  # an attempt before this one was stopped at it
        raise Stopped(at, state.images, run.n_images)

    for batch in meter.timed(batches):
        rate = run.lr * rate_factor(recipe, state.images, run.n_images)
        step = state.images // recipe.batch_size + 1
        loss, norm = make_step(batch, step, rate)
        state.images += recipe.batch_size
        pending[filled, 0], pending[filled, 1] = loss, norm
        rates.append(rate)
        filled += 1
        if filled < SYNC_STEPS and state.images < run.n_images and not readings.due(state.images):
            continue

        # ---- every SYNC_STEPS steps, the only place where the loop waits for the device and the other ranks
        done = state.images >= run.n_images
        due = time.monotonic() - last_save > (
            min(MIN_UNSAVED_S, run.execution.checkpoint_s) if done else run.execution.checkpoint_s
        )
        told = (
            mine.stop.raised,
            due,
            shards.failed,
            micro.halvings,
            -micro.size,
            meter.waited_s,
            meter.peak_memory_bytes(),
        )
        most = torch.tensor(told, dtype=torch.float64, device=device)
        ranks.all_reduce(most, dist.ReduceOp.MAX)
        pending[:, 0] /= recipe.batch_size  # a rank's is the sum over its share
        pending[:, 1] /= ranks.world  # norms are equal on all
        pending[-1] = meter.energy_so_far()
        ranks.all_reduce(pending)
        stop_asked, save_due, failed, halvings, size, waited_s, peak_bytes = most.tolist()
        *values, (energy_j, _) = pending[[*range(filled), -1]].tolist()
        rows, hopeless = _rows(values, rates, step - filled, recipe.batch_size, state)
        rows["elapsed_s"] = elapsed_before + time.monotonic() - began
        rates, filled = [], 0
        if writer:
            writer.write_steps(step - len(rows), rows)
        if host:
            host.beat("reading", run.stable_images, None)
        measured = meter.speed(state.images) | {
            "device": device_name(device).encode(),
            "sharding": state.layout.kind.encode(),
            "micro_batch": -size,
            "halvings": halvings,
            "skipped": state.skipped - skipped_before,
            "data_wait_s": waited_s,
            "peak_memory_bytes": peak_bytes,
            "energy_j": energy_j,
        }
        if writer and (stop_asked or save_due or done or hopeless):
            writer.measure(measured)
        if hopeless:
            raise Diverged(
                f"{at.root}: {hopeless}; the run has diverged (rate {run.lr:.3g}); a smaller recipe.lr_scale makes "
                "another study"
            )
        if failed:
            shards.settle()
        if (time.monotonic() - began) * (run.n_images - state.images) > CHECKPOINT_LIKELY_S * (
            state.images - from_images
        ):
            shards.make_ready()
        stop_asked = read() or stop_asked
        if save_due or stop_asked:
            shards.save(state.facts(run))
            last_save = time.monotonic()
        if stop_asked and not done:
            shards.settle()
            raise Stopped(at, state.images, run.n_images)


def _read(mine: Attempt, at: RunPaths, run: Run, readings: NestedRuns, host: Writer | None):
    """Train the cool-down of a run that is read from another, where it has one, measure it and write its directory."""
    with readings.writer(at, run, mine.state.images, lambda n: host.record.file["steps"][:n]) as writer:
        if run.stable_images < run.n_images:
            _train(mine, at, run, writer, host)
            mine.shards.settle()
            mine.make_step.release()
        finalize.validate(mine.state, mine.held_out, run, mine.ranks, writer)
        finalize.save_final(at, run, mine.state, mine.ranks, writer)
        finalize.evaluate(at, run, mine.ranks, mine.stop, writer, host)
        if writer:
            writer.finish()


def _rows(values: list, rates: list[float], first_step: int, batch_size: int, state: State) -> tuple[np.ndarray, str]:
    """Record rows of finished steps, and why the run has diverged at one of them, or "". Advances the loss's EMA and
    counts skipped steps, which have no part in it."""
    rows, hopeless = np.zeros(len(values), STEP), ""
    for i, (loss, norm) in enumerate(values):
        if math.isfinite(norm):
            state.loss_ema, state.skipped_in_row = smoothed(state.loss_ema, loss), 0
        else:
            state.skipped, state.skipped_in_row = state.skipped + 1, state.skipped_in_row + 1
        images = (first_step + i + 1) * batch_size
        rows[i] = (images, loss, state.loss_ema, norm, rates[i], 0)
        hopeless = hopeless or _hopeless(state, images)  # at whichever step: looks come as readings and stops have it
    return rows, hopeless


def _hopeless(state: State, images: int) -> str:
    """Why the run has diverged, or "" while it has not."""
    if state.skipped_in_row >= MAX_NONFINITE_STEPS:
        return f"the gradient was not finite in {state.skipped_in_row} steps in a row, at {images} images"
    return f"the loss reached {state.loss_ema:.3g} at {images} images" if state.loss_ema >= EXPLODED else ""
