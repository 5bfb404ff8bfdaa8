"""The account of a rehearsal: every run and row against what they must be, and the fitted laws against the truth."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass

import h5py
import numpy as np

from .. import units
from ..laws import Laws
from ..laws.estimates import Estimate
from ..naming import RunPaths, StudyPaths
from ..plan.run import Run, read_run
from ..plan.study import read_study
from ..rundir.attempts import read_attempts
from ..rundir.record import Damaged, open_record
from ..train.rehearsed import expected_loss, expected_steps
from .faults import KINDS, MACHINES, disturbed, read_faults
from .surface import truth_of

WIDER = 2.0  # the intervals are of 95 %; twice as wide they miss a truth about once in ten thousand times
TOLERANCE = {"model exponent": 0.3, "N*": 0.5, "L*": 0.05}  # a miss by more counts, however wide the interval


@dataclass(frozen=True)
class Check:
    """One number of the fitted surface against the truth; `low` and `high` are the interval that is asked to hold
    it."""

    name: str
    truth: float
    fitted: float | None
    low: float | None
    high: float | None

    @property
    def held(self) -> bool:
        if None in (self.fitted, self.low, self.high):
            return False
        return self.low <= self.truth <= self.high and abs(self.fitted / self.truth - 1) <= TOLERANCE[self.name]

    def __str__(self) -> str:
        if self.fitted is None:
            return f"{self.name}: {self.truth:.4g}, and the fit was refused"
        ends = " to ".join("?" if x is None else f"{x:.4g}" for x in (self.low, self.high))
        return f"{self.name}: {self.truth:.4g}, fitted {self.fitted:.4g} ({ends}): {'held' if self.held else 'MISSED'}"


@dataclass(frozen=True)
class Account:
    """Content of rehearsal.json. Rows are steps of records; `wrong` ones differ from what run.yaml defines.

    lost: rows missing from a finished record, or told of in a heartbeat and missing after a fault, and finished runs
    missing from study.h5. duplicated: steps or runs that are there twice, and runs finished by two attempts.
    unaccounted: runs that did not finish. faults: by kind, those that ended an attempt; too_late: those whose run
    finished before they came through. status_s: the slowest look at all runs while they ran.
    """

    runs: int
    finished: int
    unaccounted: tuple[str, ...]
    attempts: int
    launches: int
    faults: dict[str, int]
    too_late: int
    runs_hit: int
    rows: int
    lost: int
    duplicated: int
    wrong: int
    wall_s: float
    status_s: float
    checks: tuple[Check, ...]

    @property
    def good(self) -> bool:
        clean = not (self.unaccounted or self.lost or self.duplicated or self.wrong)
        return clean and all(check.held for check in self.checks)

    @property
    def runs_per_minute(self) -> float:
        return 60 * self.finished / self.wall_s

    def to_dict(self) -> dict:
        checks = [asdict(c) | {"held": c.held} for c in self.checks]
        return asdict(self) | {"checks": checks, "runs_per_minute": self.runs_per_minute, "good": self.good}

    def table(self) -> str:
        """A Markdown table."""
        faults = ", ".join(f"{n} {kind}" for kind, n in self.faults.items() if n) or "none"
        rows = {
            "runs": str(self.runs),
            "attempts": str(self.attempts),
            "launches": str(self.launches),
            "faults injected": f"{sum(self.faults.values())}: {faults} (and {self.too_late} too late to be felt)",
            "runs hit": str(self.runs_hit),
            "runs finished": str(self.finished),
            "runs unaccounted for": str(len(self.unaccounted)),
            "rows of steps": str(self.rows),
            "rows lost": str(self.lost),
            "rows duplicated": str(self.duplicated),
            "rows that differ from the truth": str(self.wrong),
            "wall time": units.duration(self.wall_s),
            "runs per minute": f"{self.runs_per_minute:.0f}",
            "slowest status of all runs": f"{self.status_s:.2f} s",
        } | {f"{c.name}, truth": str(c).removeprefix(f"{c.name}: ") for c in self.checks}
        return "\n".join(["| rehearsal | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


def account(paths: StudyPaths, laws: Laws, launches: int, wall_s: float, status_s: float) -> Account:
    """Count everything of a rehearsal that was collected into study.h5 and fitted."""
    faults = read_faults(paths.root / "faults.jsonl")
    hit = {fault: disturbed(paths, fault) for fault in faults}
    counted = Counter(fault.kind for fault in faults if hit[fault] or fault.kind == "controller")
    lost = sum(fault.lost for fault in faults)
    found = [_examine(at) for at in paths.run_dirs()]
    unfinished = tuple(f["run"].run_id for f in found if not f["finished"])
    in_table, twice, wrong = _table(paths, [f["run"] for f in found])
    finished = len(found) - len(unfinished)
    return Account(
        runs=len(found),
        finished=finished,
        unaccounted=unfinished,
        attempts=sum(f["attempts"] for f in found),
        launches=launches,
        faults={kind: counted.get(kind, 0) for kind in (*KINDS["slurm"], *MACHINES)},
        too_late=len(faults) - counted.total(),
        runs_hit=len({run for runs in hit.values() for run in runs}),
        rows=sum(f["rows"] for f in found),
        lost=lost + sum(f["lost"] for f in found) + max(0, finished - in_table),
        duplicated=twice + sum(f["duplicated"] for f in found),
        wrong=wrong + sum(f["wrong"] for f in found),
        wall_s=wall_s,
        status_s=status_s,
        checks=tuple(_checks(paths, laws)),
    )


def _examine(at: RunPaths) -> dict:
    """One run's record against what its run.yaml defines."""
    run, tries = read_run(at.run), read_attempts(at)
    ends = [attempt.ended for attempt in tries].count("finished")
    found = {"run": run, "attempts": len(tries), "finished": False, "rows": 0, "lost": 0, "wrong": 0}
    found["duplicated"] = max(0, ends - 1)
    try:
        with open_record(at.metrics) as file:
            state, rows = file["state"][()].decode(), file["steps"][:]
    except Damaged:
        return found
    there = rows["images"] > 0
    images = rows["images"][there]
    must = expected_steps(run)
    fields = ("images", "loss", "loss_ema", "grad_norm", "lr")
    right = np.logical_and.reduce([rows[name] == must[name] for name in fields])
    return found | {
        "finished": state == "finished",
        "rows": len(images),
        "lost": len(rows) - len(images) if state == "finished" else 0,
        "duplicated": found["duplicated"] + len(images) - len(np.unique(images)),
        "wrong": int((there & ~right).sum()),
    }


