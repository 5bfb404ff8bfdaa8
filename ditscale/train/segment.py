"""Training steps of one run between two boundaries: where a nested run is due, or the run ends. Every SYNC_STEPS steps,
and at each boundary, the ranks agree on what each has seen. Nowhere else does the loop wait for device or ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple, get_type_hints

import numpy as np
import torch

from ..data.source import Source
from ..distributed.ranks import Ranks
from ..evaluate.held_out import HeldOut
from ..naming import RunPaths
from ..plan.run import Run
from ..plan.schedule import rate_factor
from ..rundir.outcomes import Diverged, Stopped
from ..rundir.record import MEASURED, STEP
from ..rundir.session import Writer, smoothed
from ..rundir.signals import StopFlag
from .batches import stream
from .checkpointer import Checkpointer
from .state import State
from .step import Step
from .throughput import ThroughputMeter, device_name

SYNC_STEPS = 16  # Steps between syncs: losses, requests to stop and checkpoints wait for the next one.
EXPLODED = 10.0  # A smoothed loss above this counts as diverged: an untrained model starts near 1.
MAX_NONFINITE_STEPS = 10  # Consecutive non-finite gradients after which a run counts as diverged.
MIN_UNSAVED_S = 10.0  # Checkpoint before validation only if at least this much training is unsaved.
CHECKPOINT_LIKELY_S = 2.0  # A run with more training than this ahead of it is likely to need a checkpoint.


@dataclass
class TrainingSetup:
    """What an attempt at a run trains with. The nested runs that branch off it are trained with the same."""

    ranks: Ranks
    source: Source
    held_out: list[HeldOut]
    state: State
    checkpointer: Checkpointer
    step: Step
    stop: StopFlag


class SyncPoint(NamedTuple):
    """What one rank reports at a sync, each field with its reduction over ranks."""

    stop_asked: Annotated[bool, any]
    save_due: Annotated[bool, any]
    save_failed: Annotated[bool, any]
    micro_batch: Annotated[int, min]  # images
    halvings: Annotated[int, max]
    data_wait_s: Annotated[float, max]
    peak_memory_bytes: Annotated[int, max]
    energy_j: Annotated[float, sum]

    def reduced(self, ranks: Ranks) -> SyncPoint:
        reports = torch.zeros(ranks.world, len(self), dtype=torch.float64, device=ranks.device)
        reports[ranks.rank] = torch.tensor(self, dtype=torch.float64)
        ranks.all_reduce(reports)  # The sum of one report and zeros: now each rank has the reports of all.
        columns = zip(self, REDUCTIONS, reports.T.tolist())
        return SyncPoint._make(type(own)(reduction(values)) for own, reduction, values in columns)


REDUCTIONS = [hint.__metadata__[0] for hint in get_type_hints(SyncPoint, include_extras=True).values()]


class Trainer:
    """Trains one run, a segment at a time, from where the state is."""

    def __init__(self, setup: TrainingSetup, at: RunPaths, run: Run, writer: Writer | None):
        self.setup, self.at, self.run, self.writer = setup, at, run, writer
        self.meter = ThroughputMeter(run, setup.state.images, setup.ranks)
        self.first_images, self.skipped_before = setup.state.images, setup.state.skipped
        self.last_save_s = 0.0  # by the meter's clock
        # The steps since the last sync: loss and gradient norm, on the device, and the learning rates.
        self.values = torch.zeros(SYNC_STEPS, 2, device=setup.ranks.device)
        self.rates: list[float] = []

    def train_until(self, images: int):
        """Take optimiser steps until the run has seen this number of images. Raises Stopped and Diverged."""
        setup, state, run, recipe = self.setup, self.setup.state, self.run, self.run.recipe
        batches = stream(setup.source, run, range(state.images, images), setup.ranks)
        for batch in self.meter.timed(batches):
            rate = run.lr * rate_factor(recipe, state.images, run.n_images)
            loss, norm = setup.step(batch, state.images // recipe.batch_size + 1, rate)
            self.values[len(self.rates), 0], self.values[len(self.rates), 1] = loss, norm
            self.rates.append(rate)
            state.images += recipe.batch_size
            if len(self.rates) == SYNC_STEPS or state.images == images:
                self._sync()

    def stop(self):
        self._save()
        self.setup.checkpointer.wait()
        raise Stopped(self.at, self.setup.state.images, self.run.n_images)

    def _sync(self):
        """Wait for the device and the other ranks, record what was done since the last sync, then save or stop."""
        setup, state, run, writer = self.setup, self.setup.state, self.run, self.writer
        done, batch_size = state.images == run.n_images, run.recipe.batch_size
        agreed = self._report(done).reduced(setup.ranks)
        self.values[:, 0] /= batch_size  # A rank's loss is the sum over its share of the batch.
        self.values[:, 1] /= setup.ranks.world  # The norm is equal on all ranks.
        setup.ranks.all_reduce(self.values)
        values, rates, self.rates = self.values[: len(self.rates)].tolist(), self.rates, []
        first = state.images // batch_size - len(rates)
        rows, reason = record_rows(values, rates, first, batch_size, state)
        if writer:
            rows["elapsed_s"] = writer.elapsed_before + self.meter.seconds()
            writer.write_steps(first, rows)
        speed = self.meter.speed(state.images)
        if writer and (agreed.stop_asked or agreed.save_due or done or reason):
            measured = {name: value for name, value in agreed._asdict().items() if name in (MEASURED.names or ())}
            measured["device"] = device_name(setup.ranks.device).encode()
            measured["sharding"] = state.layout.kind.encode()
            measured["skipped"] = state.skipped - self.skipped_before
            writer.measure(speed | measured)
        if reason:
            then = f"the run has diverged (rate {run.lr:.3g}); a smaller recipe.lr_scale makes another study"
            raise Diverged(f"{self.at.root}: {reason}; {then}")
        if agreed.save_failed:
            setup.checkpointer.wait()  # raises what went wrong
        seconds_per_image = self.meter.seconds() / (state.images - self.first_images)
        if seconds_per_image * (run.n_images - state.images) > CHECKPOINT_LIKELY_S:
            setup.checkpointer.warm_up()
        if agreed.stop_asked and not done:
            self.stop()
        if agreed.stop_asked or agreed.save_due:
            self._save()

    def _report(self, done: bool) -> SyncPoint:
        """What this rank has seen. done: the run has seen its last image, and validation follows."""
        checkpoint_s = self.run.execution.checkpoint_s
        unsaved_s = self.meter.seconds() - self.last_save_s
        accumulation = self.setup.step.accumulation
        return SyncPoint(
            stop_asked=self.setup.stop.raised, save_failed=self.setup.checkpointer.error is not None,
            save_due=unsaved_s > (min(MIN_UNSAVED_S, checkpoint_s) if done else checkpoint_s),
            micro_batch=accumulation.size, halvings=accumulation.halvings, data_wait_s=self.meter.data_wait_s,
            peak_memory_bytes=self.meter.peak_memory_bytes(), energy_j=self.meter.energy_so_far(),
        )  # fmt: skip

    def _save(self):
        self.setup.checkpointer.save(self.setup.state.facts(self.run))
        self.last_save_s = self.meter.seconds()


def record_rows(values: list, rates: list[float], first: int, batch_size: int, state: State) -> tuple[np.ndarray, str]:
    """Rows of steps with these [loss, gradient norm]; and why the run has diverged at one of them, or "". Advances
    loss_ema, in which skipped steps have no part, and counts these."""
    rows, reason = np.zeros(len(values), STEP), ""
    for i, (loss, norm) in enumerate(values):
        if math.isfinite(norm):
            state.loss_ema, state.skipped_in_row = smoothed(state.loss_ema, loss), 0
        else:
            state.skipped, state.skipped_in_row = state.skipped + 1, state.skipped_in_row + 1
        images = (first + i + 1) * batch_size
        rows[i] = (images, loss, state.loss_ema, norm, rates[i], 0)
        if reason:
            continue  # The first step counts: where a sync falls depends on stops and nested runs.
        if state.skipped_in_row >= MAX_NONFINITE_STEPS:
            reason = f"the gradient was not finite in {state.skipped_in_row} steps in a row, at {images} images"
        elif state.loss_ema >= EXPLODED:
            reason = f"the loss reached {state.loss_ema:.3g} at {images} images"
    return rows, reason
