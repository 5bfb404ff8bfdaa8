"""What may go wrong on the cluster a user stands on, each finding with what to do. It submits nothing unless asked."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..config import Cluster
from . import queue

OK, NOTE, BAD = "ok", "note", "bad"
SKEW_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `level`: ok, note (works, but know it) or bad; `what` was found, `remedy` is what to do."""

    level: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.what}{f'; {self.remedy}' if self.remedy else ''}"


def examine(root: Path, cluster: Cluster, job: bool = False) -> list[Finding]:
    """All findings about the cluster, the study's (or any) directory, and with `job` about a node, by a short job."""
    found = [*_slurm(cluster), *directory(root)]
    if job and not any(f.level == BAD for f in found):
        found += _on_a_node(root, cluster)
    return found


# ---------------------------------------------------------------------------------------------------------------- Slurm


def _slurm(cluster: Cluster) -> list[Finding]:
    missing = [name for name in ("sbatch", "squeue", "scontrol", "scancel", "srun") if shutil.which(name) is None]
    if missing:
        return [
            Finding(
                BAD,
                f"not on the PATH: {', '.join(missing)}",
                "run on a login node of the cluster, or load its Slurm module",
            )
        ]
    text = queue.ask("scontrol", "show", "config")
    if text is None:
        return [
            Finding(
                BAD,
                "the controller gives no answer",
                f"see `scontrol ping`; SLURM_CONF is {os.environ.get('SLURM_CONF', 'not set')}",
            )
        ]
    return [*settings(text), *_partition(cluster), _accounting()]


def settings(text: str) -> list[Finding]:
    """Findings about the output of `scontrol show config`."""
    value = dict(re.findall(r"^(\w+)\s*=[ \t]*(.*?)\s*$", text, re.M))
    number = lambda name: int(re.match(r"\d*", value.get(name, "")).group() or 0)  # noqa: E731
    found = [
        Finding(
            OK, f"Slurm {value.get('SLURM_VERSION', 'of unknown version')}, cluster {value.get('ClusterName', '?')}"
        )
    ]
    size, jobs = number("MaxArraySize"), number("MaxJobCount")
    if size > 1:
        found.append(Finding(OK, f"arrays of up to {size} runs (larger studies are split), {jobs} jobs in all"))
    else:
        found.append(Finding(BAD, "this cluster allows no job arrays", "submit `srun ditscale run RUN_DIR` run by run"))
    if value.get("JobRequeue") == "0":
        found.append(
            Finding(
                NOTE,
                "jobs are not requeued unless they ask (JobRequeue=0)",
                "ours ask; see that no sbatch option says no-requeue",
            )
        )
    if number("KillWait") < 20:
        found.append(
            Finding(
                NOTE,
                f"a cancelled run has {number('KillWait')} s to save (KillWait)",
                "cluster.checkpoint_s bounds what a kill can cost",
            )
        )
    if value.get("PreemptType", "").endswith("none"):
        found.append(Finding(OK, "no preemption"))
    elif "preempt_send_user_signal" in value.get("SlurmctldParameters", ""):
        found.append(
            Finding(OK, f"preemption ({value.get('PreemptMode', '?')}) announces itself with the job's signal")
        )
    else:
        found.append(
            Finding(
                NOTE,
                f"preemption ({value.get('PreemptMode', '?')}) sends SIGTERM only",
                "runs save on that too, within the partition's GraceTime",
            )
        )
    if "CANCEL" in value.get("PreemptMode", ""):
        found.append(Finding(NOTE, "preempted jobs are cancelled, not requeued", "launch again after a preemption"))
    return found


def _partition(cluster: Cluster) -> list[Finding]:
    if cluster.name != "slurm":
        return [
            Finding(NOTE, "this study's cluster is local", "`ditscale launch DIR cluster=slurm ...` settles another")
        ]
    words = [
        f"--{name}={value}" for name in ("partition", "account", "constraint") if (value := getattr(cluster, name))
    ]
    words += [f"--{name}={value}" if value else f"--{name}" for name, value in cluster.sbatch.items()]
    done = subprocess.run(["sbatch", "--test-only", *words, "--wrap=true"], capture_output=True, text=True, timeout=60)
    said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["sbatch says nothing"]
    if done.returncode:
        return [
            Finding(
                BAD,
                f"sbatch refuses {' '.join(words) or 'a plain job'}: {said[-1].split('error:')[-1].strip()}",
                "set cluster.partition, cluster.account, cluster.sbatch",
            )
        ]
    return [Finding(OK, f"sbatch takes {' '.join(words) or 'a job without partition and account'}")]


def _accounting() -> Finding:
    if queue.ask("sacct", "--allocations", "--noheader") is not None:
        return Finding(OK, "sacct answers")
    return Finding(NOTE, "sacct gives no answer", "status then does not say how a job ended; nothing else needs it")


# ------------------------------------------------------------------------------------------------------------ directory


def directory(root: Path) -> list[Finding]:
    """Findings about the file system that a study lies, or will lie, on. Writes and removes files of its own there."""
    root = Path(root)
    at = next(path for path in (root.absolute(), *root.absolute().parents) if path.is_dir())
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".ditscale-doctor-", dir=at))
    except OSError as error:
        return [Finding(BAD, f"{at} cannot be written ({error.strerror})", "put the study elsewhere")]
    try:
        found = [_shared(at), _locks(scratch), _renames(scratch), _clock(scratch), _space(at)]
    except OSError as error:
        found = [Finding(BAD, f"{at}: {error.strerror}", "put the study on another file system")]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return found


