"""Names: run ids, and every file of a study in one place. Nothing ever parses a name."""

import hashlib
import json
import os
from pathlib import Path

from . import units
from .errors import UserError


def digest(mapping: dict) -> str:
    """SHA-256 of a mapping's canonical JSON: equal for equal content, whatever the order of keys."""
    return hashlib.sha256(json.dumps(mapping, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def run_id(budget_flops: float, depth: int, width: int, seed: int, defines: dict) -> str:
    """'c1e18-d8-w512-s0-3fa9c2': a readable part, and a short hash of all that defines the run's outcome."""
    return f"c{units.compact(budget_flops)}-d{depth}-w{width}-s{seed}-{digest(defines)[:6]}"


def cache() -> Path:
    """The directory for what several studies use: DITSCALE_CACHE, or one in the user's home."""
    return Path(os.environ.get("DITSCALE_CACHE") or Path.home() / ".cache" / "ditscale")


class _In:
    """The path of a fixed name inside `root`; computed when asked for, since a study has thousands."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, at: "StudyPaths | RunPaths", _: type | None = None) -> Path:
        return at.root / self.name


class RunPaths:
    """One run's directory, `runs/<run_id>`."""

    run = _In("run.yaml")
    metrics = _In("metrics.h5")
    evaluation = _In("evaluation.h5")
    evaluation_parts = _In("evaluation.parts")  # of an evaluation that has not ended
    evaluation_lock = _In("evaluation.lock")
    checkpoint = _In("checkpoint")
    log = _In("log")
    lock = _In("lock")
    heartbeat = _In("heartbeat.json")
    failure = _In("failure.json")
    attempts = _In("attempts")
    rendezvous = _In("rendezvous.json")
    micro_batch = _In("micro_batch.json")  # limit after memory ran out (rundir/outcomes.py)

    def __init__(self, root: Path | str):
        self.root = Path(root)

    @property
    def name(self) -> str:
        return self.root.name

    def attempt(self, number: int) -> Path:
        return self.attempts / f"{number:04d}.json"


class StudyPaths:
    """The study directory."""

    study = _In("study.yaml")
    planned = _In("planned.json")  # run ids, and the verb that planned each
    code = _In("code")
    runs = _In("runs")
    jobs = _In("jobs")  # the launcher's own files
    table = _In("study.h5")
    csv = _In("study.csv")
    laws = _In("laws.json")
    speeds = _In("speeds.json")  # of the finished runs
    forecast = _In("forecast.json")
    verdict = _In("verdict.json")
    rates = _In("rates.json")
    bench = _In("bench.json")
    report = _In("report")

    def __init__(self, root: Path | str):
        self.root = Path(root)

    def laws_of(self, metric: str) -> Path:
        """The laws fitted to a metric's own minima."""
        return self.laws if metric == "loss" else self.root / f"laws-{metric}.json"

    def predictors_of(self, metric: str) -> Path:
        """The fitted predictors behind `laws_of`."""
        return self.root / f"predictors{'' if metric == 'loss' else f'-{metric}'}.json"

    def run(self, run_id: str) -> RunPaths:
        return RunPaths(self.runs / run_id)

    def run_dirs(self) -> list[RunPaths]:
        """All planned runs, by name. Raises UserError where they cannot be listed: an unreadable run is not no run."""
        runs = self.runs
        try:
            return [at for name in sorted(os.listdir(runs)) if (at := RunPaths(runs / name)).run.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"{error.filename or runs}: cannot be read ({error.strerror})") from None
