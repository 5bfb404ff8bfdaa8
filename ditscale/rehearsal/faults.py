"""Faults that hit a rehearsal while it runs, recorded in faults.jsonl. A seed decides beforehand which run is hit, how,
and at which share of its steps. Nodes and the controller are lost on the cluster of slurm/local only."""

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple, Self

import numpy as np

from .. import slurm_client
from ..errors import UserError
from ..files import read_mapping
from ..naming import RunPaths, StudyPaths
from ..plan.run import read_run
from ..rundir.attempts import Attempt, last_attempt, read_attempts
from ..rundir.checkpoints import FACTS, resumable
from ..rundir.lock import is_locked
from ..rundir.record import Damaged, open_record

KINDS = {"local": ("kill", "stop", "truncate"), "slurm": ("kill", "stop", "requeue", "truncate")}
MACHINES = ("node", "controller")  # Faults of the cluster rather than of a run.
POLL_S = 0.1  # Seconds between two readings of the heartbeats.
DOWN_S = 5.0  # Seconds that a killed controller stays down.
LOCK_S, NODE_S = 5.0, 120.0  # Longest waits, for the lock of a killed run and for Slurm to notice a lost node.
SCRIPTS = Path(__file__).resolve().parents[2] / "slurm" / "local"


@dataclass(frozen=True)
class Fault:  # A line of faults.jsonl.
    kind: str  # Of KINDS, or of MACHINES; the controller has no runs.
    runs: tuple[str, ...]  # Those that were running on what was hit.
    attempts: tuple[int, ...]  # Their numbers.
    unix: float
    images: int  # Images that the run had trained on; 0 for machines.
    lost: int  # Rows that heartbeats had reported and that records did not hold afterwards.


def read_faults(path: Path) -> list[Fault]:
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [Fault(**f | {"runs": tuple(f["runs"]), "attempts": tuple(f["attempts"])}) for f in lines]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is damaged; delete {path.parent} and rehearse again") from None


def disturbed(paths: StudyPaths, fault: Fault) -> list[str]:
    """The runs whose attempt the fault ended: not those that finished before it took effect."""
    ends = {name: {a.number: a.ended for a in read_attempts(paths.run(name))} for name in fault.runs}
    return [name for name, number in zip(fault.runs, fault.attempts) if ends[name].get(number) != "finished"]


def local_cluster() -> Path | None:
    """The directory of the slurm/local cluster that SLURM_CONF names; None on any other."""
    conf = Path(os.environ.get("SLURM_CONF", ""))
    try:
        ours = "ClusterName=rehearsal\n" in conf.read_text()
    except OSError:
        return None
    return conf.parent.parent if ours and (SCRIPTS / "break").exists() else None


def check_nodes(nodes: int | None, cluster: str) -> int:
    """The number of nodes to lose: by default one, where that is possible. Raises UserError where it is not."""
    possible = cluster == "slurm" and local_cluster() is not None
    if nodes and not possible:
        raise UserError("--nodes: only nodes of the cluster that slurm/local/up makes can be lost; leave it out here")
    return int(possible) if nodes is None else nodes


class Aim(NamedTuple):
    """A planned fault. share: of the run's steps (of a machine: of the finished runs) after which it is injected."""

    kind: str
    share: float


