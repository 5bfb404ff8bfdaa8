"""The fencing token of this process: the number of the attempt that it has claimed at a run (attempts.py).

An older attempt that still lives (its node was lost to Slurm, not to power) must not write any more. It sees the newer
attempt's file when it checks its token. Nested runs (train/nested.py) are written under the token of their parent run.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from ..naming import RunPaths
from .outcomes import Fenced


@dataclass(frozen=True)
class Token:
    """Attempt `number` at the run of a directory."""

    run_dir: Path
    number: int


# Of the whole process, so that the thread which writes checkpoints has it too. A process trains one run at a time.
_token: Token | None = None


@contextmanager
def holding_token(run_dir: Path, number: int) -> Iterator[None]:
    """In the `with` block, `check` compares with this attempt."""
    global _token
    before, _token = _token, Token(run_dir.absolute(), number)
    try:
        yield
    finally:
        _token = before


def check():
    """Raise Fenced once a newer attempt exists at the run that this process has claimed, if it has claimed one."""
    if _token and RunPaths(_token.run_dir).attempt(_token.number + 1).exists():
        raise Fenced(f"{_token.run_dir}: attempt {_token.number} ends: attempt {_token.number + 1} has taken over")
