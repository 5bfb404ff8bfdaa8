"""What may go wrong on the cluster a user stands on, each finding with what to do. It submits nothing unless asked."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ... import slurm_client
from ...config import Cluster, Study
from ...evaluate.weights import DECODER, WEIGHTS, weights_path
from ..job.execute import OFFLINE
from ..snapshot import PACKAGE

OK, NOTE, BAD = "ok", "note", "bad"
SKEW_S = 5.0
NODE_SKEW_S = 60.0  # a job takes seconds to answer


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `level`: ok, note (works, but know it) or bad; `what` was found, `remedy` is what to do."""

    level: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.what}{f'; {self.remedy}' if self.remedy else ''}"


def examine(root: Path, cluster: Cluster, files: list[str] = (), job: bool = False) -> list[Finding]:
    """All findings about the cluster, the study's (or any) directory, the files its runs read, and with `job` about a
    node, by a short job."""
    found = [*_slurm(cluster), *directory(root), *local_files(files)]
    if job and not any(f.level == BAD for f in found):
        found += _on_a_node(root, cluster, files)
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
    text = slurm_client.ask("scontrol", "show", "config")
    if text is None:
        return [
            Finding(
                BAD,
                "the controller gives no answer",
                f"see `scontrol ping`; SLURM_CONF is {os.environ.get('SLURM_CONF', 'not set')}",
            )
        ]
    return [*settings(text), *_partition(cluster), *_accounting(cluster)]


def settings(text: str) -> list[Finding]:
    """Findings about the output of `scontrol show config`."""
    value = dict(re.findall(r"^(\w+)\s*=[ \t]*(.*?)\s*$", text, re.M))
    number = lambda name: int(re.match(r"\d*", value.get(name, "")).group() or 0)
    found = [
        Finding(
            OK, f"Slurm {value.get('SLURM_VERSION', 'of unknown version')}, cluster {value.get('ClusterName', '?')}"
        )
    ]
    size, jobs = number("MaxArraySize"), number("MaxJobCount")
    if size > 1:
        found.append(Finding(OK, f"arrays of up to {size} runs (larger studies are split), {jobs} jobs in all"))
    else:
        found.append(
            Finding(
                BAD,
                "this cluster allows no job arrays",
                "submit `srun python -m ditscale.launch.job RUN_DIR` run by run",
            )
        )
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
    words = _options(cluster)
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


def _accounting(cluster: Cluster) -> list[Finding]:
    if slurm_client.ask("sacct", "--allocations", "--noheader") is None:
        return [
            Finding(NOTE, "sacct gives no answer", "status then does not say how a job ended; nothing else needs it")
        ]
    user = pwd.getpwuid(os.getuid()).pw_name
    printed = slurm_client.ask(
        "sacctmgr",
        "--noheader",
        "--parsable2",
        "show",
        "assoc",
        "where",
        f"user={user}",
        "format=account,maxsubmitjobs",
    )
    rows = [line.split("|") for line in (printed or "").splitlines()]
    limits = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
    found = [Finding(OK, "sacct answers")]
    for account, limit in limits.items():
        if cluster.account in ("", account) and not 0 < cluster.max_queued <= limit:
            found.append(
                Finding(
                    NOTE,
                    f"account {account} may queue {limit} jobs",
                    f"a larger study wants cluster.max_queued={limit}",
                )
            )
    return found


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
        found = [shared(at), _locks(scratch), _renames(scratch), _clock(scratch), _space(at)]
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


def shared(at: Path) -> Finding:
    """Whether a directory looks as if other machines see it."""
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


# ---------------------------------------------------------------------------------------------------------------- files


def files_of(study: Study) -> list[str]:
    """The files that the study's runs read: data, held-out images, and what FID looks through."""
    named = [study.data.path, study.validation.path, *(data.path for data in study.validation.also.values())]
    if "fid" in study.evaluation:
        fid = study.evaluation["fid"]
        named.append(str(weights_path(fid) or ""))
        named += [str(Path(fid.decoder) / name) for name in DECODER if fid.decoder]
    return list(dict.fromkeys(filter(None, named)))