def _table(paths: StudyPaths, runs: list[Run]) -> tuple[int, int, int]:
    """Runs in study.h5, those that are there twice, and losses that are not the run's."""
    must = {run.run_id: expected_loss(run) for run in runs}
    with h5py.File(paths.table, "r") as file:
        names, losses = [name.decode() for name in file["points/run_id"][:]], file["points/loss"][:].tolist()
    wrong = sum(must.get(name) != loss for name, loss in zip(names, losses))
    return len(set(names)), len(names) - len(set(names)), wrong


def _checks(paths: StudyPaths, laws: Laws):
    """The surface's model exponent, and N* and L* at the probe's budget, with C = kappa N D for truth and fit alike."""
    study = read_study(paths.root)
    truth = truth_of(study.rehearsal, laws.kappa)
    n_params, _, loss = truth.optimum(study.probe_budget)
    at_probe = laws.predictions[units.compact(study.probe_budget)].approach3
    exponent = laws.approach3.model_exponent if laws.approach3 else None
    yield _check("model exponent", truth.model_exponent, exponent)
    yield _check("N*", float(n_params), at_probe.n_params if at_probe else None)
    yield _check("L*", float(loss), at_probe.loss if at_probe else None)


def _check(name: str, truth: float, fitted: Estimate | None) -> Check:
    """The 95 % interval, on a log scale WIDER times as wide; an end that the fit leaves open is none."""
    if fitted is None:
        return Check(name, truth, None, None, None)
    ends = [e and fitted.value * math.exp(WIDER * math.log(e / fitted.value)) for e in (fitted.low, fitted.high)]
    return Check(name, truth, fitted.value, *ends)


def write(paths: StudyPaths, made: Account):
    """rehearsal.json and rehearsal.md."""
    from ..files import write_text

    write_text(paths.root / "rehearsal.json", json.dumps(made.to_dict(), indent=1) + "\n")
    write_text(paths.root / "rehearsal.md", made.table() + "\n")
