"""What was submitted to Slurm: jobs/<token>/submission.json, written before sbatch and completed after it. The token is
in the job's name, so a submission cut short is found again in squeue."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import UserError
from ...files import make_directory, write_once, write_text
from ...naming import StudyPaths


@dataclass(frozen=True)
class Submission:
    """One array (or single job): which runs each task trains, and the source that all its attempts import."""

    token: str
    job: str  # Slurm's number; "" until sbatch has answered
    runs: tuple[str, ...]  # run ids, `pack` per task, by the task's index
    code: str
    unix: float
    pack: int = 1

    @property
    def name(self) -> str:
        return f"ditscale-{self.token}"

    @property
    def tasks(self) -> list[tuple[str, ...]]:
        return [self.runs[i : i + self.pack] for i in range(0, len(self.runs), self.pack)]


def write(paths: StudyPaths, submission: Submission, first: bool = False):
    """Write or replace a submission's record. `first`: write it unless another process has."""
    at = paths.jobs / submission.token
    make_directory(at)
    with suppress(FileExistsError):
        (write_once if first else write_text)(at / "submission.json", json.dumps(asdict(submission), indent=1) + "\n")


def read_all(paths: StudyPaths) -> list[Submission]:
    """All submissions of a study, oldest first."""
    return sorted((_read(path) for path in paths.jobs.glob("*/submission.json")), key=lambda s: s.unix)


def _read(path: Path) -> Submission:
    try:
        found = json.loads(path.read_text())
        return Submission(**found | {"runs": tuple(found["runs"])})
    except (OSError, ValueError, TypeError, KeyError):
        then = "move its directory away (its jobs will no longer be recognised as part of this study)"
        raise UserError(f"{path}: is damaged; {then}") from None
