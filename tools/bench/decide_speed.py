#!/usr/bin/env python3
"""Seconds of `ditscale decide` as a user types it, with the fits that `fit` keeps and without them.

    python tools/bench/decide_speed.py DIR [--budget FLOPS] [--repeats 7]

DIR: a study with collected runs; its predictors.json is made anew. Prints the median wall and CPU seconds, and the load
of the machine, by which the wall seconds are longer."""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


def once(words: list[str]) -> tuple[float, float]:
    """(wall, CPU) seconds of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "ditscale", *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--budget", default="6.4e12")
    parser.add_argument("--repeats", type=int, default=7)
    how = parser.parse_args()
    kept, words = how.study / "predictors.json", ["decide", str(how.study), "--budget", how.budget]
    for name, fresh in (("kept fits", False), ("no fits kept", True)):
        once(words)
        taken = []
        for _ in range(how.repeats):
            if fresh:
                kept.unlink(missing_ok=True)
            taken.append(once(words))
        wall, cpu = (statistics.median(values) for values in zip(*taken, strict=True))
        print(f"{name}: {wall:.2f} s wall, {cpu:.2f} s CPU; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
