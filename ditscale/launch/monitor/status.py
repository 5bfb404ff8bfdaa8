"""The status of every run of a study, from its own files: heartbeat, lock and record. Works while runs write."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Callable

from ... import units
from ...errors import UserError
from ...files import of_kinds, read_mapping, write_text
from ...naming import RunPaths, StudyPaths
from ...plan.run import Run, read_run
from ...price.spent import Spent, spent_on
from ...rundir.attempts import LIVE_S, heartbeat_age, last_attempt
from ...rundir.lock import is_locked
from ...rundir.record import Damaged, read_end, read_totals, skipped_note

HERE = socket.gethostname()
# A run that has begun has at least one of these files.
BEGUN = {"attempts", "metrics.h5", "heartbeat.json", "failure.json", "lock"}
# Keys and types of what jobs/seen.json caches about a finished run, and of a heartbeat.
NUMBER = int | float | None
CACHED = {"loss": NUMBER, "host": str, "ranks": int, "attempt": int, "job": str, "reason": str, "spent": dict}
HEARTBEAT = {"images": int, "loss": NUMBER, "images_per_s": NUMBER, "host": str, "phase": str}


class State(StrEnum):
    PLANNED = "planned"
    QUEUED = "queued"  # pending in Slurm
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    FAILED = "failed"
    DIVERGED = "diverged"
    DAMAGED = "damaged"
    FINISHED = "finished"


DONE = (State.FINISHED, State.DIVERGED, State.DAMAGED)  # A launch starts none of these again.


@dataclass(frozen=True)
class RunStatus:
    run: Run
    state: State
    images: int
    loss: float | None
    images_per_s: float | None  # while it is running
    host: str
    reason: str
    ranks: int = 1
    attempt: int = 0  # number of the newest; 0 before the first
    job: str = ""  # Slurm's, as "123_4"
    spent: Spent = Spent()

    @property
    def done_flops(self) -> float:
        """Of training. The images that a nested run shares with its parent run count there."""
        return float(max(0, self.images - self._shared) * self.run.flops_per_image)

    @property
    def left_flops(self) -> float:
        left = 0 if self.state in DONE else self.run.n_images - max(self.images, self._shared)
        return float(left * self.run.flops_per_image)

    @property
    def _shared(self) -> int:
        return self.run.stable_images if self.run.within else 0

    @property
    def eta_s(self) -> float | None:
        return (self.run.n_images - self.images) / self.images_per_s if self.images_per_s else None

    def mfu(self, peak_flops_per_s: float) -> float | None:
        """Model FLOP/s relative to the peak of its ranks."""
        if not self.images_per_s or not peak_flops_per_s:
            return None
        return self.images_per_s * self.run.flops_per_image / (self.ranks * peak_flops_per_s)


Show = Callable[[list[RunStatus], float], None]  # called with a study's status, and the seconds to read it


def study_status(paths: StudyPaths, known: dict[str, RunStatus] | None = None) -> list[RunStatus]:
    """Every planned run, grid first, by budget and size. `known`: earlier results; only what may change is reread."""
    known, run_dirs = {} if known is None else known, paths.run_dirs()
    cache = read_mapping(paths.jobs / "seen.json") if any(at.name not in known for at in run_dirs) else {}
    before = dict(cache)
    for at in run_dirs:
        if at.name not in known:
            known[at.name] = _cached_status(at, read_run(at.run), cache)
        elif known[at.name].state != State.FINISHED:
            known[at.name] = run_status(at, known[at.name].run)
    if cache != before and paths.jobs.is_dir():
        with suppress(UserError):  # The cache only saves time: it may be deleted at any moment, or not be written.
            write_text(paths.jobs / "seen.json", json.dumps(cache), to_disk=False)
    return sorted(known.values(), key=lambda s: (s.run.role, s.run.budget_flops, s.run.n_params, s.run.seed))


def _cached_status(at: RunPaths, run: Run, cache: dict[str, Any]) -> RunStatus:
    """The status of a run, from the cache while the record of a finished one has the same time and size."""
    match cache.get(at.name):
        case [[_, _] as stamp, dict(end)] if end.keys() == CACHED.keys() and of_kinds(end, CACHED):
            if stamp == _stamp(at.metrics) and (spent := _spent_of(end["spent"])):
                return RunStatus(run, State.FINISHED, run.n_images, images_per_s=None, **end | {"spent": spent})
    status = run_status(at, run)
    if status.state == State.FINISHED:
        end = {name: getattr(status, name) for name in CACHED}
        cache[at.name] = [_stamp(at.metrics), end | {"spent": asdict(status.spent)}]
    return status


def _spent_of(cached: dict[str, Any]) -> Spent | None:
    """What the cache says of a run's cost; None where it holds something else."""
    kinds = {f.name: bool if f.name == "gpu" else (int, float) for f in fields(Spent)}
    return Spent(**cached) if cached.keys() == kinds.keys() and of_kinds(cached, kinds) else None


