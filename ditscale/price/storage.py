"""Bytes and files that runs leave, and bytes that they read, from their shapes alone."""

from pathlib import Path

import h5py

from ..config import Data
from ..plan.run import Run
from ..rundir.checkpoints import KEEP
from ..rundir.record import ATTEMPT, MAX_ATTEMPTS, STEP, VALIDATION

FLOAT = 4  # Bytes of a weight, of an average and of each of AdamW's two moments, all fp32.
# Files and directories of a run that was trained by itself, and of a nested one, as a study of the miniature has them.
FILES, NESTED_FILES = 16, 8
OTHER_FILES = 240  # Of the study itself: the snapshot of the package, tables, report with figures.


def final_bytes(run: Run) -> int:
    """Of final.pt, which every finished run keeps: weights, and their averages over each EMA window."""
    return FLOAT * run.n_params_total * (1 + len(run.recipe.windows))


def resume_bytes(run: Run) -> int:
    """At most, while a run trains, of its checkpoints to resume from: those kept, and the one being written."""
    return (KEEP + 1) * FLOAT * run.n_params_total * (3 + len(run.recipe.windows))


def record_bytes(run: Run) -> int:
    """Of metrics.h5: a row for each step, attempt, data set and triple."""
    sets = 1 + len(run.validation.also)
    triples = 4 * sets * run.validation.n
    return run.steps * STEP.itemsize + MAX_ATTEMPTS * ATTEMPT.itemsize + sets * VALIDATION.itemsize + triples


def n_files(run: Run) -> int:
    return NESTED_FILES if run.within else FILES


def read_bytes(run: Run) -> int:
    """Read from the data set's file in training; nothing where images are drawn. A nested run reads its cool-down."""
    images = 0 if run.within else run.n_images + run.branch_images
    return images * image_bytes(run.data) if run.data.source == "latents" else 0


def image_bytes(data: Data) -> int:
    """Of an image with its text, as the file stores them, or in float16 where there is no file yet."""
    sizes = {"latents": 2, "text": 2}
    if Path(data.path).is_file():
        try:
            with h5py.File(data.path, "r", locking=False) as file:
                sizes = {name: file[name].dtype.itemsize for name in sizes}
        except (OSError, KeyError, AttributeError):
            pass  # Whoever trains on the file says what is wrong with it.
    text = data.text_length * (data.text_dim or 1)
    return sizes["latents"] * data.channels * data.resolution**2 + sizes["text"] * text
