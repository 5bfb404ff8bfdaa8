"""Fencing between attempts of a run: an older attempt that still lives (its node was lost to Slurm, not to power) must
not write any more. DITSCALE_ATTEMPT is the number that attempts.py claimed for this process, and DITSCALE_RUN its run:
nested runs (train/nested.py) are written by the same attempt.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..naming import RunPaths
from .outcomes import Fenced


def check(run_dir: Path):
    """Raise Fenced once a newer attempt is there, of the run that this process has claimed."""
    mine, run_dir = int(os.environ.get("DITSCALE_ATTEMPT", 0)), os.environ.get("DITSCALE_RUN", run_dir)
    if mine and (RunPaths(run_dir).attempts / f"{mine + 1:04d}.json").exists():
        raise Fenced(f"{run_dir}: attempt {mine} ends, for attempt {mine + 1} has taken over")
