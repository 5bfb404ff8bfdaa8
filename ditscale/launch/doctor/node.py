"""Findings about a compute node, by one short job that runs the node probe:

python -m ditscale.launch.doctor.node DIRECTORY [FILE ...]     writes DIRECTORY/answer.json, as `probe` says"""

import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Sequence

from ...config import Cluster
from ...files import write_text
from ...process import this_process
from ...rundir.lock import is_locked
from ..backends.preamble import import_path
from ..snapshot import PACKAGE
from .directory import Finding, bad, note, ok, scratch_at
from .slurm import options

NODE_SKEW_S = 60.0  # The job takes seconds to answer.
WAIT_S = 600.0
SHARE = "put the study on a file system that all nodes share"


def on_a_node(root: Path, cluster: Cluster, files: Sequence[str]) -> list[Finding]:
    """The directory, the files, the GPUs, torch and the clock as a node sees them. Waits for a node."""
    gpus = max((size.gpus for size in cluster.sizes), default=0)
    words = options(cluster)
    if gpus:
        kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
        words.append(f"--gres=gpu:{kind}{gpus}" if cluster.gpu_option == "gres" else f"--gpus-per-node={kind}{gpus}")
    command = ["srun", "--ntasks=1", "--time=2", "--quiet", "--job-name=ditscale-doctor", *words]
    command += [sys.executable, "-m", "ditscale.launch.doctor.node"]
    environment = {**os.environ, "PYTHONPATH": import_path(PACKAGE.parent)}
    with scratch_at(root) as scratch, open(scratch / "lock", "w") as lock:
        at = scratch.parent
        with suppress(OSError):  # directory.py has said so.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (scratch / "answer.json").write_text("{}")
        command += [str(scratch), *map(os.path.abspath, files)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, cwd=at, env=environment)
        except subprocess.TimeoutExpired:
            return [note("no node was free within 10 minutes", "try again later")]
        answer = json.loads((scratch / "answer.json").read_text())
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        # The last line is srun's, about the exit code; the cause is before it.
        cause = next((line for line in reversed(lines) if "Exited with exit code" not in line), lines[-1])
        if str(scratch) in cause:
            return [bad(f"a node does not see {at}", SHARE)]
        return [bad(f"a job fails: {cause}", "nodes need this Python environment under the same path")]
    if not answer:
        return [bad(f"a node writes {at} elsewhere", SHARE)]
    return findings(at, answer, gpus)


def findings(at: Path, answer: dict[str, Any], gpus: int) -> list[Finding]:
    """Findings about the answer of a node probe; the job asked for `gpus`."""
    node, seen, skew = answer["node"], answer["gpus"], answer["unix"] - time.time()
    locks = ok(f"{node} sees a lock of this machine, and a rename is seen here")
    remedy = "do not launch from two places at once; claims still keep attempts apart"
    unseen = note(f"{node} does not see a lock of this machine", remedy)
    found = [ok(f"{node} sees {at} and has torch {answer['torch']}"), locks if answer["locked"] else unseen]
    remedy = "put it on a file system that all nodes share"
    found += [bad(f"{node} cannot read {path}", remedy) for path in answer["unreadable"]]
    if seen < gpus:
        remedy = "check cluster.gpu_option and that this torch is built for CUDA"
        found.append(bad(f"{node} gives a task {seen} of {gpus} GPUs requested", remedy))
    elif gpus:
        found.append(ok(f"{node} gives a task {seen} GPUs"))
    wrong = note(f"{node}'s clock is {skew:+.0f} s off", "ask for NTP; heartbeats look old or new by that")
    agrees = ok(f"{node}'s clock agrees with this machine's to {NODE_SKEW_S:.0f} s")
    return [*found, wrong if abs(skew) > NODE_SKEW_S else agrees]


def probe(directory: Path, files: list[str]) -> dict[str, Any]:
    """What a node sees: its GPUs and clock, the asking machine's lock on DIRECTORY/lock, and files it cannot read."""
    import torch

    return {
        "node": this_process().node or os.uname().nodename, "gpus": torch.cuda.device_count(), "unix": time.time(),
        "torch": torch.__version__, "locked": is_locked(directory / "lock"),
        "unreadable": [path for path in files if not os.access(path, os.R_OK)],
    }  # fmt: skip


if __name__ == "__main__":
    there = Path(sys.argv[1])
    write_text(there / "answer.json", json.dumps(probe(there, sys.argv[2:])))  # renamed over the empty one
