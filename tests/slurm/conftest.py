"""A real Slurm of four nodes for the tests of this directory: brought up once (by each of pytest-xdist's workers) by
slurm/local/up, taken down at the end.

With DITSCALE_SLURM_DIR set, the cluster in that directory is used and left running.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "slurm" / "local"


@dataclass(frozen=True)
class Job:
    """One row of squeue."""

    name: str  # as 123_4
    state: str
    node: str
    reason: str
    restarts: int


class Slurm:
    """The cluster of a directory."""

    def __init__(self, directory: Path):
        self.directory = directory
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        self.env = {
            **outside,
            "SLURM_CONF": str(directory / "etc" / "slurm.conf"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PYTHON": sys.executable,
        }

    @property
    def gpus(self) -> bool:
        """Whether nodes have (pretended) GPUs: their device files cannot be made everywhere."""
        return "Gres=gpu" in (self.directory / "etc" / "slurm.conf").read_text()

    def call(self, *words, cwd=None, check=True, timeout=120) -> str:
        """Run a command against this cluster; returns what it printed."""
        done = subprocess.run(
            list(map(str, words)), env=self.env, cwd=cwd, capture_output=True, text=True, timeout=timeout
        )
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def script(self, name: str, *words, check=True) -> str:
        return self.call(SCRIPTS / name, *words, self.directory, check=check)

    def sbatch(self, *words, **more) -> str:
        """Submit; returns the job's number."""
        return self.call("sbatch", "--parsable", *words, **more).strip()

    def jobs(self, number: str) -> dict[str, Job]:
        """The elements of an array (or the one job) that the controller knows, by name."""
        rows = self.call(
            "squeue",
            "--noheader",
            "--states=all",
            f"--jobs={number}",
            "--array",
            "--Format=JobArrayID:|,State:|,NodeList:|,Reason:|,RestartCnt:|",
        )
        cells = [line.strip().split("|") for line in rows.splitlines() if line.strip()]
        return {c[0]: Job(c[0], c[1], c[2], c[3], int(c[4])) for c in cells}

    def wait(self, true, seconds: float = 90, what: str = ""):
        """Wait until `true()`; says the queue when it never comes."""
        until = time.monotonic() + seconds
        while not true():
            if time.monotonic() > until:
                raise AssertionError(
                    f"never: {what}\n{self.call('squeue', '--states=all', check=False)}\n"
                    f"{self.call('sinfo', '-N', check=False)}"
                )
            time.sleep(0.2)

    def ended(self, number: str) -> bool:
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")
        return all(job.state in over for job in self.jobs(number).values())

    def kill(self, daemon: str):
        """SIGKILL to one of the cluster's daemons; `up` starts it again."""
        os.kill(int((self.directory / "pid" / f"{daemon}.pid").read_text()), signal.SIGKILL)

    def restart(self):
        """Stop the controller, which saves its state, and start it again."""
        pid = int((self.directory / "pid" / "slurmctld.pid").read_text())
        self.call("scontrol", "shutdown", "slurmctld")
        self.wait(lambda: not alive(pid), 60, "the controller ends")
        self.script("up")

    def mend(self):
        """Everything up, nothing queued: how each test finds the cluster."""
        self.script("up")
        self.call("scontrol", "update", "partitionname=main", "state=up")
        if self.call("squeue", "--noheader"):
            user = self.call("id", "-un").strip()
            self.call("scancel", f"--user={user}")
            self.wait(lambda: not self.call("squeue", "--noheader"), 60, "the queue empties")


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def records(root: Path) -> dict[str, dict]:
    """What each finished run of a study measured, by run id: loss curve, gradient norms and validation losses, to the
    bit."""
    found = {}
    for path in sorted(root.glob("runs/*/metrics.h5")):
        with h5py.File(path, "r", locking=False) as file:
            assert file["state"][()] == b"finished", (path, file["state"][()])
            steps = file["steps"][:]
            found[path.parent.name] = {k: steps[k].tobytes() for k in ("images", "loss", "loss_ema", "grad_norm")} | {
                "samples": file["samples"][:].tobytes()
            }
    return found


# Six runs of a second or less, and two that last long enough to be disturbed and checkpoint only when they are asked
# to.
SMALL = (
    "study=mini",
    "~evaluation",
    "nested=false",
    "budgets=[2.5e9,5e9]",
    "widths=[16,24,32]",
    "probe_budget=1.2e10",
    "recipe.min_steps=20",
    "validation.n=128",
)
LONG = (
    "study=mini",
    "~evaluation",
    "nested=false",
    "budgets=[4e10]",
    "widths=[40,48]",
    "recipe.min_steps=20",
    "validation.n=128",
    "cluster.checkpoint_s=600",
)


