"""The account of a rehearsal: every run and row compared with what they must be, and the fitted laws with the truth."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import h5py
import numpy as np

from .. import units
from ..laws import Laws
from ..laws.synthetic import Truth
from ..naming import RunPaths, StudyPaths
from ..plan.run import read_run
from ..plan.study import read_study
from ..rundir.attempts import read_attempts
from ..rundir.record import Damaged, open_record
from ..train.rehearsed import expected_loss, expected_steps
from .faults import KINDS, MACHINES, disturbed, read_faults

WIDER = 2.0  # Intervals of 95 % are widened by this factor: they then miss a truth once in ten thousand times.
TOLERANCE = {"model exponent": 0.3, "N*": 0.5, "L*": 0.05}  # Relative errors that fail, however wide the interval.
STEP_FIELDS = ("images", "loss", "loss_ema", "grad_norm", "lr")  # Fields of a step that run.yaml determines.


@dataclass(frozen=True)
class Check:
    """One number of the fitted surface against the truth. low, high: the widened interval, None at an open end."""

    name: str
    truth: float
    fitted: float | None
    low: float | None
    high: float | None

    @property
    def held(self) -> bool:
        if self.fitted is None or self.low is None or self.high is None:
            return False
        return self.low <= self.truth <= self.high and abs(self.fitted / self.truth - 1) <= TOLERANCE[self.name]

    def __str__(self) -> str:
        if self.fitted is None:
            return f"{self.truth:.4g}, and the fit was refused"
        low, high = ("?" if x is None else f"{x:.4g}" for x in (self.low, self.high))
        return f"{self.truth:.4g}, fitted {self.fitted:.4g} ({low} to {high}): {'held' if self.held else 'MISSED'}"


@dataclass(frozen=True)
class Account:
    """Content of rehearsal.json. Rows are steps of records."""

    runs: int
    finished: int
    unaccounted: tuple[str, ...]  # runs that did not finish
    attempts: int
    launches: int
    faults: dict[str, int]  # by kind, those that ended an attempt
    too_late: int  # faults whose run finished before they took effect
    runs_hit: int
    rows: int
    lost: int  # rows of finished records, rows that heartbeats reported, and finished runs, where they are missing
    duplicated: int  # steps or runs that appear twice, and runs finished by two attempts
    wrong: int  # rows that differ from what run.yaml determines
    wall_s: float
    status_s: float  # of the slowest reading of the study's status
    checks: tuple[Check, ...]

    @property
    def good(self) -> bool:
        clean = not (self.unaccounted or self.lost or self.duplicated or self.wrong)
        return clean and all(check.held for check in self.checks)

    @property
    def runs_per_minute(self) -> float:
        return 60 * self.finished / self.wall_s

    def to_dict(self) -> dict[str, Any]:
        checks = [asdict(c) | {"held": c.held} for c in self.checks]
        return asdict(self) | {"checks": checks, "runs_per_minute": self.runs_per_minute, "good": self.good}

    def summary(self) -> str:
        faults = ", ".join(f"{n} {kind}" for kind, n in self.faults.items() if n) or "none"
        rows: dict[str, object] = {
            "runs": self.runs, "attempts": self.attempts, "launches": self.launches,
            "faults injected": f"{sum(self.faults.values())}: {faults} (and {self.too_late} too late to take effect)",
            "runs hit": self.runs_hit, "runs finished": self.finished, "runs unaccounted for": len(self.unaccounted),
            "rows of steps": self.rows, "rows lost": self.lost, "rows duplicated": self.duplicated,
            "rows that differ from the truth": self.wrong, "wall time": units.duration(self.wall_s),
            "runs per minute": f"{self.runs_per_minute:.0f}", "slowest status of all runs": f"{self.status_s:.2f} s",
        } | {f"{check.name}, truth": check for check in self.checks}  # fmt: skip
        return "\n".join(["| rehearsal | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def account(paths: StudyPaths, laws: Laws, launches: int, wall_s: float, status_s: float) -> Account:
    """Count everything of a rehearsal that was collected into study.h5 and fitted."""
    faults = read_faults(paths.root / "faults.jsonl")
    hit = {fault: disturbed(paths, fault) for fault in faults}
    by_kind = Counter(fault.kind for fault in faults if hit[fault] or fault.kind == "controller")
    counts = {at.name: _examine(at) for at in paths.run_dirs()}
    total = sum(counts.values(), Counter[str]())
    expected = {at.name: expected_loss(read_run(at.run)) for at in paths.run_dirs()}
    with h5py.File(paths.table, "r") as file:
        names, losses = [name.decode() for name in file["points/run_id"][:]], file["points/loss"][:].tolist()
    wrong = sum(expected.get(name) != loss for name, loss in zip(names, losses))
    in_table = len(set(names))
    return Account(
        runs=len(counts), finished=total["finished"], attempts=total["attempts"], launches=launches,
        unaccounted=tuple(run_id for run_id, of_run in counts.items() if not of_run["finished"]),
        faults={kind: by_kind[kind] for kind in (*KINDS["slurm"], *MACHINES)}, too_late=len(faults) - by_kind.total(),
        runs_hit=len({run for runs in hit.values() for run in runs}), rows=total["rows"],
        lost=sum(fault.lost for fault in faults) + total["lost"] + max(0, total["finished"] - in_table),
        duplicated=len(names) - in_table + total["duplicated"], wrong=wrong + total["wrong"], wall_s=wall_s,
        status_s=status_s, checks=tuple(_checks(paths, laws)),
    )  # fmt: skip


def _examine(at: RunPaths) -> Counter[str]:
    """One run's record compared with what its run.yaml determines: counts by their names in Account."""
    run, attempts = read_run(at.run), read_attempts(at)
    counts = Counter(attempts=len(attempts))
    counts["duplicated"] = max(0, [attempt.ended for attempt in attempts].count("finished") - 1)
    try:
        with open_record(at.metrics) as file:
            finished, steps = file["state"][()] == b"finished", file["steps"][:]
    except Damaged:
        return counts
    written = steps["images"] > 0
    images, expected = steps["images"][written], expected_steps(run)
    right = np.logical_and.reduce([steps[name] == expected[name] for name in STEP_FIELDS])
    counts.update(finished=int(finished), rows=len(images), lost=len(steps) - len(images) if finished else 0)
    counts.update(duplicated=len(images) - len(np.unique(images)), wrong=int((written & ~right).sum()))
    return counts


def _checks(paths: StudyPaths, laws: Laws) -> list[Check]:
    """The surface's model exponent, and N* and L* at the probe's budget, with C = kappa N D for truth and fit alike."""
    study, surface = read_study(paths.root), laws.approach3
    law = study.rehearsal
    assert law is not None
    truth = Truth(law.E, law.A, law.B, law.alpha, law.beta, laws.kappa)
    n_params, _, loss = truth.optimum(study.probe_budget)
    at_probe = laws.predictions[units.compact(study.probe_budget)].approach3
    n, l = (at_probe.n_params, at_probe.loss) if at_probe else (None, None)
    fitted, checks = (surface.model_exponent if surface else None, n, l), []
    for name, true, e in zip(TOLERANCE, (truth.model_exponent, float(n_params), float(loss)), fitted):
        value, ends = (e.value, (e.low, e.high)) if e else (math.nan, (None, None))
        # The fit's 95 % interval, on a log scale WIDER times as wide.
        low, high = (end and value * math.exp(WIDER * math.log(end / value)) for end in ends)
        checks.append(Check(name, true, value if e else None, low, high))
    return checks
