"""Findings about Slurm: its commands, its configuration, the cluster's partition and account, accounting."""

import os
import re
import shutil

from ... import slurm_client
from ...config import Cluster
from .directory import Finding, bad, note, ok

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "srun")


def slurm(cluster: Cluster) -> list[Finding]:
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        remedy = "run on a login node of the cluster, or load its Slurm module"
        return [bad(f"not on the PATH: {', '.join(missing)}", remedy)]
    text = slurm_client.ask("scontrol", "show", "config")
    if text is None:
        conf = os.environ.get("SLURM_CONF", "not set")
        return [bad("the controller gives no answer", f"check `scontrol ping`; SLURM_CONF is {conf}")]
    return [*settings(text), _partition(cluster), *_accounting(cluster)]


def settings(text: str) -> list[Finding]:
    """Findings about the output of `scontrol show config`."""
    value = dict(re.findall(r"^(\w+)\s*=[ \t]*(.*?)\s*$", text, re.M))
    number = lambda name: int("0" + re.sub(r"\D.*", "", value.get(name, "")))
    found = [ok(f"Slurm {value.get('SLURM_VERSION', 'of unknown version')}, cluster {value.get('ClusterName', '?')}")]
    size, jobs = number("MaxArraySize"), number("MaxJobCount")
    arrays = ok(f"arrays of up to {size} runs (larger studies are split), {jobs} jobs in all")
    none = bad("this cluster allows no job arrays", "submit `srun python -m ditscale.launch.job RUN_DIR` for each run")
    found.append(arrays if size > 1 else none)
    if value.get("JobRequeue") == "0":
        remedy = "ours ask for it; no sbatch option may say no-requeue"
        found.append(note("jobs are not requeued unless they ask for it (JobRequeue=0)", remedy))
    if number("KillWait") < 20:
        has = f"a cancelled run has {number('KillWait')} s to save (KillWait)"
        found.append(note(has, "cluster.checkpoint_s limits what a kill can cost"))
    mode = value.get("PreemptMode", "?")
    if value.get("PreemptType", "").endswith("none"):
        found.append(ok("no preemption"))
    elif "preempt_send_user_signal" in value.get("SlurmctldParameters", ""):
        found.append(ok(f"preemption ({mode}) announces itself with the job's signal"))
    else:
        remedy = "runs save on that too, within the partition's GraceTime"
        found.append(note(f"preemption ({mode}) sends SIGTERM only", remedy))
    if "CANCEL" in mode:
        found.append(note("preempted jobs are cancelled, not requeued", "launch again after a preemption"))
    return found


def _partition(cluster: Cluster) -> Finding:
    if cluster.name != "slurm":
        return note("this study's cluster is local", "`ditscale launch DIR cluster=slurm ...` changes it")
    words = options(cluster)
    done = slurm_client.run("sbatch", "--test-only", *words, "--wrap=true", timeout_s=60)
    if done is None or done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() if done else []
        reason = (lines or ["sbatch gives no answer"])[-1].split("error:")[-1].strip()
        remedy = "set cluster.partition, cluster.account, cluster.sbatch"
        return bad(f"sbatch refuses {' '.join(words) or 'a plain job'}: {reason}", remedy)
    return ok(f"sbatch takes {' '.join(words) or 'a job without partition and account'}")


def _accounting(cluster: Cluster) -> list[Finding]:
    if slurm_client.ask("sacct", "--allocations", "--noheader") is None:
        return [note("sacct gives no answer", "status cannot say how a job ended; nothing else needs it")]
    limits = slurm_client.submit_limits()
    short = {name: n for name, n in limits.items() if cluster.account in ("", name) and not 0 < cluster.max_queued <= n}
    remedy = "a larger study needs cluster.max_queued={}"
    return [ok("sacct answers"), *(note(f"account {a} may queue {n} jobs", remedy.format(n)) for a, n in short.items())]


def options(cluster: Cluster) -> list[str]:
    """The cluster's own options, for sbatch and srun."""
    named = {name: getattr(cluster, name) for name in ("partition", "account", "constraint")}
    words = [f"--{name}={value}" for name, value in named.items() if value]
    return words + [f"--{name}={value}" if value else f"--{name}" for name, value in cluster.sbatch.items()]
