"""The micro-batch that an attempt leaves to the next when memory ran out on shards: micro_batch.json in the run's
directory.

A rank whose weights are sharded cannot halve its micro-batch and go on by itself: the others are in the middle of the
same pass. So it notes the half and ends, the others find the note, and the run is started again. Without torch, for
launchers.
"""

from __future__ import annotations

import json

from ..files import read_mapping, write_text
from ..naming import RunPaths


def note(at: RunPaths, ranks: int, size: int):
    """Leave micro-batches of `size` images to the attempts to come, on so many ranks."""
    write_text(at.micro_batch, json.dumps({"ranks": ranks, "micro_batch": size}))


def noted(at: RunPaths, ranks: int) -> int:
    """Images of a micro-batch that an earlier attempt on so many ranks has left; 0 where none has."""
    found = read_mapping(at.micro_batch, {"micro_batch": int})
    return found.get("micro_batch", 0) if found.get("ranks") == ranks else 0
