"""A training step on several ranks of this node, for each way its weights may lie: images a second, and against one
rank.

    python tools/bench/scaling.py [--ranks 1 2 4 ...] [--size 384x12] [--batch N] [--precision fp32|bf16]
        [--rounds N] [--seconds S]

On GPUs a rank has one; on a CPU, ranks share the cores and talk over gloo. `--batch`: images of a rank's step. Ways
take turns.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import train_step

from ditscale.distributed.ranks import start

CUDA = torch.cuda.is_available()
DESIGN = "crossattention"


def worker(way: str, options):
    """A rank's part: rank 0 prints the images a second of all."""
    with tempfile.TemporaryDirectory() as directory:
        ranks = start(Path(directory), Path(directory) / "rendezvous")
        width, depth = map(int, options.size.split("x"))
        step, _ = train_step.ours(
            DESIGN, width, depth, options.batch * ranks.world, options.precision, CUDA, ranks, way
        )
        for _ in range(6):
            step()
        train_step.synchronize()
        ranks.barrier()
        began, n, until = time.perf_counter(), 0, options.seconds
        while ranks.broadcast(time.perf_counter() - began < until):  # all stop after the same step
            for _ in range(5):
                step()
            train_step.synchronize()
            n += 5
        seconds = time.perf_counter() - began
        if ranks.first:
            print("images/s", n * options.batch * ranks.world / seconds, flush=True)
        ranks.barrier()
        ranks.close(orderly=True)


def measured(n: int, way: str, options) -> float:
    """Images a second of n ranks; NaN where they have failed."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={n}",
        __file__,
        "--worker",
        way,
    ]
    command += [
        "--size",
        options.size,
        "--batch",
        str(options.batch),
        "--precision",
        options.precision,
        "--seconds",
        str(options.seconds),
    ]
    threads = max(1, len(os.sched_getaffinity(0)) // n)
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True)
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("images/s")]
    print(f"{n} ranks, {way}: {found[0] if found else 'FAILED'} images/s", file=sys.stderr, flush=True)
    if not found:
        print(done.stderr[-3000:], file=sys.stderr)
    return float(found[0]) if found else math.nan


def main():
    parser = argparse.ArgumentParser()
    most = torch.cuda.device_count() if CUDA else len(os.sched_getaffinity(0))
    parser.add_argument("--ranks", type=int, nargs="+", default=[n for n in (1, 2, 4, 8) if n <= most])
    parser.add_argument("--size", default="1024x12" if CUDA else "384x12", metavar="WIDTHxDEPTH")
    parser.add_argument("--batch", type=int, default=128 if CUDA else 8)
    parser.add_argument("--precision", default="bf16" if CUDA else "fp32", choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--worker", metavar="WAY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker, options)
    ways = [(n, way) for n in options.ranks for way in (("replicate",) if n == 1 else ("replicate", "full"))]
    found = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            found[way].append(measured(*way, options))
    where = f"{most} x {torch.cuda.get_device_name()}" if CUDA else f"CPU, {most} cores"
    print(
        f"{datetime.date.today()}, {where}, torch {torch.__version__}, {DESIGN} {options.size}, {options.batch} images "
        f"a rank, {options.precision}"
    )
    print("| ranks | sharding | images/s | against the first row |\n|---|---|---|---|")
    for (n, way), speeds in found.items():
        speed = statistics.median(speeds)
        print(f"| {n} | {way} | {speed:.1f} | {speed / statistics.median(found[ways[0]]):.2f} |")


if __name__ == "__main__":
    main()
