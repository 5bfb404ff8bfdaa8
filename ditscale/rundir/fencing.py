"""The fencing token of this process: the number of the attempt that it has claimed at a run (attempts.py). An older
attempt that still lives must not write any more. Nested runs are written under the token of their parent run."""

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from ..naming import RunPaths
from .outcomes import Fenced

# Directory of the run, and number of the attempt: of the whole process, so that the thread which writes checkpoints has
# it too. A process trains one run at a time.
_token: tuple[Path, int] | None = None


@contextmanager
def holding_token(run_dir: Path, number: int) -> Iterator[None]:
    """In the `with` block, `check` compares with this attempt."""
    global _token
    before, _token = _token, (run_dir.absolute(), number)
    try:
        yield
    finally:
        _token = before


def check():
    """Raise Fenced once a newer attempt exists at the run that this process has claimed, if it has claimed one."""
    run_dir, number = _token or (None, 0)
    if run_dir and RunPaths(run_dir).attempt(number + 1).exists():
        raise Fenced(f"{run_dir}: attempt {number} ends: attempt {number + 1} has taken over")
