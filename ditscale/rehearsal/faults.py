"""Faults that befall a rehearsal while it runs: kills, requests to stop, requeues, damaged checkpoints, lost nodes, a
killed controller.

Which run is hit, how, and how far it must have come, is drawn beforehand from a seed. Every fault is written down in
faults.jsonl. Only jobs of the study are touched; nodes and the controller are lost on the cluster of
slurm/local alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

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
MACHINES = ("node", "controller")  # faults of the cluster rather than of a run
LOOK_S = 0.1
AWAY_S = 5.0  # that a killed controller stays away
SCRIPTS = Path(__file__).resolve().parents[2] / "slurm" / "local"


@dataclass(frozen=True)
class Fault:
    """A line of faults.jsonl. `runs` are those at work on what was hit, `attempts` the numbers of their attempts;
    `lost` counts rows that they had told of in their heartbeat and that their record did not hold afterwards."""

    kind: str  # of KINDS, or of MACHINES; the controller has no runs
    runs: tuple[str, ...]
    attempts: tuple[int, ...]
    unix: float
    images: int  # that the run had seen; 0 for a node
    lost: int

    def text(self) -> str:
        return json.dumps(self.__dict__) + "\n"


def read_faults(path: Path) -> list[Fault]:
    """The faults injected so far, oldest first."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    try:
        found = [json.loads(line) for line in lines]
        return [Fault(**f | {"runs": tuple(f["runs"]), "attempts": tuple(f["attempts"])}) for f in found]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is damaged; delete {path.parent} and rehearse again") from None


def disturbed(paths: StudyPaths, fault: Fault) -> list[str]:
    """The runs whose attempt the fault ended: not those that finished before it came through."""
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


