"""Runs that begin as a longer run of the same study does, and so need no training of their own, or only that of their
cool-down.

Data, noise and timesteps are functions of (seed, position), the EMA of the step: under a constant rate a run of 4e11
FLOPs is the first half of the one of 8e11 that has its size and seed, to the bit. The longer one is the host; it stops
at each shorter one's last image, measures it, and writes its directory as if it had been trained (train/nested.py).
Where rates cool down at the end (wsd), it stops where the shorter one's cool-down begins, trains that, and goes back to
where it stopped (train/nested.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace

from ..config import Recipe
from .run import Run

# all that may differ between a run and its host
LENGTH = ("budget_flops", "achieved_flops", "steps", "n_images", "n_tokens")


def nest(runs: list[Run], recipe: Recipe) -> tuple[list[Run], str]:
    """The runs with `within` (the host's run_id) and `readings` (run_ids of those read from it, shortest first); and
    where no run is the beginning of another, why."""
    if recipe.schedule == "cosine":
        return runs, "with recipe.schedule=cosine no run begins as a longer one does, so each is trained by itself"
    alike = defaultdict(list)
    for run in runs:
        alike[json.dumps({k: v for k, v in run.defines().items() if k not in LENGTH}, sort_keys=True)].append(run)
    found = {}
    for group in alike.values():
        *shorter, host = sorted(group, key=lambda run: run.n_images)
        found |= {run.run_id: replace(run, within=host.run_id) for run in shorter}
        cooling = sum(run.n_images - run.stable_images for run in shorter)
        found[host.run_id] = replace(host, readings=tuple(run.run_id for run in shorter), branch_images=cooling)
    why = ""
    if not any(run.within for run in found.values()):
        why = (
            "no run begins as a longer one does, so each is trained by itself: a size must be in several budgets, and "
            "rate, batch, warm-up and decay must not depend on D"
        )
    return [found[run.run_id] for run in runs], why
