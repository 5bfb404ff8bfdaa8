"""Names: run ids, and every file of a study in one place. Nothing ever parses a name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from . import units


def digest(mapping: dict) -> str:
    """SHA-256 of a mapping's canonical JSON: equal for equal content, whatever the order of keys."""
    return hashlib.sha256(json.dumps(mapping, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def run_id(budget_flops: float, depth: int, width: int, seed: int, defines: dict) -> str:
    """'c1e18-d8-w512-s0-3fa9c2': a part to read, and a short hash of all that defines the run's outcome."""
    return f"c{units.compact(budget_flops)}-d{depth}-w{width}-s{seed}-{digest(defines)[:6]}"


class StudyPaths:
    """The study directory."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.study = self.root / "study.yaml"
        self.code = self.root / "code"
        self.runs = self.root / "runs"
        self.jobs = self.root / "jobs"  # the launcher's own files
        self.table = self.root / "study.h5"
        self.csv = self.root / "study.csv"
        self.laws = self.root / "laws.json"
        self.forecast = self.root / "forecast.json"
        self.verdict = self.root / "verdict.json"
        self.report = self.root / "report"

    def run(self, run_id: str) -> RunPaths:
        return RunPaths(self.runs / run_id)

    def run_dirs(self) -> list[RunPaths]:
        """All planned runs, by name."""
        if not self.runs.is_dir():
            return []
        return [RunPaths(d) for d in sorted(self.runs.iterdir()) if (d / "run.yaml").is_file()]


class RunPaths:
    """One run's directory, `runs/<run_id>`."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.run = self.root / "run.yaml"
        self.metrics = self.root / "metrics.h5"
        self.evaluation = self.root / "evaluation.h5"
        self.checkpoint = self.root / "checkpoint"
        self.log = self.root / "log"
        self.lock = self.root / "lock"
        self.heartbeat = self.root / "heartbeat.json"
        self.failure = self.root / "failure.json"
        self.rendezvous = self.root / "rendezvous.json"

    @property
    def name(self) -> str:
        return self.root.name
