"""Does each detour for speed still pay? A training step with it and without it, in turns; prints a table.

    python tools/bench/detours.py [--detours NAME ...] [--sizes 48x2 80x3 384x12] [--rounds N] [--seconds S]

Both ways live in processes of their own, one thread each, and take turns: round after round one works while the other
waits, first the one, then the other. A round's ratio is CPU time of a step with the detour over that without it; the
median of the rounds counts, and the middle half of them is printed, since other work on the machine makes them scatter.
Sizes up to 80x3 are the miniature's own runs; larger ones train on latents of 16 x 16 x 4, in patches of 2.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
import train_step

from ditscale.config import compose
from ditscale.data.source import open_source
from ditscale.diffusion.rectified_flow import draw_noise
from ditscale.model import projection
from ditscale.plan.run import Run, make_run
from ditscale.train import state
from ditscale.train.batches import Batch, stream
from ditscale.train.layout import choose
from ditscale.train.loop import keep_freed_memory
from ditscale.train.state import build
from ditscale.train.step import GradientAccumulation, Step


class TorchAdamW:
    """torch.optim.AdamW(fused=True) behind the interface of train/optimizer.py."""

    def __init__(self, groups: list[dict], beta1: float, beta2: float):
        self.optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(beta1, beta2), fused=True)
        self.steps = torch.zeros(())

    def set_rate(self, rate: float):
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]

    def step(self, scale: torch.Tensor, skip: torch.Tensor):
        self.optimizer.grad_scale, self.optimizer.found_inf = scale, skip
        self.optimizer.step()


def with_onednn(use: bool):
    projection.mkl_is_slow = lambda: use


def with_freed_memory_kept(use: bool):
    if use:
        keep_freed_memory()


def with_own_adamw(use: bool):
    if not use:
        state.AdamW = TorchAdamW


def with_no_gradient_buffer(use: bool):
    choose.LARGE = 0 if use else 10**12


def with_one_buffer(use: bool):
    choose.LARGE = 10**12 if use else 0


DETOURS = {
    "onednn": with_onednn,
    "freed-memory": with_freed_memory_kept,
    "adamw": with_own_adamw,
    "no-gradient-buffer": with_no_gradient_buffer,
    "one-buffer": with_one_buffer,
}


def run_of(width: int, depth: int, precision: str) -> tuple[Run, Iterator[Batch]]:
    """A run of this size, and batches without end: the miniature's own, drawn as in a run, or one of noise."""
    if depth > 3:
        run = train_step.a_run("crossattention", width, depth, 8, precision)
        n, data = run.recipe.batch_size, run.data
        x0 = torch.randn(n, data.channels, data.resolution, data.resolution)
        text, index = torch.randn(n, data.text_length, data.text_dim), torch.arange(n)
        return run, itertools.repeat(Batch(x0, text, *draw_noise(0, "logit-normal", index, x0.shape)))
    study = compose(["study=mini", "recipe.min_steps=1", f"recipe.precision={precision}"])
    run = make_run(study, "grid", 8e11, width, 0)
    source, endless = open_source(run.data), range(0, 2**40, run.recipe.batch_size)
    return run, stream(source, run, endless, train_step.ONE)


def work(detour: str, use: bool, size: str, precision: str, seconds: float):
    """One of the two processes: for each line that comes, repeat the step for so long and print its CPU seconds."""
    torch.set_num_threads(1)
    DETOURS[detour](use)
    run, batches = run_of(*map(int, size.split("x")), precision)
    ranks = train_step.ONE
    trained = build(run, ranks)
    step = Step(trained, GradientAccumulation(run, trained.model, trained.layout, ranks), run.recipe.clip, False)
    for number in range(1, 4):
        step(next(batches), number, 1e-3)
    print("ready", flush=True)
    for _ in sys.stdin:
        began, cpu, n = time.perf_counter(), time.process_time(), 0
        while n < 1 or time.perf_counter() - began < seconds:
            step(next(batches), 4 + n, 1e-3)
            n += 1
        print((time.process_time() - cpu) / n, flush=True)


class Way:
    """A process that does `work`."""

    def __init__(self, detour: str, use: bool, size: str, options):
        command = [sys.executable, __file__, "--work", detour, str(int(use)), size, options.precision]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        command += ["--seconds", str(options.seconds)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        if self.process.stdout.readline() != "ready\n":
            sys.exit(f"{detour}, {size}: a process has failed, see above")

    def time(self) -> float:
        print(file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detours", nargs="+", default=list(DETOURS), choices=DETOURS)
    parser.add_argument("--sizes", nargs="+", default=["48x2", "80x3", "384x12"], metavar="WIDTHxDEPTH")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a process's turn (default: 0.5)")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        detour, use, size, precision = options.work
        return work(detour, bool(int(use)), size, precision, options.seconds)
    processor = next(
        (line for line in Path("/proc/cpuinfo").open() if line.startswith("model name")), platform.machine()
    )
    print(
        f"{datetime.date.today()}, {processor.split(':')[-1].strip()}, torch {torch.__version__}, {options.precision}\n"
    )
    print("| detour | size | ms a step without | with | ratio | middle half of the rounds |\n|---|---|---|---|---|---|")
    for detour in options.detours:
        for size in options.sizes:
            ways = [Way(detour, use, size, options) for use in (False, True)]
            rounds = []
            for number in range(options.rounds):
                order = ways if number % 2 else ways[::-1]
                seconds = {way: way.time() for way in order}
                rounds.append([seconds[way] for way in ways])
            for way in ways:
                way.close()
            without, used = np.array(rounds).T
            low, ratio, high = np.quantile(used / without, [0.25, 0.5, 0.75])
            print(
                f"| {detour} | {size} | {1e3 * np.median(without):.2f} | {1e3 * np.median(used):.2f} | {ratio:.3f} | "
                f"{low:.3f} to {high:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
