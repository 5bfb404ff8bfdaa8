"""Does a run that is killed a hundred times end as one that never was?

    python tools/bench/kills.py [--kills 100] [--seed 0] [--budget 2e12] [DIR]

Plans a run that trains for a minute or four and is measured at its end (bound and likelihood), does it once
undisturbed, and once more with SIGKILL at random moments: every attempt lives for a time drawn uniformly from nothing
to what lets the kills spread over the whole run. Then the curve, the final weights, the validation losses and the
measured numbers are compared to the bit. Prints what the kills hit as a table, and the machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import h5py
import torch

from ditscale.pipeline import plan_study
from ditscale.rundir.evaluation import read_results
from ditscale.rundir.record import read_state

STUDY = [
    "study=mini", "widths=[48]", "recipe.min_steps=20", "cluster.checkpoint_s=0.5", "validation.batch_size=32",
    "~evaluation.fid", "evaluation.likelihood.n=64", "evaluation.vlb.n=128",
]  # fmt: skip
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(run_dir: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "ditscale", "run", str(run_dir)],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def phase(run_dir: Path, since: float) -> str:
    """What the run was at when it was killed."""
    if list(run_dir.glob("checkpoint/*.tmp-*")):
        return "writing a checkpoint"
    try:
        path = run_dir / "heartbeat.json"
        return json.loads(path.read_text())["phase"] if path.stat().st_mtime > since else "starting"
    except (OSError, ValueError):
        return "starting"


def content(run_dir: Path) -> dict:
    """All that a finished run came to."""
    with h5py.File(run_dir / "metrics.h5", locking=False) as file:
        found = {name: file["steps"][name].tobytes() for name in ("images", "loss", "loss_ema", "grad_norm", "lr")}
        found |= {"samples": file["samples"][:].tobytes(), "rows": int((file["steps"]["images"] > 0).sum())}
    final = torch.load(run_dir / "checkpoint" / "final.pt", weights_only=True)
    found |= {f"model.{name}": w.numpy().tobytes() for name, w in final["model"].items()}
    found |= {f"ema.{i}": w.numpy().tobytes() for i, w in enumerate(final["ema"])}
    return found | {f"{r.metric} {r.dataset}": (r.value, r.se) for r in read_results(run_dir / "evaluation.h5")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", nargs="?")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", default="2e12", help="FLOPs of the run")
    options = parser.parse_args()
    root = Path(options.dir or tempfile.mkdtemp(prefix="ditscale-kills-"))
    paths, planned = plan_study(str(root / "study"), [*STUDY, f"budgets=[{options.budget}]"])
    killed = paths.run(planned.runs[0].run_id).root
    calm = root / "calm"
    shutil.copytree(killed, calm)
    began = time.monotonic()
    process = start(calm)
    while not (calm / "heartbeat.json").exists():
        time.sleep(0.01)
    starting = time.monotonic() - began
    assert process.wait() == 0, process.stdout.read().decode()
    undisturbed = time.monotonic() - began

    # what an attempt may train on average, so that the run outlives the kills
    each = (undisturbed - starting) / options.kills
    # of lives uniform up to this, what exceeds the start averages to it
    longest = starting + each + (each**2 + 2 * each * starting) ** 0.5
    moments, hit, began = random.Random(options.seed), Counter(), time.monotonic()
    damaged = 0
    while hit.total() < options.kills and read_state(killed / "metrics.h5") != "finished":
        since, process = time.time(), start(killed)
        try:
            process.wait(moments.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            hit[phase(killed, since)] += 1
        damaged += process.communicate()[0].decode().count("cannot be read")
    kills = hit.total()
    while read_state(killed / "metrics.h5") != "finished":
        process = start(killed)
        process.wait()
        damaged += process.stdout.read().decode().count("cannot be read")
    spent = time.monotonic() - began
    a, b = content(calm), content(killed)
    different = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    with h5py.File(killed / "metrics.h5", locking=False) as file:
        attempts = int((file["attempts"]["started_unix"] > 0).sum())

    print(
        f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, seed {options.seed}"
    )
    print("| | |\n|---|---|")
    for name, value in (
        ("run", f"{planned.runs[0].run_id}, {planned.runs[0].steps} steps, checkpoints every 0.5 s"),
        ("undisturbed", f"{undisturbed:.0f} s, of them {starting:.1f} s until it trains"),
        ("kills", f"{kills}: " + ", ".join(f"{n} while {what}" for what, n in hit.most_common())),
        ("attempts that reached the record", attempts),
        ("checkpoints found damaged", damaged),
        ("wall time", f"{spent:.0f} s"),
        ("rows of the curve", f"{b['rows']} of {a['rows']}"),
        (
            "differs from the undisturbed run",
            ", ".join(different)
            or "nothing: curve, weights, EMA, validation, bound and likelihood are equal to the bit",
        ),
    ):
        print(f"| {name} | {value} |")
    if not options.dir:
        shutil.rmtree(root)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