class Injector(threading.Thread):
    """As a context, hits a share of the runs, each once, and takes down `nodes` nodes in turn, then the controller. A
    run that finishes first passes its fault on to one that has not begun."""

    def __init__(self, paths: StudyPaths, cluster: str, share: float, nodes: int, seed: int):
        super().__init__(daemon=True)
        self.paths, self.path, self.done = paths, paths.root / "faults.jsonl", threading.Event()
        self.random = random.Random(seed)
        before = read_faults(self.path)
        hit = {run for fault in before if fault.kind not in MACHINES for run in disturbed(paths, fault)}
        self.names = [at.name for at in paths.run_dirs()]
        self.random.shuffle(self.names)
        n, kinds = round(share * len(self.names)), KINDS[cluster]
        # The kinds take turns, so that a small rehearsal has all of them.
        aims = [Aim(kinds[i % len(kinds)], self.random.uniform(0.1, 0.8)) for i in range(n)]
        self.due = {name: aim for name, aim in zip(self.names, aims) if name not in hit}
        self.reserve = self.names[n:]
        self.hit: dict[str, tuple[Aim, int]] = {}  # Runs and numbers of the attempts, until these have ended.
        left = Counter({"node": nodes, "controller": int(nodes > 0)}) - Counter(fault.kind for fault in before)
        # Machines to lose, each once a share of the runs has finished.
        self.machines = sorted(Aim("node", self.random.uniform(0.2, 0.5)) for _ in range(left["node"]))
        self.machines += left["controller"] * [Aim("controller", self.random.uniform(0.5, 0.7))]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object):
        self.done.set()
        self.join()

    def run(self):
        machines = threading.Thread(target=self._lose_machines, args=(local_cluster(),), daemon=True)
        machines.start()
        while not self.done.wait(POLL_S):
            for name, aim in list(self.due.items()):
                self._look(self.paths.run(name), aim)
            for name, (aim, number) in list(self.hit.items()):
                self._settle(name, aim, number)
        machines.join()

    def _look(self, at: RunPaths, aim: Aim):
        heartbeat = read_mapping(at.heartbeat)
        if not heartbeat:
            return
        share = heartbeat["images"] / heartbeat["n_images"]
        if heartbeat["phase"] == "validating" or share >= 1:
            self._pass_on(self.due.pop(at.name))
        elif heartbeat["phase"] == "training" and share >= aim.share:
            attempt = last_attempt(at)
            if aim.kind == "truncate" and not resumable(at.checkpoint) or not attempt or attempt.ended:
                return
            if attempt.host == socket.gethostname() and not is_locked(at.lock):
                return  # The process has ended, and the next attempt has not begun.
            self.hit[at.name] = self.due.pop(at.name), attempt.number
            self._inject(at, aim.kind, heartbeat["images"], attempt)

    def _settle(self, name: str, aim: Aim, number: int):
        """Pass a fault on where the attempt that it hit finished all the same."""
        last = last_attempt(self.paths.run(name))
        if last and (last.number > number or last.ended):
            del self.hit[name]
            if last.number == number and last.ended == "finished":
                self._pass_on(aim)

    def _pass_on(self, aim: Aim):
        while self.reserve:
            other = self.reserve.pop(0)
            if not self.paths.run(other).heartbeat.exists():
                self.due[other] = aim
                return

    def _inject(self, at: RunPaths, kind: str, images: int, attempt: Attempt):
        if kind == "requeue":
            slurm_client.requeue(attempt.job)
        else:
            warnings = (signal.SIGTERM, signal.SIGUSR2)
            self._signal(attempt, self.random.choice(warnings) if kind == "stop" else signal.SIGKILL)
        if kind == "truncate":
            _wait_until(lambda: not is_locked(at.lock), LOCK_S, 0.01)
            for newest in resumable(at.checkpoint)[-1:]:
                with suppress(FileNotFoundError):
                    os.truncate(newest / FACTS, (newest / FACTS).stat().st_size // 2)
        self._record(kind, {at.name: attempt.number}, images, lost_rows(at, images))

    def _signal(self, attempt: Attempt, number: signal.Signals):
        """Signal an attempt's process: through Slurm where that started it, but a kill here must not warn."""
        if attempt.job and (number != signal.SIGKILL or attempt.host != socket.gethostname()):
            slurm_client.ask("scancel", f"--signal={number.name[3:]}", f"{attempt.job}.0")
            return
        with suppress(ProcessLookupError):  # It has ended meanwhile.
            os.kill(attempt.pid, number)

    def _record(self, kind: str, runs: dict[str, int], images: int = 0, lost: int = 0):
        fault = Fault(kind, tuple(runs), tuple(runs.values()), time.time(), images, lost)
        with open(self.path, "a") as file:
            file.write(json.dumps(fault.__dict__) + "\n")

    def _lose_machines(self, cluster: Path | None):
        finished = lambda: sum((self.paths.run(name).checkpoint / "final.pt").exists() for name in self.names)
        if cluster is None:
            return
        for kind, share in self.machines:
            running = {}
            while finished() < share * len(self.names) or not (running := self._running()) and kind == "node":
                if self.done.wait(POLL_S):
                    return
            if kind == "node":
                self._lose_node(cluster, *max(running.items(), key=lambda item: len(item[1])))
                continue
            # The controller forgets what it has not saved. Jobs keep running until it is started again.
            os.kill(int((cluster / "pid" / "slurmctld.pid").read_text()), signal.SIGKILL)
            self._record("controller", {})
            time.sleep(DOWN_S)
            subprocess.run([SCRIPTS / "up", cluster], capture_output=True)

    def _lose_node(self, cluster: Path, node: str, runs: dict[str, int]):
        reported = {name: read_mapping(self.paths.run(name).heartbeat)["images"] for name in runs}
        subprocess.run([SCRIPTS / "break", node, cluster], capture_output=True)
        lost = sum(lost_rows(self.paths.run(name), images) for name, images in reported.items())
        self._record("node", runs, lost=lost)
        state = lambda: slurm_client.ask("sinfo", "--noheader", f"--nodes={node}", "--format=%T") or ""
        _wait_until(lambda: "down" in state(), NODE_S, 1.0)
        subprocess.run([SCRIPTS / "mend", node, cluster], capture_output=True)

    def _running(self) -> dict[str, dict[str, int]]:
        """By node, the runs that are in the first half of their steps there, with the numbers of their attempts."""
        by_node: dict[str, dict[str, int]] = defaultdict(dict)
        for at in self.paths.run_dirs():
            heartbeat: dict[str, Any] = read_mapping(at.heartbeat)
            if heartbeat.get("phase") in ("starting", "training") and heartbeat["images"] < heartbeat["n_images"] / 2:
                attempt = last_attempt(at)
                if attempt and not attempt.ended and is_locked(at.lock):
                    by_node[attempt.node][at.name] = attempt.number
        return by_node


def lost_rows(at: RunPaths, images: int) -> int:
    """Rows of steps up to `images`, which a heartbeat reported, that the record does not hold."""
    steps = images // read_run(at.run).recipe.batch_size
    with suppress(Damaged):
        if steps:
            with open_record(at.metrics) as file:
                return steps - int(np.count_nonzero(file["steps"][:steps]["images"]))
    return steps


def _wait_until(condition: Callable[[], bool], seconds: float, poll_s: float):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(poll_s)
