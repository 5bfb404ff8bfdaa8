"""Where every run of a study stands, from its own files: heartbeat, lock and record. Works while runs write."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from ... import units
from ...errors import UserError
from ...files import of_kinds, read_mapping
from ...naming import RunPaths, StudyPaths
from ...plan.run import Run, read_run
from ...rundir.attempts import LIVE_S, heartbeat_age, last_attempt
from ...rundir.lock import is_locked
from ...rundir.record import Damaged, read_end, read_skipped, skipped_note
from .status_cache import Seen

HERE = socket.gethostname()
# any of these is there once a run has begun
BEGUN = {"attempts", "metrics.h5", "heartbeat.json", "failure.json", "lock"}
# what is remembered of a finished run, and what is asked of a heartbeat
NUMBER = int | float | None
SEEN = {"loss": NUMBER, "host": str, "ranks": int, "attempt": int, "job": str, "reason": str}
HEART = {"images": int, "loss": NUMBER, "images_per_s": NUMBER, "host": str, "phase": str}
DONE = ("finished", "diverged", "damaged")  # nothing more will happen to these by themselves


@dataclass(frozen=True)
class RunStatus:
    """One run. `state`: planned, queued (in Slurm), running, interrupted, stopped, failed, diverged, damaged or
    finished."""

    run: Run
    state: str
    images: int
    loss: float | None
    images_per_s: float | None
    host: str
    reason: str
    ranks: int = 1
    attempt: int = 0  # number of the newest; 0 before the first
    job: str = ""  # of Slurm, as 123_4

    @property
    def done_flops(self) -> float:
        """Of training; what a run has in common with the one it is read from is that one's."""
        return float(max(0, self.images - self._in_common) * self.run.flops_per_image)

    @property
    def left_flops(self) -> float:
        left = 0 if self.state in DONE else self.run.n_images - max(self.images, self._in_common)
        return float(left * self.run.flops_per_image)

    @property
    def _in_common(self) -> int:
        return self.run.stable_images if self.run.within else 0

    @property
    def eta_s(self) -> float | None:
        if self.state != "running" or not self.images_per_s:
            return None
        return (self.run.n_images - self.images) / self.images_per_s

    def mfu(self, peak_flops_per_s: float) -> float | None:
        """Model FLOP/s over what its ranks could do at most."""
        if self.state != "running" or not self.images_per_s or not peak_flops_per_s:
            return None
        return self.images_per_s * self.run.flops_per_image / (self.ranks * peak_flops_per_s)


def study_status(paths: StudyPaths, known: dict[str, RunStatus] | None = None) -> list[RunStatus]:
    """Every planned run, grid first, by budget and size.

    `known`, this function's own earlier findings, saves a watcher the reading of what cannot have changed; it is
    updated.
    """
    known, seen = {} if known is None else known, None
    for at in paths.run_dirs():
        before = known.get(at.name)
        if before is None:
            seen = seen or Seen(paths.jobs / "seen.json")
            run, end = read_run(at.run), seen.end(at)
            if end and not (end.keys() == SEEN.keys() and of_kinds(end, SEEN)):  # of an older version, or damaged
                end = None
            known[at.name] = (
                RunStatus(run, "finished", run.n_images, images_per_s=None, **end) if end else run_status(at, run)
            )
            if known[at.name].state == "finished" and not end:
                seen.note_end(at, {name: getattr(known[at.name], name) for name in SEEN})
        elif before.state != "finished":
            known[at.name] = run_status(at, before.run)
    if seen:
        seen.save()
    return sorted(known.values(), key=lambda s: (s.run.role, s.run.budget_flops, s.run.n_params, s.run.seed))


