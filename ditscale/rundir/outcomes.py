"""How an attempt may end before its run does. `state` is what attempts/NNNN.json then says. Without torch."""

import json
import socket
import time
from contextlib import suppress

from ..errors import UserError
from ..files import write_text
from ..naming import RunPaths


class Stopped(Exception):
    """The run was asked to stop; it resumes from its checkpoint."""

    state = "stopped"

    def __init__(self, at: RunPaths, images: int, n_images: int):
        super().__init__(f"{at.root}: stopped at {images} of {n_images} images; rerun the same command to resume")


class OutOfMemory(Stopped):
    """A rank with sharded weights ran out of memory; the run resumes with micro-batches of `size` images."""

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
