"""Nested runs: those that begin as a longer run does, and so need no training of their own but that of a cool-down.

Data, noise and timesteps are functions of (seed, position), the EMA of the step. Under a constant rate a run of 4e11
FLOPs is therefore the first half of the one of 8e11 that has its size and seed, to the bit. The longer one, its parent,
measures it there and writes its directory (train/nested.py). Where rates cool down at the end (wsd), the parent stops
where the nested run's cool-down begins, trains that, and resumes where it stopped."""

import json
from collections import defaultdict
from dataclasses import replace

from ..config import Recipe
from .run import Run

# All that may differ between a nested run and its parent.
LENGTH = ("budget_flops", "achieved_flops", "steps", "n_images", "n_tokens")


def nest(runs: list[Run], recipe: Recipe) -> tuple[list[Run], str]:
    """The runs with `within` and `readings` (of nested runs, shortest first); and where no run is nested, why."""
    if recipe.schedule == "cosine":
        return runs, "with recipe.schedule=cosine no run begins as a longer one does, so each is trained by itself"
    families = defaultdict(list)
    for run in runs:
        families[json.dumps({k: v for k, v in run.defines().items() if k not in LENGTH}, sort_keys=True)].append(run)
    by_id: dict[str, Run] = {}
    for family in families.values():
        *shorter, parent = sorted(family, key=lambda run: run.n_images)
        by_id |= {run.run_id: replace(run, within=parent.run_id) for run in shorter}
        cooling = sum(run.n_images - run.stable_images for run in shorter)
        by_id[parent.run_id] = replace(parent, readings=tuple(run.run_id for run in shorter), branch_images=cooling)
    why = "no run begins as a longer one does, so each is trained by itself: a size must be in several budgets, and "
    why += "rate, batch, warm-up and decay must not depend on D"
    return [by_id[run.run_id] for run in runs], "" if any(run.within for run in by_id.values()) else why
