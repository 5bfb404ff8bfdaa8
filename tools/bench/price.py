"""The price of a study against what it takes: `ditscale bench`, then the whole study, then `ditscale bench` again.

    python tools/bench/price.py DIR [--minutes M] [--probe] [KEY=VALUE ...]

Settings are study=mini, if none are given. DIR keeps the study. Each training's planned seconds, by the bench before
and the one after, stand beside those that it took from start to end; so do the clock's of the grid and, with --probe,
of the probe.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import time
from pathlib import Path

from ditscale.launch.afford import machine_of
from ditscale.launch.monitor.status import study_status
from ditscale.naming import StudyPaths
from ditscale.plan.run import read_run
from ditscale.plan.study import read_study
from ditscale.price.price import price
from ditscale.price.records import read_speeds
from ditscale.price.speed import Speeds
from ditscale.rundir.attempts import read_attempts
from ditscale.train.throughput import device_name


def ditscale(*words):
    command = [sys.executable, "-m", "ditscale", *map(str, words)]
    if subprocess.run(command, stdout=sys.stderr).returncode not in (0, 3):
        sys.exit(f"ditscale {words[0]} has failed, see above")


def planned(paths: StudyPaths, bench: Path):
    """The price by one bench alone."""
    study = read_study(paths.root)
    runs = [read_run(at.run) for at in paths.run_dirs()]
    os.replace(bench, paths.bench)
    speeds = Speeds(read_speeds(paths, study.cluster).sources[:1])
    os.replace(paths.bench, bench)
    return price(runs, study, speeds, machine_of(study))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--probe", action="store_true")
    options = parser.parse_intermixed_args()
    paths = StudyPaths(options.dir)
    ditscale("plan", paths.root, *(options.settings or ["study=mini"]))
    benches = [paths.root / f"bench-{when}.json" for when in ("before", "after")]
    ditscale("bench", paths.root, "--minutes", options.minutes, "--out", benches[0])
    loads, clock = [os.getloadavg()[0]], time.monotonic()
    ditscale("launch", paths.root)
    walls = {"grid": time.monotonic() - clock}
    loads.append(os.getloadavg()[0])
    if options.probe:
        ditscale("forecast", paths.root)
        clock = time.monotonic()
        ditscale("launch", paths.root)
        walls["probe"] = time.monotonic() - clock
    ditscale("bench", paths.root, "--minutes", options.minutes, "--out", benches[1])
    loads.append(os.getloadavg()[0])
    prices = [planned(paths, bench) for bench in benches]
    spent = {s.run.run_id: s.spent.seconds for s in study_status(paths)}
    import torch

    where = f"{device_name(torch.device('cpu'))}, {len(os.sched_getaffinity(0))} cores"
    print(f"{datetime.date.today()}, {where}; load before, between and after: {', '.join(f'{x:.1f}' for x in loads)}")
    print("\n| training | planned s, bench before | bench after | took s | planned / took |\n|---|---|---|---|---|")
    for before, after in zip(prices[0].runs, prices[1].runs):
        run, took = read_run(paths.run(before.run_id).run), spent[before.run_id]
        ratios = f"{before.total_s / took:.2f}, {after.total_s / took:.2f}"
        name = f"{run.role} {run.width}x{run.depth}"
        attempts = len(read_attempts(paths.run(before.run_id)))
        name += f" ({attempts} attempts)" * (attempts > 1)
        print(f"| {name} | {before.total_s:.0f} | {after.total_s:.0f} | {took:.0f} | {ratios} |")
    for role, wall in walls.items():
        plans = [p.part(role).wall_s for p in prices]
        print(f"| the clock of the {role} | {plans[0]:.0f} | {plans[1]:.0f} | {wall:.0f} | ", end="")
        print(f"{plans[0] / wall:.2f}, {plans[1] / wall:.2f} |")


if __name__ == "__main__":
    main()
