"""What `ditscale bench` executes on a node, in a process of its own for each run that is measured at once:

    python -m ditscale.launch.job.bench prepare RUN_DIR           makes what runs share, such as the features of FID
    python -m ditscale.launch.job.bench measure RUN_DIR SECONDS   trains the run, then a longer one like it

The runs are real ones, short: their records say how fast they were (price/records.py)."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from ...logs import show
from ...naming import RunPaths, StudyPaths
from ...plan.run import Run, read_run
from ...plan.study import write_run
from ...price.records import FIRST_STEPS, of_run
from ...process import this_process
from . import gpus

LONGER = "-longer"  # What the name of the longer run ends in.
FEW = 32  # Images that its evaluation takes at most.


def measure(run_dir: Path, seconds: float):
    """Train the run to its end, evaluation included; then one of about so many seconds, unless the first was long."""
    from ...train.loop import train

    at = RunPaths(run_dir)
    train(at.root)
    run = read_run(at.run)
    speed = of_run(at, run)
    if speed is None:
        return
    step_s = run.recipe.batch_size * run.flops_per_image / (speed.flops_per_s * this_process().world)
    steps = max(run.steps, FIRST_STEPS * round(seconds / step_s / FIRST_STEPS))
    study = StudyPaths(at.root.parent.parent)
    longer = study.run(at.name + LONGER)
    if this_process().first:
        write_run(study, _longer(run, steps))
    while not longer.run.is_file():
        time.sleep(0.1)
    train(longer.root)


def _longer(run: Run, steps: int) -> Run:
    """The same run with so many steps, evaluated on few images: so it is known what an evaluation takes besides."""
    few = {metric: replace(how, n=min(how.n or run.validation.n, FEW)) for metric, how in run.evaluation.items()}
    n_images = steps * run.recipe.batch_size
    n_tokens = n_images * run.tokens_per_image
    name = run.run_id + LONGER
    return replace(run, run_id=name, steps=steps, n_images=n_images, n_tokens=n_tokens, evaluation=few)


def prepare(run_dir: Path):
    """Train our feature extractor now, if the run's FID takes it and it is not in the cache: it takes half a minute."""
    import torch

    from ...distributed.ranks import Ranks
    from ...evaluate.extractor import load_extractor

    run = read_run(RunPaths(run_dir).run)
    if fid := run.evaluation.get("fid"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        load_extractor(fid, run.data, Ranks(0, 1, torch.device("cpu")))


if __name__ == "__main__":
    show()
    gpus.take()
    what, directory, *rest = sys.argv[1:]
    prepare(Path(directory)) if what == "prepare" else measure(Path(directory), float(rest[0]))
