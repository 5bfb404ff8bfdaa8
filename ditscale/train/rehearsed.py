"""A rehearsed run: the records, checkpoints, heartbeats and signals of a training, with losses from a known surface.
Everything but `elapsed_s` is a function of run.yaml, so that interrupted runs must end with the same rows. No torch."""

import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np

from ..config import Rehearsal
from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..plan.schedule import rate_factor
from ..rundir import checkpoints
from ..rundir.lock import RunLock
from ..rundir.outcomes import Stopped
from ..rundir.record import STEP, read_state
from ..rundir.session import Writer, owning_run, smoothed
from ..rundir.signals import StopFlag

CHUNKS = 10  # Parts of a run: after each, it writes rows and a heartbeat, and saves or stops if that is due.


def rehearse(run_dir: Path | str, lock: RunLock | None = None) -> str:
    """Rehearse the run of a directory to its end; returns "finished". `lock`, exceptions: as of loop.py's `train`."""
    at = RunPaths(run_dir)
    run = read_run(at.run)
    final = lambda file: file.write(json.dumps(_facts(run, run.n_images)).encode())
    with owning_run(at, lock):
        if read_state(at.metrics) == "finished":
            return "finished"
        stop = StopFlag()
        try:
            at.failure.unlink(missing_ok=True)
            facts = checkpoints.load_newest(at.checkpoint, run.run_id)
            images = facts["images"] if facts else 0
            with Writer(at, run, images, ranks=1, beat_s=min(1.0, _rehearsal(run).seconds / CHUNKS)) as writer:
                _steps(at, run, images, writer, stop)
                _validate(run, writer)
                checkpoints.save_final(at.checkpoint, final)
                writer.finish()
        finally:
            stop.restore()
    return "finished"


def expected_steps(run: Run) -> np.ndarray:
    """All rows of the run's record, dtype STEP, but for `elapsed_s`: the surface at the tokens so far, with noise."""
    rows = np.zeros(run.steps, STEP)
    images = np.arange(1, run.steps + 1) * run.recipe.batch_size
    rows["images"] = images
    tokens = images.astype(float) * run.tokens_per_image
    rows["loss"] = _rehearsal(run).loss_at(run.n_params, tokens) * _noise(run, run.steps + 1)[1:]
    rows["grad_norm"] = 1
    rows["lr"] = [run.lr * rate_factor(run.recipe, i - run.recipe.batch_size, run.n_images) for i in images.tolist()]
    loss_ema = math.nan
    for step, loss in enumerate(rows["loss"].tolist()):
        rows["loss_ema"][step] = loss_ema = smoothed(loss_ema, loss)
    return rows


def expected_loss(run: Run) -> float:
    return float(_rehearsal(run).loss_at(run.n_params, run.n_tokens) * _noise(run, 1)[0])


def _rehearsal(run: Run) -> Rehearsal:
    assert run.rehearsal is not None, f"{run.run_id} is to be trained, not rehearsed"
    return run.rehearsal


def _noise(run: Run, n: int) -> np.ndarray:
    """n log-normal factors that depend on the run and the rehearsal's seed alone; the first is the final loss's."""
    rehearsal = _rehearsal(run)
    seed = hashlib.sha256(f"{run.run_id} {rehearsal.seed}".encode()).digest()
    return np.exp(rehearsal.noise * np.random.default_rng(list(seed)).standard_normal(n))


def _steps(at: RunPaths, run: Run, images: int, writer: Writer, stop: StopFlag):
    rows, first = expected_steps(run), images // run.recipe.batch_size
    ends = {round(run.steps * chunk / CHUNKS) for chunk in range(1, CHUNKS + 1)}
    began = last_save = time.monotonic()
    for end in sorted(end for end in ends if end > first):
        time.sleep(_rehearsal(run).seconds * (end - first) / run.steps)
        chunk = rows[first:end]
        chunk["elapsed_s"] = writer.elapsed_before + time.monotonic() - began
        writer.write_steps(first, chunk)
        first, images = end, end * run.recipe.batch_size
        if time.monotonic() - last_save > run.execution.checkpoint_s or stop.raised or end == run.steps:
            checkpoints.save(at.checkpoint, _facts(run, images))
            last_save = time.monotonic()
        if stop.raised and end < run.steps:
            raise Stopped(at, images, run.n_images)


def _facts(run: Run, images: int) -> dict:
    return {"run_id": run.run_id, "images": images, "rehearsal": str(run.rehearsal)}


def _validate(run: Run, writer: Writer):
    """The final loss, 10 % higher on each further data set, with a standard error of a tenth of the noise."""
    writer.beat("validating", run.n_images, None, force=True)
    n = run.validation.n
    scatter = _rehearsal(run).noise / 10 * math.sqrt(n / 2) * np.where(np.arange(n) % 2, 1.0, -1.0)
    for i in range(1 + len(run.validation.also)):
        loss = expected_loss(run) * 1.1**i
        writer.write_validation(i, run.n_images, loss, loss, loss * (1 + scatter))
