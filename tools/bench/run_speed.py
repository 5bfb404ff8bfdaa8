"""Runs against their own steps: what data, record, checkpoints and all else of the loop cost.

    python tools/bench/run_speed.py [--at-once N] [--seconds S] [KEY=VALUE ...]

Plans a study, trains it here, and reads from the longest run of each size how many images a second it did in all and
how long it waited for data. Before and after, the same run's step is repeated on one batch, in as many processes at
once as the study's runs are. Settings on a CPU are study=mini ~evaluation, if none are given; on a GPU a size of
study=paper on a file of random latents.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import beside
import h5py
import numpy as np
import torch

from ditscale.data.source import open_source
from ditscale.diffusion.rectified_flow import draw_noise
from ditscale.distributed.ranks import Ranks
from ditscale.model.compile import compiles, speed_up
from ditscale.naming import StudyPaths
from ditscale.plan.run import Run, read_run
from ditscale.plan.study import read_study
from ditscale.train.batches import Batch
from ditscale.train.loop import keep_freed_memory
from ditscale.train.state import build
from ditscale.train.step import GradientAccumulation, Step

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
LATENTS = ["study=paper-as-published", "budgets=[5e15]", "widths=[256]", "~evaluation", "validation.n=256"]
WARM = 8  # steps


def write_latents(path: Path, n: int, seed: int):
    """A file as docs/data.md has it, of noise, with the shapes of study=paper."""
    draw = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file["latents"] = draw.standard_normal((n, 4, 32, 32), "f4").astype("f2")
        file["text"] = draw.standard_normal((n, 77, 768), "f4").astype("f2")
        file.attrs["shift"], file.attrs["scale"] = 0.0, 1.0


def step_alone(run_dir: str, seconds: float):
    """One of those (beside.py) that repeat the run's step on its first batch for so long, and say how many images a
    second that was."""
    run = read_run(Path(run_dir) / "run.yaml")
    torch.set_num_threads(run.execution.threads)
    if not CUDA:
        keep_freed_memory()
    ranks = Ranks(0, 1, DEVICE)
    state = build(run, ranks)
    accumulation = GradientAccumulation(run, state.model, state.layout, ranks)
    compiled = compiles(run, DEVICE)
    speed_up(state.model, compiled, run.execution.recompute)
    step = Step(state, accumulation, run.recipe.clip, compiled)
    index = torch.arange(run.recipe.batch_size)
    x0, text = (part.to(DEVICE) for part in open_source(run.data).batch(index))
    batch = Batch(x0, text, *draw_noise(run.seed, run.recipe.timesteps, index.to(DEVICE), x0.shape))
    synchronize = torch.cuda.synchronize if CUDA else lambda: None
    for number in range(WARM):
        step(batch, number + 1, run.lr)
    synchronize()
    beside.wait()
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            step(batch, WARM + n + 1, run.lr)
            n += 1
        synchronize()
    print(n * run.recipe.batch_size / (time.perf_counter() - began), flush=True)


def longest(paths: StudyPaths) -> list[tuple[Run, Path]]:
    """The run of most images of each size: with nested budgets the others are read from it."""
    found: dict[str, tuple[Run, Path]] = {}
    for at in paths.run_dirs():
        run = read_run(at.run)
        size = f"{run.width}x{run.depth}"
        if size not in found or run.n_images > found[size][0].n_images:
            found[size] = run, at.root
    return sorted(found.values(), key=lambda pair: pair[0].width)


def ditscale(*words):
    command = [sys.executable, "-m", "ditscale", *map(str, words)]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        sys.exit(f"ditscale {words[0]} has failed, see above")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--at-once", type=int, default=0, help="processes that repeat a step; 0: as the study runs")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--step-of", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if options.step_of:
        return step_alone(options.step_of, options.seconds)
    with tempfile.TemporaryDirectory() as place:
        settings = options.settings
        if not settings and CUDA:
            train, held_out = Path(place, "latents.h5"), Path(place, "held-out.h5")
            write_latents(train, 4096, 0)
            write_latents(held_out, 256, 1)
            settings = [*LATENTS, f"data.path={train}", f"validation.path={held_out}"]
        settings = settings or ["study=mini", "~evaluation"]
        paths = StudyPaths(str(Path(place, "study")))
        ditscale("plan", paths.root, *settings)
        cluster, runs = read_study(paths.root).cluster, longest(paths)
        here = 1 if CUDA else cluster.workers or max(1, torch.get_num_threads() // cluster.threads)
        at_once = options.at_once or here
        words = ("--seconds", options.seconds, "--step-of")
        measure = lambda: [statistics.mean(beside.speeds(at_once, __file__, *words, run_dir)) for _, run_dir in runs]
        before = measure()
        if CUDA:
            for _, run_dir in runs:
                ditscale("run", run_dir)
        else:
            ditscale("launch", paths.root)
        after = measure()
        where = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} cores"
        print(f"{datetime.date.today()}, {where}, torch {torch.__version__}, {at_once} at once")
        print(
            "| size | its step alone, before and after | images/s, mean | run, images/s | of its step | waiting for "
            "data |\n|---|---|---|---|---|---|"
        )
        own = together = 0.0  # seconds of all runs' steps, alone and in the loop
        for (run, run_dir), *speeds in zip(runs, before, after):
            with h5py.File(run_dir / "metrics.h5", "r") as file:
                attempt = file["attempts"][0]
                seconds = float(file["steps"]["elapsed_s"][-1])
            mean, whole = statistics.mean(speeds), float(attempt["images_per_s"])
            own, together = own + run.n_images / mean, together + run.n_images / whole
            steps = " and ".join(f"{1e3 * run.recipe.batch_size / speed:.2f} ms" for speed in speeds)
            print(
                f"| {run.width}x{run.depth} | {steps} | {mean:.0f} | {whole:.0f} | {whole / mean:.0%} | "
                f"{attempt['data_wait_s'] / seconds:.1%} |"
            )
        print(f"all: {own:.0f} s of steps, {together:.0f} s in the loop, {own / together:.0%}")


if __name__ == "__main__":
    main()
