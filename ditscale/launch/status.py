"""Where every run of a study stands, from its own files: heartbeat, lock and record. Works while runs write."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from .. import units
from ..naming import RunPaths, StudyPaths
from ..plan.run import Run, read_run
from ..store.record import Damaged, open_record, read_state
from ..store.lock import is_locked

DONE = ("finished", "diverged", "damaged")  # nothing more will happen to these by themselves


@dataclass(frozen=True)
class RunStatus:
    """One run. `state`: planned, running, interrupted, stopped, failed, diverged, damaged or finished."""

    run: Run
    state: str
    images: int
    loss: float | None
    images_per_s: float | None
    host: str
    reason: str

    @property
    def done_flops(self) -> float:
        return float(self.images * self.run.flops_per_image)

    @property
    def left_flops(self) -> float:
        left = 0 if self.state in DONE else self.run.n_images - self.images
        return float(left * self.run.flops_per_image)

    @property
    def eta_s(self) -> float | None:
        if self.state != "running" or not self.images_per_s:
            return None
        return (self.run.n_images - self.images) / self.images_per_s


def study_status(paths: StudyPaths, known: dict[str, RunStatus] | None = None) -> list[RunStatus]:
    """Every planned run, grid first, by budget and size.

    `known`, this function's own earlier findings, saves a watcher the reading of what cannot have changed; it is updated.
    """
    known = {} if known is None else known
    for at in paths.run_dirs():
        before = known.get(at.name)
        if before is None or before.state != "finished":
            known[at.name] = run_status(at, before.run if before else read_run(at.run))
    return sorted(known.values(), key=lambda s: (s.run.role, s.run.budget_flops, s.run.n_params, s.run.seed))


def run_status(at: RunPaths, run: Run) -> RunStatus:
    """One run's status."""
    heart = _json(at.heartbeat)
    images, loss, reason = heart.get("images", 0), heart.get("loss"), ""
    if is_locked(at.lock):
        return RunStatus(run, "running", images, loss, heart.get("images_per_s"), heart.get("host", ""), heart.get("phase", ""))
    try:
        state = read_state(at.metrics)
    except Damaged as error:
        return RunStatus(run, "damaged", images, loss, None, "", str(error))
    failure = _json(at.failure)
    if state == "finished":
        images = run.n_images
        with open_record(at.metrics) as file:
            loss = float(file["validation"][0]["loss"])
    elif state == "diverged":
        reason = failure.get("reason", "")
    elif failure:
        state, reason = "failed", failure["reason"]
    elif state == "running":
        state, reason = "interrupted", "its process is gone; launching again resumes it"
    return RunStatus(run, state, images, loss, None, heart.get("host", ""), reason)


def table(statuses: list[RunStatus]) -> str:
    """One row a run."""
    lines = [f"{'run':<34} {'state':<11} {'done':>5} {'loss':>8} {'images/s':>9} {'left':>7}  note"]
    for s in statuses:
        lines.append(
            f"{s.run.run_id:<34} {s.state:<11} {s.images / s.run.n_images:>5.0%} {_or(s.loss, '.4f'):>8} "
            f"{_or(s.images_per_s, '.0f'):>9} {units.duration(s.eta_s) if s.eta_s else '':>7}  {s.reason}"
        )
    states = [s.state for s in statuses]
    lines.append(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    return "\n".join(line.rstrip() for line in lines)


def _or(value, form: str) -> str:
    return "" if value is None else format(value, form)


def _json(path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
