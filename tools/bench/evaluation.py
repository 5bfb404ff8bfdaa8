"""What it takes to measure a trained run: time and memory of each metric, for several numbers of images.

    python tools/bench/evaluation.py RUN_DIR [--n 1000 4000] [--metrics likelihood,vlb,val_loss,fid] [--ranks 2]

By the command a user types, on a copy of the run, so that nothing is there beforehand; what FID learns once (its
extractor, the features of the held-out images) is in the cache after a first round that does not count.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ditscale.rundir.evaluation import read_results

ROOT = Path(__file__).resolve().parents[2]


def measure(run_dir: Path, metric: str, n: int, ranks: int, scratch: Path) -> tuple[float, float, float]:
    """(seconds, evaluations of the model for an image, MiB of the largest process) of the whole command."""
    copy = Path(shutil.copytree(run_dir, scratch / "run"))
    (copy / "evaluation.h5").unlink(missing_ok=True)
    words = ["evaluate", str(copy), "--metrics", metric, "--images", str(n), "--samples", "0", "--few"]
    own = read_results(run_dir / "evaluation.h5") if (run_dir / "evaluation.h5").is_file() else []
    name = next((r.dataset for r in own if not r.dataset.endswith("ood")), "scenes")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        "-m",
        "ditscale",
        *words,
        "--dataset",
        name,
    ]
    began = time.perf_counter()
    with open(scratch / "log", "w") as log:
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log
        )
        _, status, used = os.wait4(process.pid, 0)  # of the largest of its processes
    took = time.perf_counter() - began
    if status:
        raise SystemExit((scratch / "log").read_text())
    (result,) = read_results(copy / "evaluation.h5")
    shutil.rmtree(copy)
    return took, result.evaluations, used.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--metrics", default="likelihood,vlb,val_loss,fid")
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    print(
        f"{datetime.date.today()}, {options.ranks} ranks of one thread, torch {torch.__version__}, "
        f"{options.run_dir.name}"
    )
    print(
        "| metric | images | evaluations an image | seconds, with starting | images/s | MiB of a process "
        "|\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for metric in options.metrics.split(","):
            if metric == "fid":
                for n in options.n:
                    measure(options.run_dir, metric, n, options.ranks, Path(scratch))
            for n in options.n:
                took, evaluations, memory = measure(options.run_dir, metric, n, options.ranks, Path(scratch))
                print(
                    f"| {metric} | {n} | {evaluations:.0f} | {took:.1f} | {n / took:.0f} | {memory:.0f} |", flush=True
                )


if __name__ == "__main__":
    main()
