"""The training of one run, from its directory alone. To resume, call `train` again. One clock, images seen, drives
schedule, EMA, checkpoints and resume; a resumed run repeats exactly what the interrupted one would have done."""

import ctypes
import gc
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

from ..data.source import open_source
from ..diffusion.rectified_flow import draw_noise
from ..distributed.ranks import Ranks, start
from ..errors import UserError
from ..evaluate import run as evaluation
from ..evaluate.finished import has_final
from ..image_file import check_makers
from ..model.compile import compiles, speed_up
from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..rundir import checkpoints
from ..rundir.lock import RunLock
from ..rundir.outcomes import Diverged, OutOfMemory, RankLost, Stopped, read_limit, write_limit
from ..rundir.record import is_full, read_state
from ..rundir.session import Writer, owning_run
from ..rundir.signals import StopFlag
from . import attention_backend, finalize, nested
from .batches import Batch
from .segment import Trainer, TrainingSetup
from .state import build
from .step import GradientAccumulation, Step

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
NEVER, LARGE, LARGE_ONCE = 2**31 - 1, 2**30, 2**25  # Bytes; glibc before 2.35 refuses more than LARGE_ONCE.


def train(run_dir: Path | str, lock: RunLock | None = None) -> str:
    """Train the run of a directory to its end and measure it; returns the record's state, "finished". `lock` is the
    run's, where the caller holds it already. Raises UserError, Diverged, Stopped when a signal asked for that,
    OutOfMemory when memory ran out on shards, and RankLost, within a minute, if another rank died: both Stopped too."""
    at = RunPaths(run_dir)
    run = read_run(at.run)
    torch.set_num_threads(run.execution.threads)
    keep_freed_memory()
    ranks, orderly = start(at.root, at.rendezvous), False
    noted_size = read_limit(at, ranks.world)
    try:
        with owning_run(at, lock) if ranks.first else nullcontext():
            try:
                with attention_backend.selected(run, ranks):
                    state = _attempt(at, run, ranks)
            except OutOfMemory as error:  # On this rank: the others learn of it from the note.
                write_limit(at, ranks.world, error.size)
                raise
            except (Stopped, Diverged, checkpoints.CheckpointNotWritten):  # On all ranks.
                with suppress(RuntimeError):  # One rank has ended by now; what happened before is what counts.
                    ranks.barrier()
                    orderly = True
                raise
            except RuntimeError as error:
                if not ranks.peer_died(error):
                    raise
                if (smaller := read_limit(at, ranks.world)) != noted_size:
                    raise OutOfMemory(smaller) from None
                raise RankLost(at) from None
            ranks.barrier()
            orderly = True
            return state
    finally:
        ranks.close(orderly)


def _attempt(at: RunPaths, run: Run, ranks: Ranks) -> str:
    batch_size = run.recipe.batch_size
    if batch_size % ranks.world:
        raise UserError(f"{at.root}: a batch of {batch_size} images does not divide over {ranks.world} ranks")
    if read_state(at.metrics) == "finished":
        return "finished"
    stop, setup = StopFlag(), None
    try:
        at.failure.unlink(missing_ok=True)
        if run.evaluation:
            evaluation.check(run, evaluation.Settings(run.evaluation))  # Now, and not after a week of training.

        # ---- data, model, and where an earlier attempt left off
        # Where all is trained and validated, an earlier attempt was interrupted in its evaluation.
        is_trained = ranks.first and is_full(at.metrics) and has_final(at.checkpoint, run.run_id)
        if not ranks.broadcast(is_trained):
            setup = _set_up(at, run, ranks, stop)
        images = setup.state.images if setup else run.n_images

        # ---- training and measurement; only rank 0 writes the record
        with Writer(at, run, images, ranks.world) if ranks.first else nullcontext() as writer:
            if setup:
                _train(setup, at, run, writer)
                setup.step.release()
                finalize.validate(setup, run, writer)
                finalize.save_final(setup, at, run, writer)
                setup = None  # What is measured from here on is in the final checkpoint.
                if ranks.device.type == "cuda":
                    gc.collect()  # Compiled methods refer to the model whose methods they are.
                    torch.cuda.empty_cache()
            finalize.evaluate(at, run, ranks, stop, writer)
            if writer:
                writer.finish()
        return "finished"
    finally:
        if setup:
            setup.checkpointer.close()
        stop.restore()


def _train(setup: TrainingSetup, at: RunPaths, run: Run, writer: Writer | None):
    state, trainer = setup.state, Trainer(setup, at, run, writer)
    due = nested.find_due(at, run, setup.ranks)
    for boundary in sorted(images for images in {*due, run.n_images} if images >= state.images):
        trainer.train_until(boundary)
        for nested_at, nested_run in due.get(boundary, ()):
            try:
                with trainer.meter.paused():
                    nested.measure(setup, run, nested_at, nested_run, writer)
            except OutOfMemory:
                raise
            except Stopped:  # This run stops too, and measures the nested run when it resumes.
                if nested.has_cooldown(nested_run):  # Then this run was saved, and the state is the nested run's.
                    raise Stopped(at, boundary, run.n_images) from None
                trainer.stop()


def _set_up(at: RunPaths, run: Run, ranks: Ranks, stop: StopFlag) -> TrainingSetup:
    source, held_out = open_source(run.data), finalize.held_out(run, ranks)
    for data in held_out:
        check_makers(source, data.source, data.name)
    state = build(run, ranks)
    checkpointer = state.checkpointer(at.checkpoint, ranks)
    if facts := checkpointer.load_newest(run.run_id):
        state.restore(facts, run.recipe.batch_size)

    # ---- micro-batches that fit into memory, and a compiled model where that pays
    device, largest = ranks.device, read_limit(at, ranks.world)
    accumulation = GradientAccumulation(run, state.model, state.layout, ranks, largest)
    # Recomputed activations take no memory, so the model recomputes while the micro-batch is fitted.
    speed_up(state.model, False, run.execution.recompute)
    if device.type == "cuda" and not run.execution.micro_batch:
        index = torch.arange(2)
        x0, text = (part.to(device) for part in source.batch(index))
        noise = draw_noise(run.seed, run.recipe.timesteps, index.to(device), x0.shape)
        accumulation.fit(Batch(x0, text, *noise))
    compiled = compiles(run, device)
    speed_up(state.model, compiled, run.execution.recompute)
    step = Step(state, accumulation, run.recipe.clip, compiled)
    return TrainingSetup(ranks, source, held_out, state, checkpointer, step, stop)


def keep_freed_memory():
    """Memory that is freed stays with the process from now on; without glibc, this does nothing. glibc returns large
    blocks to the kernel, which clears them, page by page, for the next batches (docs/measured/speed-detours.md)."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(MMAP_THRESHOLD, LARGE) or mallopt(MMAP_THRESHOLD, LARGE_ONCE)
        mallopt(TRIM_THRESHOLD, NEVER)
