"""How long does it take to read a table of 100,000 runs, and how much memory?

    python tools/bench/read_speed.py [--runs 100000]

A CSV with run_id, N, D, C and the loss, at six budgets; and the same with suffixes (16.1M), whose cells are read one by
one. Each is read in a process of its own. Times are CPU seconds, the median of five; memory is the peak resident size
of the process, the interpreter and numpy included."""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ditscale.laws import read_table
from ditscale.laws.synthetic import CHINCHILLA


def write(path: Path, count: int, suffixes: bool) -> None:
    rng = np.random.default_rng(0)
    budget = rng.choice([1e17, 3e17, 6e17, 1e18, 3e18, 6e18], count)
    n_params = 10 ** rng.uniform(6, 9, count)
    n_tokens = budget / 6 / n_params
    loss = CHINCHILLA.loss_at(n_params, n_tokens)
    size = (lambda x: f"{x / 1e6!r}M") if suffixes else repr
    with open(path, "w") as file:
        file.write("run_id,n_params,n_tokens,budget_flops,loss\n")
        for i, (n, d, c, y) in enumerate(zip(*(x.tolist() for x in (n_params, n_tokens, budget, loss)), strict=True)):
            file.write(f"run-{i},{size(n)},{d!r},{c!r},{y!r}\n")


def read(path: Path) -> tuple[float, float, float]:
    """(seconds of reading, seconds of finding the slices, MiB)."""
    seconds, slices = [], []
    for _ in range(5):
        begin = time.process_time()
        table = read_table(path)
        middle = time.process_time()
        assert len(table.slices()) == 6 and table.is_isoflop()
        seconds.append(middle - begin)
        slices.append(time.process_time() - middle)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return statistics.median(seconds), statistics.median(slices), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000, help="rows of the table")
    count = parser.parse_args().runs
    print("| cells | reading | slices | peak memory |\n|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        for name, suffixes in (("plain numbers", False), ("N with suffixes", True)):
            path = Path(folder) / "runs.csv"
            write(path, count, suffixes)
            seconds, slices, peak = pool.apply(read, (path,))
            print(f"| {name} | {seconds:.2f} s | {slices:.3f} s | {peak:.0f} MiB |")


if __name__ == "__main__":
    main()