def local_files(files: list[str]) -> list[Finding]:
    """Findings about files that runs read, which must be there beforehand: runs never fetch anything."""
    found = []
    for path in files:
        if not Path(path).is_file():
            extractor = next((name for name, weights in WEIGHTS.items() if weights.name == Path(path).name), "")
            remedy = (
                f"`ditscale fetch-weights {extractor}` gets it on a machine with internet"
                if extractor
                else "put it there first, or change the path"
            )
            found.append(Finding(BAD, f"{path} is not there", f"jobs fetch nothing: {remedy}"))
        elif not os.access(path, os.R_OK):
            found.append(Finding(BAD, f"{path} cannot be read", "give yourself the right to read it"))
        elif not os.path.isabs(path):
            found.append(
                Finding(
                    NOTE,
                    f"{path} is a relative path",
                    "jobs start where they were submitted from; give an absolute one",
                )
            )
        else:
            found.append(Finding(OK, f"{path} is there and can be read"))
    return [
        *found,
        Finding(
            OK, f"runs are told to stay offline ({', '.join(f'{name}={value}' for name, value in OFFLINE.items())})"
        ),
    ]


# --------------------------------------------------------------------------------------------------------------- a node


def _on_a_node(root: Path, cluster: Cluster, files: list[str]) -> list[Finding]:
    """The same directory and files, the GPUs, torch and the clock as a node sees them: by one short job, waited for."""
    at = next(path for path in (Path(root).absolute(), *Path(root).absolute().parents) if path.is_dir())
    scratch = Path(tempfile.mkdtemp(prefix=".ditscale-doctor-", dir=at))
    gpus = max((size.gpus for size in cluster.sizes), default=0)
    words = _options(cluster)
    if gpus:
        kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
        words.append(f"--gres=gpu:{kind}{gpus}" if cluster.gpu_option == "gres" else f"--gpus-per-node={kind}{gpus}")
    command = ["srun", "--ntasks=1", "--time=2", "--quiet", "--job-name=ditscale-doctor", *words]
    command += [
        sys.executable,
        "-m",
        "ditscale.launch.doctor.node_probe",
        str(scratch),
        *(os.path.abspath(path) for path in files),
    ]
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    try:
        with open(scratch / "lock", "w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pass  # _locks has said it
            (scratch / "answer.json").write_text("{}")
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=600, cwd=at, env={**os.environ, "PYTHONPATH": path}
            )
        answer = json.loads((scratch / "answer.json").read_text())
    except subprocess.TimeoutExpired:
        return [Finding(NOTE, "no node was free within 10 minutes", "try again later")]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        # srun's, of what went before
        said = next((line for line in reversed(lines) if "Exited with exit code" not in line), lines[-1])
        if str(scratch) in said:
            return [Finding(BAD, f"a node does not see {at}", "put the study on a file system that all nodes share")]
        return [Finding(BAD, f"a job fails: {said}", "nodes need this Python environment under the same path")]
    if not answer:
        return [Finding(BAD, f"a node writes {at} elsewhere", "put the study on a file system that all nodes share")]
    return seen_by_a_node(at, answer, gpus)


def seen_by_a_node(at: Path, answer: dict, gpus: int) -> list[Finding]:
    """Findings about what a node has answered (launch/doctor/node_probe.py); `gpus` were asked for."""
    node, seen, skew = answer["node"], answer["gpus"], answer["unix"] - time.time()
    found = [Finding(OK, f"{node} sees {at} and has torch {answer['torch']}")]
    if not answer["locked"]:
        found.append(
            Finding(
                NOTE,
                f"{node} does not see a lock that is held here",
                "do not launch from two places at once; claims keep runs apart",
            )
        )
    else:
        found.append(Finding(OK, f"{node} sees a lock that is held here, and a rename is seen here"))
    for path in answer["unreadable"]:
        found.append(Finding(BAD, f"{node} cannot read {path}", "put it on a file system that all nodes share"))
    if seen < gpus:
        remedy = "check cluster.gpu_option and that this torch is built for CUDA"
        found.append(Finding(BAD, f"{node} gives a task {seen} of {gpus} GPUs asked for", remedy))
    elif gpus:
        found.append(Finding(OK, f"{node} gives a task {seen} GPUs"))
    if abs(skew) > NODE_SKEW_S:
        found.append(
            Finding(NOTE, f"{node}'s clock is {skew:+.0f} s off", "ask for NTP; heartbeats look old or new by that")
        )
    else:
        found.append(Finding(OK, f"{node}'s clock agrees with this machine's to {NODE_SKEW_S:.0f} s"))
    return found


def _options(cluster: Cluster) -> list[str]:
    """The cluster's own options, for sbatch and srun."""
    words = [
        f"--{name}={value}" for name in ("partition", "account", "constraint") if (value := getattr(cluster, name))
    ]
    return words + [f"--{name}={value}" if value else f"--{name}" for name, value in cluster.sbatch.items()]