def run_status(at: RunPaths, run: Run) -> RunStatus:
    """One run's status. Raises UserError where its directory cannot be read."""
    try:
        names = os.listdir(at.root)
    except OSError as error:
        raise UserError(f"{at.root}: cannot be read ({error.strerror})") from None
    if not BEGUN.intersection(names):
        reason = _no_sign(at) if at.log.name in names else ""
        reason = reason or (f"read from {run.within}" if run.within else "")
        return RunStatus(run, "planned", 0, None, None, "", reason)
    heart = read_mapping(at.heartbeat, HEART)
    images, loss, reason = heart.get("images", 0), heart.get("loss"), ""
    last = last_attempt(at)
    who = {"ranks": last.ranks, "attempt": last.number, "job": last.job} if last else {}
    if is_locked(at.lock) or (last and not last.ended and last.host != HERE and heartbeat_age(at) < LIVE_S):
        host = last.node if last and last.node else heart.get("host", "")
        reason = _and_skipped(heart.get("phase", ""), at, run, images)
        return RunStatus(run, "running", images, loss, heart.get("images_per_s"), host, reason, **who)
    try:
        state, measured = read_end(at.metrics)
    except Damaged as error:
        return RunStatus(run, "damaged", images, loss, None, "", str(error))
    failure = read_mapping(at.failure, {"reason": str})
    if state == "finished":
        images, loss = run.n_images, measured
    elif state == "diverged":
        reason = failure.get("reason", "")
    elif failure:
        state, reason = "failed", failure.get("reason", "")
    elif state == "running":
        state, reason = "interrupted", "its process is gone; launching again resumes it"
    elif state == "planned" and not last:
        reason = _no_sign(at)
    reason = _and_skipped(reason, at, run, images)
    return RunStatus(run, state, images, loss, None, heart.get("host", ""), reason, **who)


def _and_skipped(reason: str, at: RunPaths, run: Run, images: int) -> str:
    """A note, and how many of the run's steps up to so many images were skipped, if that is worth a word."""
    steps = images // run.recipe.batch_size
    skipped = skipped_note(read_skipped(at.metrics), steps) if steps else ""
    return "; ".join(filter(None, (reason, skipped)))


def _no_sign(at: RunPaths) -> str:
    """Of a run that a launch on this machine has started and that has written nothing: where to look. Nothing while
    that process lives, for it may only be slow to start."""
    attempts = sorted(at.log.glob("attempt-*"), key=lambda path: (len(path.name), path.name))
    if not attempts:
        return ""
    files = sorted(attempts[-1].glob("*"))
    if any(_is_alive(path.name.split("_")[0]) for path in files):  # submitit's number of a job is a process id
        return ""
    printed = [path for path in files if path.suffix == ".err"]
    return f"its last attempt left no sign; see {printed[0] if printed else attempts[-1]}"


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


def left_to_hosts(statuses: list[RunStatus]) -> set[str]:
    """run_ids that another run is still to be read for (plan/nest.py): once that is done without, they are trained as
    others are."""
    open_hosts = {s.run.run_id for s in statuses if s.state not in DONE}
    return {s.run.run_id for s in statuses if s.state not in DONE and s.run.within in open_hosts}


def table(statuses: list[RunStatus], peak_flops_per_s: float = 0.0) -> str:
    """One row a run; MFU where the peak is known."""
    mfu = f" {'MFU':>4}" if peak_flops_per_s else ""
    lines = [
        f"{'run':<34} {'state':<11} {'done':>5} {'loss':>8} {'images/s':>9}{mfu} {'left':>7} {'try':>3} {'node':<10}  "
        "note"
    ]
    for s in statuses:
        share = f" {_or(s.mfu(peak_flops_per_s), '.0%'):>4}" if mfu else ""
        lines.append(
            f"{s.run.run_id:<34} {s.state:<11} {s.images / s.run.n_images:>5.0%} {_or(s.loss, '.4f'):>8} "
            f"{_or(s.images_per_s, '.0f'):>9}{share} {units.duration(s.eta_s) if s.eta_s else '':>7} "
            f"{s.attempt or '':>3} {s.host if s.state == 'running' else '':<10}  {s.reason}"
        )
    states = [s.state for s in statuses]
    lines.append(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    return "\n".join(line.rstrip() for line in lines)


def _or(value, form: str) -> str:
    return "" if value is None else format(value, form)
