"""Several small runs side by side against one at a time: steps a second, all together.

    python tools/bench/pack.py [--size 64x2] [--batch 16] [--runs N] [--rounds N] [--seconds S]

On a CPU, N runs of one thread each against one run with N threads (N: cores); on a GPU, 1, 2 and 4 runs on it. Ways
take turns.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import time

import beside
import torch
import train_step

CUDA = torch.cuda.is_available()


def worker(size: str, batch: int, seconds: float):
    """One of those (beside.py) that take steps for so long and say how many a second."""
    width, depth = map(int, size.split("x"))
    step, _ = train_step.ours("crossattention", width, depth, batch, "bf16" if CUDA else "fp32", CUDA)
    for _ in range(6):
        step()
    train_step.synchronize()
    beside.wait()
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(5):
            step()
        train_step.synchronize()
        n += 5
    print(n / (time.perf_counter() - began), flush=True)


def together(runs: int, threads: int, options) -> float:
    """Steps a second of so many processes, all together."""
    words = ("--size", options.size, "--batch", options.batch, "--seconds", options.seconds, "--worker")
    return sum(beside.speeds(runs, __file__, *words, OMP_NUM_THREADS=str(threads)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="128x2" if CUDA else "64x2", metavar="WIDTHxDEPTH")
    parser.add_argument("--batch", type=int, default=256 if CUDA else 16)
    parser.add_argument("--runs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.size, options.batch, options.seconds)
    ways = [(1, 1), (2, 1), (4, 1)] if CUDA else [(1, options.runs), (options.runs, 1)]  # runs, threads of each
    found = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            found[way].append(together(*way, options))
    where = torch.cuda.get_device_name() if CUDA else f"CPU, {len(os.sched_getaffinity(0))} cores"
    print(f"{datetime.date.today()}, {where}, torch {torch.__version__}, {options.size}, batch {options.batch}")
    print("| runs at once | threads of each | steps/s, together | against the first |\n|---|---|---|---|")
    for (runs, threads), speeds in found.items():
        speed = statistics.median(speeds)
        print(f"| {runs} | {threads} | {speed:.1f} | {speed / statistics.median(found[ways[0]]):.2f} |")


if __name__ == "__main__":
    main()
