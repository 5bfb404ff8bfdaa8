"""The cost of evaluating a trained run: time and memory of each metric, for several numbers of images.

    python tools/bench/evaluation.py RUN_DIR [--n 1000 4000] [--metrics likelihood,vlb,val_loss,fid] [--ranks 2]

Each measurement is the command that a user types, on a copy of the run, so that nothing was measured before. FID keeps
its extractor and the features of the held-out images in the cache; a first round that does not count fills it.
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
from typing import NamedTuple

import torch

from ditscale.rundir.evaluation import read_results

ROOT = Path(__file__).resolve().parents[2]


class Cost(NamedTuple):
    """Of the whole command. evaluations: of the model, per image. mib: memory of the largest process."""

    seconds: float
    evaluations: float
    mib: float


def measure(run_dir: Path, metric: str, n: int, ranks: int, scratch: Path) -> Cost:
    copy = Path(shutil.copytree(run_dir, scratch / "run"))
    (copy / "evaluation.h5").unlink(missing_ok=True)
    known = read_results(run_dir / "evaluation.h5") if (run_dir / "evaluation.h5").is_file() else []
    data = next((r.dataset for r in known if not r.dataset.endswith("ood")), "scenes")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*torchrun, "-m", "ditscale", "evaluate", str(copy), "--metrics", metric, "--dataset", data]
    command += ["--images", str(n), "--samples", "0", "--few"]
    began = time.perf_counter()
    with open(scratch / "log", "w") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit((scratch / "log").read_text())
    (result,) = read_results(copy / "evaluation.h5")
    shutil.rmtree(copy)
    return Cost(seconds, result.evaluations, usage.ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 4000], help="numbers of images (default: 1000 4000)")
    parser.add_argument("--metrics", default="likelihood,vlb,val_loss,fid")
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    run, ranks = options.run_dir, options.ranks
    print(f"{datetime.date.today()}, {ranks} ranks of one thread, torch {torch.__version__}, {run.name}")
    print("| metric | images | evaluations per image | seconds, with start-up | images/s | MiB of a process |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for metric in options.metrics.split(","):
            if metric == "fid":
                for n in options.n:
                    measure(run, metric, n, ranks, Path(scratch))
            for n in options.n:
                cost = measure(run, metric, n, ranks, Path(scratch))
                print(
                    f"| {metric} | {n} | {cost.evaluations:.0f} | {cost.seconds:.1f} | {n / cost.seconds:.0f} | "
                    f"{cost.mib:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
