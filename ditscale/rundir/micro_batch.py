"""The micro-batch limit that an attempt leaves to the next when memory ran out, in micro_batch.json. Without torch.

A rank whose weights are sharded cannot halve its micro-batch by itself: the others are in the middle of the same pass.
So it writes the half as a limit and ends, the others read the limit and end too, and the run is started again.
"""

import json

from ..files import read_mapping, write_text
from ..naming import RunPaths


def write_limit(at: RunPaths, ranks: int, size: int):
    """Limit later attempts on this number of ranks to micro-batches of `size` images."""
    write_text(at.micro_batch, json.dumps({"ranks": ranks, "micro_batch": size}))


def read_limit(at: RunPaths, ranks: int) -> int:
    """The limit in images for this number of ranks; 0 where there is none."""
    found = read_mapping(at.micro_batch, {"micro_batch": int})
    return found.get("micro_batch", 0) if found.get("ranks") == ranks else 0
