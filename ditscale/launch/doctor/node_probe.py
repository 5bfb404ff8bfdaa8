"""The node probe of `ditscale doctor --job`, executed by a job of a few seconds:

    python -m ditscale.launch.doctor.node_probe DIRECTORY [FILE ...]

writes DIRECTORY/answer.json: the node, its GPUs and clock, whether it sees a lock that the asking machine has on
DIRECTORY/lock, whether rename works between the two, and which of the files it cannot read.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import write_text
from ...process import this_process
from ...rundir.lock import is_locked


def look(directory: Path, files: list[str]) -> dict[str, Any]:
    """The answer. It only reads."""
    import torch

    return {
        "node": this_process().node or os.uname().nodename,
        "gpus": torch.cuda.device_count(),
        "torch": torch.__version__,
        "unix": time.time(),
        "locked": is_locked(directory / "lock"),
        "unreadable": [path for path in files if not os.access(path, os.R_OK)],
    }


if __name__ == "__main__":
    there = Path(sys.argv[1])
    try:
        write_text(there / "answer.json", json.dumps(look(there, sys.argv[2:])))  # renamed over the empty one
    except UserError as error:
        sys.exit(f"ditscale: error: {error}")