class Injector(threading.Thread):
    """Hits a share of the runs, each once, while `with` it they run; and loses `nodes` nodes, one after the other,
    then, if any, the controller.

    A run that finishes before its fault comes through passes it on to one that has not begun.
    """

    def __init__(self, paths: StudyPaths, cluster: str, share: float, nodes: int, seed: int):
        super().__init__(daemon=True)
        self.paths, self.log = paths, paths.root / "faults.jsonl"
        draw = random.Random(seed)
        before = read_faults(self.log)
        hit = {run for fault in before if fault.kind not in MACHINES for run in disturbed(paths, fault)}
        names = [at.name for at in paths.run_dirs()]
        draw.shuffle(names)
        n = round(share * len(names))
        # kinds in turn, so that a small rehearsal sees all of them
        kinds = [KINDS[cluster][i % len(KINDS[cluster])] for i in range(n)]
        plan = [(kind, draw.uniform(0.1, 0.8)) for kind in kinds]
        self.due = {name: fault for name, fault in zip(names, plan) if name not in hit}
        # fault and attempt number of runs that were hit, until that attempt has ended
        self.aimed: dict[str, tuple] = {}
        self.reserve = names[n:]
        self.by_slurm = cluster == "slurm"
        left = Counter({"node": nodes, "controller": int(nodes > 0)}) - Counter(fault.kind for fault in before)
        # at shares of the runs that have ended
        self.lose_at = (
            sorted(draw.uniform(0.2, 0.5) for _ in range(left["node"])),
            left["controller"] * [draw.uniform(0.5, 0.7)],
        )
        self.draw, self.size, self.done = draw, len(names), threading.Event()

    def __enter__(self) -> Injector:
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()

    def run(self):
        machines = threading.Thread(target=self._lose_machines, daemon=True)
        machines.start()
        while not self.done.wait(LOOK_S):
            for name, (kind, share) in list(self.due.items()):
                self._look(self.paths.run(name), kind, share)
            for name, (fault, number) in list(self.aimed.items()):
                self._settle(name, fault, number)
        machines.join()

    def _look(self, at: RunPaths, kind: str, share: float):
        heart = read_mapping(at.heartbeat)
        if not heart:
            return
        seen = heart["images"] / heart["n_images"]
        if heart["phase"] == "validating" or seen >= 1:
            self._pass_on(self.due.pop(at.name))
        elif heart["phase"] == "training" and seen >= share and (kind != "truncate" or resumable(at.checkpoint)):
            attempt = last_attempt(at)
            if not attempt or attempt.ended or not (attempt.host != socket.gethostname() or is_locked(at.lock)):
                return  # between two attempts
            self.aimed[at.name] = (self.due.pop(at.name), attempt.number)
            self._inject(at, kind, heart["images"], attempt)

    def _settle(self, name: str, fault: tuple, number: int):
        """Whether a fault came in time."""
        last = last_attempt(self.paths.run(name))
        if last.number > number or last.ended:
            del self.aimed[name]
            if last.number == number and last.ended == "finished":
                self._pass_on(fault)

    def _pass_on(self, fault: tuple):
        while self.reserve:
            other = self.reserve.pop(0)
            if not self.paths.run(other).heartbeat.exists():
                self.due[other] = fault
                return

    def _inject(self, at: RunPaths, kind: str, images: int, attempt: Attempt):
        if kind == "requeue":
            slurm_client.requeue(attempt.job)
        elif kind == "stop":
            self._signal(attempt, self.draw.choice((signal.SIGTERM, signal.SIGUSR2)))
        else:
            self._signal(attempt, signal.SIGKILL)
        if kind == "truncate":
            until = time.monotonic() + 5
            while is_locked(at.lock) and time.monotonic() < until:
                time.sleep(0.01)
            for newest in resumable(at.checkpoint)[-1:]:
                facts = newest / FACTS
                try:
                    os.truncate(facts, facts.stat().st_size // 2)
                except FileNotFoundError:
                    pass
        self._note(Fault(kind, (at.name,), (attempt.number,), time.time(), images, lost_rows(at, images)))

    def _signal(self, attempt: Attempt, number: signal.Signals):
        """Signal an attempt's process: through Slurm where Slurm started it, but for a kill on this very machine, which
        is to come unannounced."""
        if attempt.job and (number != signal.SIGKILL or attempt.host != socket.gethostname()):
            slurm_client.ask("scancel", f"--signal={number.name[3:]}", f"{attempt.job}.0")
            return
        try:
            os.kill(attempt.pid, number)
        except ProcessLookupError:
            pass  # it has ended meanwhile

    def _note(self, fault: Fault):
        with open(self.log, "a") as file:
            file.write(fault.text())

    # ---------------------------------------------------------------------------------------------------- machines

    def _lose_machines(self):
        nodes, controllers = self.lose_at
        self._lose_nodes(nodes, local_cluster())
        for share in controllers:
            while self._ended_share() < share:
                if self.done.wait(LOOK_S):
                    return
            self._lose_controller(local_cluster())

    def _lose_controller(self, directory: Path):
        """SIGKILL: it forgets what it has not saved. Jobs go on; then it comes back."""
        os.kill(int((directory / "pid" / "slurmctld.pid").read_text()), signal.SIGKILL)
        self._note(Fault("controller", (), (), time.time(), 0, 0))
        time.sleep(AWAY_S)
        subprocess.run([SCRIPTS / "up", directory], capture_output=True)

    def _lose_nodes(self, shares: list[float], directory: Path):
        for share in shares:
            while self._ended_share() < share or not (at_work := self._at_work()):
                if self.done.wait(LOOK_S):
                    return
            node, hit = max(at_work.items(), key=lambda item: len(item[1]))
            told = {at.name: read_mapping(at.heartbeat)["images"] for at, _ in hit}
            subprocess.run([SCRIPTS / "break", node, directory], capture_output=True)
            lost = sum(lost_rows(self.paths.run(name), images) for name, images in told.items())
            self._note(Fault("node", tuple(told), tuple(number for _, number in hit), time.time(), 0, lost))
            until = time.monotonic() + 120
            while "down" not in (slurm_client.ask("sinfo", "--noheader", f"--nodes={node}", "--format=%T") or ""):
                if time.monotonic() > until:
                    break
                time.sleep(1)
            subprocess.run([SCRIPTS / "mend", node, directory], capture_output=True)

    def _at_work(self) -> dict[str, list[tuple[RunPaths, int]]]:
        """By node, the runs that are in the first half of their steps there, and the numbers of their attempts."""
        found = {}
        for at in self.paths.run_dirs():
            heart = read_mapping(at.heartbeat)
            if heart.get("phase") in ("starting", "training") and heart["images"] < heart["n_images"] / 2:
                attempt = last_attempt(at)
                if not attempt.ended and is_locked(at.lock):
                    found.setdefault(attempt.node, []).append((at, attempt.number))
        return found

    def _ended_share(self) -> float:
        return sum(at.checkpoint.joinpath("final.pt").exists() for at in self.paths.run_dirs()) / self.size


def lost_rows(at: RunPaths, images: int) -> int:
    """Rows of steps up to `images`, which a heartbeat told of, that the record does not hold."""
    steps = images // read_run(at.run).recipe.batch_size
    if not steps:
        return 0
    try:
        with open_record(at.metrics) as file:
            return steps - int(np.count_nonzero(file["steps"][:steps]["images"]))
    except Damaged:
        return steps


def check_nodes(nodes: int | None, cluster: str) -> int:
    """How many nodes are to be lost: one, if not said, where that can be done. Raises UserError where it cannot."""
    possible = cluster == "slurm" and local_cluster() is not None
    if nodes and not possible:
        raise UserError("--nodes: only nodes of the cluster that slurm/local/up makes can be lost; leave it out here")
    return int(possible) if nodes is None else nodes