@pytest.fixture
def small():
    return SMALL


@pytest.fixture
def few():
    """The three smallest runs of `small`."""
    return (*SMALL, "budgets=[2.5e9]")


@pytest.fixture
def long():
    return LONG


@pytest.fixture
def plan(ditscale):
    """Plan a study; returns its run ids, sorted."""

    def call(root, *settings):
        done = ditscale("plan", root, *settings)
        assert done.returncode == 0, done.stderr
        return sorted(p.name for p in root.glob("runs/*"))

    return call


@pytest.fixture
def heartbeat():
    """Images that a run's heartbeat tells."""

    def read(root, run) -> int:
        try:
            return json.loads((root / "runs" / run / "heartbeat.json").read_text())["images"]
        except (OSError, ValueError):
            return 0

    return read


@pytest.fixture
def log():
    """All that a run's attempts under Slurm have printed."""
    return lambda root, run: "".join(path.read_text() for path in sorted((root / "runs" / run / "log").glob("*.log")))


@pytest.fixture
def call(slurm, ditscale):
    """The command line, pointed at the cluster."""
    return lambda *words, **env: ditscale(*words, env={**slurm.env, **env})


def read_submissions(root) -> list[dict]:
    """What `ditscale launch` and plain arrays have noted in a study, oldest first."""
    return sorted(
        (json.loads(path.read_text()) for path in root.glob("jobs/*/submission.json")), key=lambda s: s["unix"]
    )


@pytest.fixture
def submissions():
    return read_submissions


@pytest.fixture
def settled(slurm):
    """Wait until all jobs of a study have ended."""
    return lambda root: slurm.wait(
        lambda: all(slurm.ended(s["job"]) for s in read_submissions(root)), 240, "all jobs of the study end"
    )


@pytest.fixture
def status(call):
    """`ditscale status`, by run id."""

    def read(root, **env) -> dict[str, dict]:
        done = call("status", root, "--json", **env)
        assert done.returncode == 0, done.stderr
        return {s["run_id"]: s for s in json.loads(done.stdout)}

    return read


@pytest.fixture
def attempts():
    """A run's attempts, oldest first."""

    def read(path: Path) -> dict:
        until = time.monotonic() + 5
        while not (text := path.read_text()).endswith("}") and time.monotonic() < until:
            time.sleep(0.05)  # it is being written
        return json.loads(text)

    return lambda root, run: [read(path) for path in sorted((root / "runs" / run / "attempts").glob("[0-9]*.json"))]


@pytest.fixture(name="records")
def records_fixture():
    return records


@pytest.fixture(scope="session")
def quiet(ditscale, tmp_path_factory):
    """The undisturbed twin of a study: planned alike, trained here. Made once for all tests, and all of pytest-xdist's
    workers, with the same settings."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def twin(*settings) -> dict[str, dict]:
        root = base / f"quiet-{hashlib.sha256(repr(settings).encode()).hexdigest()[:8]}"
        with open(root.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for words in (("plan", root, *settings), ("launch", root)) if not lock.tell() else ():
                done = ditscale(*words, timeout=600)
                assert done.returncode == 0, done.stdout + done.stderr
            lock.write("trained")
        return records(root)

    return twin


@pytest.fixture(scope="session")
def cluster():
    given = os.environ.get("DITSCALE_SLURM_DIR")
    if given and "PYTEST_XDIST_WORKER" in os.environ:
        given = f"{given}-{os.environ['PYTEST_XDIST_WORKER']}"
    directory = Path(given or tempfile.mkdtemp(prefix="ditscale-slurm-", dir="/tmp"))
    up = subprocess.run([SCRIPTS / "up", directory], capture_output=True, text=True, timeout=600)
    if up.returncode == 3:
        shutil.rmtree(directory, ignore_errors=True)
        pytest.skip(f"no Slurm to test on: {up.stderr.strip().splitlines()[-1]}")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield Slurm(directory)
    finally:
        if not given:
            subprocess.run([SCRIPTS / "down", directory, "--wipe"], check=True, timeout=300)


@pytest.fixture
def slurm(cluster):
    """The cluster, whole and empty."""
    cluster.mend()
    return cluster