def file_system(at: Path) -> str:
    """The type of the file system that holds a directory, by /proc/mounts."""
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mounts = [(row[1].encode().decode("unicode_escape"), row[2]) for row in rows if len(row) > 2]
    holding = [(len(point), kind) for point, kind in mounts if Path(at).is_relative_to(point)]
    return max(holding)[1] if holding else "?"


def _shared(at: Path) -> Finding:
    kind = file_system(at.resolve())
    if kind in ("tmpfs", "ramfs", "overlay") or f"{at.resolve()}/".startswith(("/tmp/", "/var/tmp/", "/dev/shm/")):
        return Finding(
            NOTE,
            f"{at} ({kind}) looks local to this machine",
            "other nodes must see the study; `ditscale doctor --job` tries",
        )
    return Finding(OK, f"{at} is on {kind}")


def _locks(scratch: Path) -> Finding:
    """Whether a lock held by one process is seen by another."""
    path = scratch / "lock"
    try:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            code = f"import fcntl; fcntl.flock(open({str(path)!r}), fcntl.LOCK_SH | fcntl.LOCK_NB)"
            seen = subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0
    except OSError as error:
        return Finding(
            NOTE,
            f"no file locks here ({error.strerror})",
            "launching from two places at once is then not refused; runs still are claimed by one attempt",
        )
    return (
        Finding(OK, "file locks work between processes")
        if seen
        else Finding(NOTE, "file locks are not seen by other processes", "do not launch from two places at once")
    )


def _renames(scratch: Path) -> Finding:
    """Renaming over a file, and creating one that only one process can: what records and attempts rely on."""
    (scratch / "a").write_text("new")
    (scratch / "b").write_text("old")
    os.replace(scratch / "a", scratch / "b")
    os.link(scratch / "b", scratch / "c")
    try:
        open(scratch / "c", "x").close()
    except FileExistsError:
        if (scratch / "b").read_text() == "new":
            return Finding(OK, "rename and exclusive creation work")
    return Finding(BAD, "rename or exclusive creation does not work here", "put the study on another file system")


def _clock(scratch: Path) -> Finding:
    (scratch / "now").write_text("")
    skew = (scratch / "now").stat().st_mtime - time.time()
    if abs(skew) > SKEW_S:
        return Finding(
            NOTE,
            f"the file system's clock is {skew:+.0f} s off this machine's",
            "heartbeats may look old or new by that; ask for NTP",
        )
    return Finding(OK, "the file system's clock agrees with this machine's")


def _space(at: Path) -> Finding:
    free = shutil.disk_usage(at).free / 2**30
    return (
        Finding(OK, f"{free:.0f} GiB free")
        if free > 10
        else Finding(NOTE, f"only {free:.1f} GiB free", "`ditscale plan` says how much a study takes")
    )


# --------------------------------------------------------------------------------------------------------------- a node


def _on_a_node(root: Path, cluster: Cluster) -> list[Finding]:
    """The same directory, the GPUs, torch and the clock as a node sees them: by one job of a minute, waited for."""
    at = next(path for path in (Path(root).absolute(), *Path(root).absolute().parents) if path.is_dir())
    answer = at / f".ditscale-doctor-{os.getpid()}"
    words = [
        f"--{name}={value}" for name in ("partition", "account", "constraint") if (value := getattr(cluster, name))
    ]
    words += [f"--{name}={value}" if value else f"--{name}" for name, value in cluster.sbatch.items()]
    gpus = max((size.gpus for size in cluster.sizes), default=0)
    if gpus:
        kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
        words.append(f"--gres=gpu:{kind}{gpus}" if cluster.gpu_option == "gres" else f"--gpus-per-node={kind}{gpus}")
    code = (
        "import os, time, torch; gpus = torch.cuda.device_count();"
        f"open({str(answer)!r}, 'w').write(f\"{{os.environ.get('SLURMD_NODENAME')}} {{gpus}} {{time.time()}} {{torch.__version__}}\")"
    )
    command = [
        "srun",
        "--ntasks=1",
        "--time=2",
        "--quiet",
        "--job-name=ditscale-doctor",
        *words,
        sys.executable,
        "-c",
        code,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=at)
    except subprocess.TimeoutExpired:
        return [Finding(NOTE, "no node was free within 10 minutes", "try again later")]
    try:
        if done.returncode:
            return [
                Finding(
                    BAD,
                    f"a job fails: {(done.stderr.strip().splitlines() or ['no output'])[-1]}",
                    "nodes need this Python environment under the same path",
                )
            ]
        if not answer.exists():
            return [
                Finding(BAD, f"a node writes {at} elsewhere", "put the study on a file system that all nodes share")
            ]
        node, seen, unix, version = answer.read_text().split()
    finally:
        answer.unlink(missing_ok=True)
    skew = float(unix) - time.time()
    found = [Finding(OK, f"{node} sees {at} and has torch {version}")]
    if int(seen) < gpus:
        found.append(
            Finding(
                BAD,
                f"{node} gives a task {seen} of {gpus} GPUs asked for",
                "check cluster.gpu_option and that this torch is built for CUDA",
            )
        )
    elif gpus:
        found.append(Finding(OK, f"{node} gives a task {seen} GPUs"))
    if abs(skew) > 60:
        found.append(
            Finding(NOTE, f"{node}'s clock is {skew:+.0f} s off", "ask for NTP; heartbeats look old or new by that")
        )
    return found
