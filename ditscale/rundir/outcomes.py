"""How an attempt may end before its run does, and what it then leaves: failure.json, or micro_batch.json for the next.
`state` is what attempts/NNNN.json says. Without torch."""

import json
import socket
import time
from contextlib import suppress

from ..errors import UserError
from ..files import read_mapping, write_text
from ..naming import RunPaths


class Stopped(Exception):
    """The run was asked to stop; it resumes from its checkpoint."""

    state = "stopped"

    def __init__(self, at: RunPaths, images: int, n_images: int):
        super().__init__(f"{at.root}: stopped at {images} of {n_images} images; rerun the same command to resume")


class OutOfMemory(Stopped):
    """A rank with sharded weights ran out of memory. It cannot halve its micro-batch by itself, as the others are in
    the middle of the same pass: it writes the half, `size` images, as a limit, with which the run is started again."""

    def __init__(self, size: int):
        Exception.__init__(self, f"out of memory; rerun the same command to resume with micro-batches of {size} images")
        self.size = size


class RankLost(Stopped):
    """Another rank of the run has died; the run resumes."""

    state = "lost"

    def __init__(self, at: RunPaths):
        then = "rerun the same command to resume from the last checkpoint"
        Exception.__init__(self, f"{at.root}: a rank of this run has died; {then}")


class Diverged(UserError):
    """The loss became NaN or exploded: a result, not a failure."""

    state = "diverged"


class Fenced(SystemExit):
    """A newer attempt is the writer of this run. Not a failure of the run, so failure.json is not written."""

    state = "fenced"


class Closed(UserError):
    """Rank 0 declined this run (finished or busy elsewhere); the other ranks exit too."""

    state = "busy"


def note_failure(at: RunPaths, reason: str):
    """Write failure.json, which `status` shows. On a full disk nothing is written: the error itself goes to the log."""
    content = {"reason": " ".join(reason.split()), "unix": time.time(), "host": socket.gethostname()}
    with suppress(UserError):
        write_text(at.failure, json.dumps(content))


def write_limit(at: RunPaths, ranks: int, size: int):
    """Limit later attempts on this number of ranks to micro-batches of `size` images."""
    write_text(at.micro_batch, json.dumps({"ranks": ranks, "micro_batch": size}))


def read_limit(at: RunPaths, ranks: int) -> int:
    """The limit in images for this number of ranks; 0 where there is none."""
    found = read_mapping(at.micro_batch, {"micro_batch": int})
    return found.get("micro_batch", 0) if found.get("ranks") == ranks else 0
