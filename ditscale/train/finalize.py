"""What a run leaves at its end: validation losses, final weights, and the evaluation that its study asks for."""

import math
import time

import numpy as np
import torch

from ..distributed.ranks import Ranks
from ..evaluate import run as evaluation
from ..evaluate.finished import load_finished
from ..evaluate.held_out import HeldOut
from ..evaluate.measure import Unmeasurable
from ..evaluate.metrics import triple_losses
from ..logs import log
from ..naming import RunPaths
from ..plan.run import Run
from ..rundir import checkpoints
from ..rundir.outcomes import Diverged, Stopped
from ..rundir.session import Writer
from ..rundir.signals import StopFlag
from .segment import TrainingSetup


def held_out(run: Run, ranks: Ranks) -> list[HeldOut]:
    how = run.validation
    return [HeldOut(data, how, how.n, how.seed, ranks.device) for data in (run.data, *how.also.values())]


def validate(setup: TrainingSetup, run: Run, writer: Writer | None):
    """Measure EMA and live weights on every validation set. Raises Diverged where a loss is not finite."""
    state, validation = setup.state, run.validation
    if writer:
        writer.beat("validating", state.images, state.loss_ema, force=True)
    for i, data in enumerate(setup.held_out):
        began = time.monotonic()
        losses = lambda: triple_losses(
            state.model, data, run.recipe.timesteps, validation.batch_size, setup.ranks, run.recipe.precision
        )
        raw = losses().mean() if i == 0 else math.nan  # Live weights in domain only: that halves the cost.
        state.swap()
        samples = losses()
        state.swap()
        if not np.isfinite(samples).all():
            raise Diverged(f"{run.run_id}: the validation loss on {data.name} is not finite; the run has diverged")
        if writer:
            writer.write_validation(i, state.images, samples.mean(), raw, samples, time.monotonic() - began)


def save_final(setup: TrainingSetup, at: RunPaths, run: Run, writer: Writer | None):
    """Write the final weights, after the last checkpoint. Raises CheckpointNotWritten, on all ranks, if one fails."""
    setup.checkpointer.wait()
    state, error, full = setup.state, None, setup.state.layout.gather_full
    final = {"run_id": run.run_id, "images": state.images, "model": full(state.layout.weights)}
    final["ema"], *final["ema_also"] = (list(full(averages).values()) for averages in state.ema.averages)
    if writer:
        try:
            checkpoints.save_final(at.checkpoint, lambda file: torch.save(final, file))
        except checkpoints.CheckpointNotWritten as reason:
            error = reason
    if not setup.ranks.all_true(error is None):
        raise error or checkpoints.CheckpointNotWritten(f"{at.checkpoint}: final.pt cannot be written; rank 0 says why")


def evaluate(at: RunPaths, run: Run, ranks: Ranks, stop: StopFlag, writer: Writer | None):
    """Measure what the study asks for, from the final weights. A metric without a finite value is logged and left out:
    the run is finished. Raises Stopped when a signal asked for a stop."""
    if not run.evaluation:
        return

    def tick():
        if writer:
            writer.beat("evaluating", run.n_images, None)
        if not ranks.all_true(not stop.raised):
            raise Stopped(at, run.n_images, run.n_images)

    if writer:
        writer.beat("evaluating", run.n_images, None, force=True)
    ranks.barrier()  # From here on the final weights are there.
    finished = load_finished(at.root).to(ranks.device)
    try:
        measured = evaluation.measure_all(at, finished, evaluation.Settings(run.evaluation), ranks, tick)
    except Unmeasurable as error:
        log.warning(f"not measured: {error}")
    else:
        if writer:
            log.info(measured.summary())
