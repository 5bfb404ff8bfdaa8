"""What a job executes: one run directory, and nothing else. submitit pickles only this function's name and the path."""

from __future__ import annotations

import sys


def execute(run_dir: str) -> str:
    """Train the run; returns how it ended. Errors of the user or the run go to the log in one line: the run's own
    record, never the job's exit, says whether it succeeded."""
    from ..errors import UserError
    from ..train.loop import Stopped, train

    try:
        return train(run_dir)
    except Stopped as reason:
        print(reason, flush=True)
        return "stopped"
    except UserError as error:
        print(f"ditscale: error: {error}", file=sys.stderr, flush=True)
        return "failed"
