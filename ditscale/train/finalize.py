"""What a run leaves at its end: its validation losses, final weights, and what else its study asks to be measured."""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from ..distributed.ranks import Ranks
from ..evaluate import run as evaluation
from ..evaluate.finished import load_finished
from ..evaluate.held_out import HeldOut
from ..evaluate.measure import Unmeasurable
from ..evaluate.settings import Settings
from ..evaluate.validation import triple_losses
from ..naming import RunPaths
from ..plan.run import Run
from ..rundir import checkpoints
from ..rundir.outcomes import Diverged, Stopped
from ..rundir.record import VALIDATION
from ..rundir.session import Writer
from ..rundir.signals import StopFlag
from .state import State


def held_out(run: Run, ranks: Ranks) -> list[HeldOut]:
    """What the run is validated on: its own data's held-out images, then those of the other data sets."""
    validation = run.validation
    return [
        HeldOut(data, validation, validation.n, validation.seed, ranks.device)
        for data in [run.data, *validation.also.values()]
    ]


def validate(state: State, held_out: list[HeldOut], run: Run, ranks: Ranks, writer: Writer | None):
    """Measure EMA and live weights on every validation set."""
    if writer:
        writer.beat("validating", state.images, state.loss_ema, force=True)
    for i, data in enumerate(held_out):
        began = time.monotonic()
        measure = lambda: triple_losses(
            state.model, data, run.recipe.timesteps, run.validation.batch_size, ranks, run.recipe.precision
        )
        raw = measure().mean() if i == 0 else math.nan  # live weights in domain only: it halves the cost
        state.swap()
        samples = measure()
        state.swap()
        if not np.isfinite(samples).all():
            raise Diverged(f"{run.run_id}: the validation loss on {data.name} is not finite; the run has diverged")
        if writer:
            row = np.zeros((), VALIDATION)
            row["dataset"], row["images"], row["loss"] = data.name.encode(), state.images, samples.mean()
            row["raw_loss"], row["elapsed_s"] = raw, time.monotonic() - began
            writer.write_validation(i, row, samples)


def save_final(at: RunPaths, run: Run, state: State, ranks: Ranks, writer: Writer | None):
    """Write what the run has come to. Raises CheckpointNotWritten, on all ranks, where that cannot be."""
    final = {"run_id": run.run_id, "images": state.images, "model": state.layout.gather_full(state.layout.weights)}
    final["ema"], *final["ema_also"] = (
        list(state.layout.gather_full(averages).values()) for averages in state.ema.averages
    )
    unsaved = None
    if writer:
        try:
            checkpoints.save_final(at.checkpoint, lambda file: torch.save(final, file))
        except checkpoints.CheckpointNotWritten as error:
            unsaved = error
    if not ranks.all_true(unsaved is None):
        raise unsaved or checkpoints.CheckpointNotWritten(
            f"{at.checkpoint}: final.pt cannot be written; rank 0 says why"
        )


def evaluate(at: RunPaths, run: Run, ranks: Ranks, stop: StopFlag, writer: Writer | None, host: Writer | None = None):
    """Measure what the study asks for. What has no finite value is said in the log and stays out: the run is finished.

    host: of the run that this one is read from.
    """
    if not run.evaluation:
        return

    def tick():
        if writer:
            writer.beat("evaluating", run.n_images, None)
        if host:
            host.beat("reading", run.stable_images, None)
        if not ranks.all_true(not stop.raised):
            raise Stopped(at, run.n_images, run.n_images)

    if writer:
        writer.beat("evaluating", run.n_images, None, force=True)
    ranks.barrier()  # the final checkpoint is there
    finished = load_finished(at.root).to(ranks.device)
    try:
        made = evaluation.measure_all(at, finished, Settings(run.evaluation), ranks, tick)
    except Unmeasurable as error:
        print(f"not measured: {error}", flush=True)
    else:
        if writer:
            print(made.summary(), flush=True)