def _stamp(path: Path) -> list[int] | None:
    with suppress(OSError):
        found = os.stat(path)
        return [found.st_mtime_ns, found.st_size]
    return None


def run_status(at: RunPaths, run: Run) -> RunStatus:
    """One run's status. Raises UserError where its directory cannot be read."""
    try:
        names = os.listdir(at.root)
    except OSError as error:
        raise UserError(f"{at.root}: cannot be read ({error.strerror})") from None
    if not BEGUN.intersection(names):
        reason = _no_sign(at) if at.log.name in names else ""
        reason = reason or f"trained as part of {run.within}" * bool(run.within)
        return RunStatus(run, State.PLANNED, 0, None, None, "", reason)
    beat = read_mapping(at.heartbeat, HEARTBEAT)
    images, loss, reason = beat.get("images", 0), beat.get("loss"), ""
    last = last_attempt(at)
    who: dict[str, Any] = {"ranks": last.ranks, "attempt": last.number, "job": last.job} if last else {}
    if is_locked(at.lock) or (last and not last.ended and last.host != HERE and heartbeat_age(at) < LIVE_S):
        host = last.node if last and last.node else beat.get("host", "")
        reason = _and_skipped(beat.get("phase", ""), at, run, images)
        who["spent"] = spent_on(at, run, State.RUNNING)
        return RunStatus(run, State.RUNNING, images, loss, beat.get("images_per_s"), host, reason, **who)
    try:
        recorded, measured = read_end(at.metrics)
        state = State(recorded)
    except (Damaged, ValueError) as error:
        reason = str(error) if isinstance(error, Damaged) else f"{at.metrics}: is damaged: its state is not one of ours"
        return RunStatus(run, State.DAMAGED, images, loss, None, "", reason)
    failure = read_mapping(at.failure, {"reason": str})
    if state == State.FINISHED:
        images, loss = run.n_images, measured
    elif state == State.DIVERGED:
        reason = failure.get("reason", "")
    elif failure:
        state, reason = State.FAILED, failure.get("reason", "")
    elif state == State.RUNNING:
        state, reason = State.INTERRUPTED, "its process is gone; launch again to resume it"
    elif state == State.PLANNED and not last:
        reason = _no_sign(at)
    reason = _and_skipped(reason, at, run, images)
    who["spent"] = spent_on(at, run, state)
    return RunStatus(run, state, images, loss, None, beat.get("host", ""), reason, **who)


def _and_skipped(reason: str, at: RunPaths, run: Run, images: int) -> str:
    """`reason`, and how many of the run's steps up to `images` were skipped, if that is more than a few."""
    steps = images // run.recipe.batch_size
    skipped = skipped_note(read_totals(at.metrics).skipped, steps) if steps else ""
    return "; ".join(filter(None, (reason, skipped)))


def _no_sign(at: RunPaths) -> str:
    """Where to look when a launch on this machine has started a run that wrote nothing; "" while its process lives."""
    attempts = sorted(at.log.glob("attempt-*"), key=lambda path: (len(path.name), path.name))
    files = sorted(attempts[-1].glob("*")) if attempts else []
    pids = [path.name.split("_")[0] for path in files]  # submitit names the files by process ids.
    if not attempts or any(map(_is_alive, pids)):
        return ""
    errors = [path for path in files if path.suffix == ".err"]
    return f"its last attempt wrote nothing; see {errors[0] if errors else attempts[-1]}"


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (OSError, ValueError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return True


def awaiting_parent(statuses: list[RunStatus]) -> set[str]:
    """run_ids of nested runs that their parent run is still to train. They are trained alone once it has ended."""
    unfinished = {s.run.run_id for s in statuses if s.state not in DONE}
    return {s.run.run_id for s in statuses if s.state not in DONE and s.run.within in unfinished}


def table(statuses: list[RunStatus], peak_flops_per_s: float = 0.0) -> str:
    """One row per run; MFU where the peak is known."""
    mfu = f" {'MFU':>4}" if peak_flops_per_s else ""
    head = f"{'run':<34} {'state':<11} {'done':>5} {'loss':>8} {'images/s':>9}{mfu} {'left':>7} {'try':>3} {'node':<10}"
    lines = [f"{head}  note"]
    for s in statuses:
        share = f" {_or(s.mfu(peak_flops_per_s), '.0%'):>4}" if mfu else ""
        done = f"{s.images / s.run.n_images:>5.0%} {_or(s.loss, '.4f'):>8} {_or(s.images_per_s, '.0f'):>9}{share}"
        left, host = units.duration(s.eta_s) if s.eta_s else "", s.host if s.state == State.RUNNING else ""
        lines.append(f"{s.run.run_id:<34} {s.state:<11} {done} {left:>7} {s.attempt or '':>3} {host:<10}  {s.reason}")
    states = [s.state for s in statuses]
    lines.append(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    return "\n".join(line.rstrip() for line in lines)


def _or(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
