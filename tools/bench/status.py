"""How long does `ditscale status` take on a large study?

    python tools/bench/status.py [DIR]

Makes a study of 2,016 runs without training: 1,000 finished, 500 running on other nodes (an attempt that has not ended,
a fresh heartbeat, a record), 516 planned. Then times the command itself, including the start of Python, as a process of
its own: first without the status cache (jobs/seen.json), then with it. Slurm is not asked, since a real one would know
nothing of these jobs. Prints the best of three, and the machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ditscale.pipeline import plan_study
from ditscale.rundir.attempts import Attempt
from ditscale.rundir.record import VALIDATION, Record

STUDY = [
    "study=mini",
    "budgets=[5e9,1e10]",
    "widths=[16,24,32]",
    "probe_budget=3e10",
    "recipe.min_steps=20",
    f"seeds={list(range(336))}",
]
FINISHED, RUNNING = 1000, 500


def make(root: Path):
    """Make the study, as runs on a cluster would have left it."""
    paths, planned = plan_study(str(root), STUDY)
    paths.jobs.mkdir()
    for i, run in enumerate(planned.runs[: FINISHED + RUNNING]):
        at, done = paths.run(run.run_id), i < FINISHED
        record = Record(at.metrics, at.run.read_text(), run.steps, [run.data.name], run.validation.n)
        record.begin(time.time(), 0, 1, "elsewhere")
        if done:
            row = np.zeros((), VALIDATION)
            row["dataset"], row["images"], row["loss"] = run.data.name.encode(), run.n_images, 0.5
            record.write_validation(0, row, np.zeros(run.validation.n, "f4"))
            record.end("finished", time.time())
        record.close()
        (at.root / "attempts").mkdir()
        ended = "finished" if done else ""
        attempt = Attempt(1, f"7_{i}", 0, "elsewhere", "node1", 1, 1, time.time(), "", ended=ended)
        at.attempt(1).write_text(json.dumps(asdict(attempt)))
        at.lock.write_text("{}")
        beat = {
            "phase": "training",
            "images": run.n_images // 2,
            "loss": 0.5,
            "images_per_s": 100.0,
            "host": "elsewhere",
        }
        at.heartbeat.write_text(json.dumps(beat))
    return paths


def seconds(root: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one call of the command; on a quiet machine they are about equal."""
    began, cpu = time.monotonic(), cpu_s()
    command = [sys.executable, "-m", "ditscale", "status", str(root), "--json"]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    took = time.monotonic() - began, cpu_s() - cpu
    states = [s["state"] for s in json.loads(done.stdout)]
    expected = {"finished": FINISHED, "running": RUNNING, "planned": len(states) - FINISHED - RUNNING}
    assert {state: states.count(state) for state in states} == expected, {
        state: states.count(state) for state in states
    }
    return took


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", nargs="?", help="where to make the study, as on the file system of a cluster")
    given = parser.parse_args().dir
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(given or scratch) / "study"
        paths = make(root)
        first, again = [], []
        for _ in range(3):
            for path in sorted(paths.runs.glob("*/heartbeat.json")):
                path.touch()
            (paths.jobs / "seen.json").unlink(missing_ok=True)
            first.append(seconds(root))
            again.append(seconds(root))
        runs = len(paths.run_dirs())
    model = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    for name, tries in (("first", first), ("again", again)):
        clock, cpu = (min(each) for each in zip(*tries))
        print(f"{runs} runs, {name}: {clock:.2f} s, {cpu:.2f} s of CPU ({model}, {datetime.date.today()})")


if __name__ == "__main__":
    main()
