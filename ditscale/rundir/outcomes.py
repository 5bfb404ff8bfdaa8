"""How an attempt may end before its run does. `state` is what attempts/NNNN.json then says; without torch, for
launchers."""

from __future__ import annotations

from ..errors import UserError
from ..naming import RunPaths


class Stopped(Exception):
    """The run was asked to stop; it resumes from its checkpoint."""

    state = "stopped"

    def __init__(self, at: RunPaths, images: int, n_images: int):
        super().__init__(f"{at.root}: stopped at {images} of {n_images} images; the same command goes on from there")


class OutOfMemory(Stopped):
    """Memory ran out on shards; the run resumes with micro-batches of `size` images."""

    def __init__(self, size: int):
        Exception.__init__(self, f"out of memory; the same command goes on with micro-batches of {size} images")
        self.size = size


class RankLost(Stopped):
    """Another rank of the run has ended before its time; the run resumes."""

    state = "lost"

    def __init__(self, at: RunPaths):
        Exception.__init__(
            self, f"{at.root}: a rank of this run has ended; the same command goes on from the last checkpoint"
        )


class Diverged(UserError):
    """The loss became NaN or exploded: a result, not a failure."""

    state = "diverged"


class Fenced(SystemExit):
    """A newer attempt is the writer of this run. Not an error of the run: nothing is noted."""

    state = "fenced"


class Closed(UserError):
    """Rank 0 has nothing to do here; nor have the others."""

    state = "busy"
