"""The cool-down of a shorter run, trained from the state in which its rate leaves this run's (plan/nest.py)."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from ..errors import UserError
from ..plan.run import Run
from .ends import Diverged
from .shards import Shards
from .state import State


@contextmanager
def branch(state: State, shards: Shards, run: Run, shorter: Run, directory: Path) -> Iterator[None]:
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
