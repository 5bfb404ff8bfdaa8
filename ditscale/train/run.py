"""What a run directory asks for: to be trained, or to be rehearsed. Only training loads torch."""

from __future__ import annotations

from pathlib import Path

from ..naming import RunPaths
from ..plan.run import read_run


def execute(run_dir: Path | str) -> str:
    """Train or rehearse the run of a directory to its end; returns "finished". Raises as `train` does (loop.py)."""
    if read_run(RunPaths(run_dir).run).rehearsal:
        from .rehearsed import rehearse

        return rehearse(run_dir)
    from .loop import train

    return train(run_dir)
