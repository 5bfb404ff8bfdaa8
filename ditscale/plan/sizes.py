"""Widths about the optimum of a study's prior: the sizes of each slice from `study.around`."""

import math
from collections.abc import Iterator
from dataclasses import replace

from ..config import Around, Prior, Study
from ..errors import UserError
from ..flops import n_params, shape_of
from ..units import compact, count
from .run import Run, make_run

EACH_SIDE = 2  # Sizes below N*, and above: a minimum in the outermost interval of its slice is refused.
FARTHEST = 16.0  # Sizes beyond this factor of N* are in no slice: a parabola misplaces its minimum there.


def with_widths(study: Study) -> Study:
    """The study with numbers for its widths, as study.yaml has them: those given, or those of `around`. Raises
    UserError at a budget where the recipe cannot train sizes on both sides of the prior's optimum."""
    around, prior = study.around, study.prior
    if study.widths or around is None or prior is None:
        return replace(study, around=None) if around else study
    rows, shared = list[tuple[int, ...]](), set[int]()
    for budget in reversed(study.budgets):
        rows.insert(0, _slice(study, prior, budget, around, shared))
        shared |= {*rows[0]} if study.nested else set()
    return replace(study, widths=tuple(rows), around=None)


def off_optimum(prior: Prior, run: Run) -> float:
    """N / N* of a run: N* is the prior's for the run's budget, with C / (N D) as that run has it."""
    return run.n_params / prior.optimum(run.budget_flops, run.budget_flops / (run.n_params * run.n_tokens))


def _slice(study: Study, prior: Prior, budget: float, around: Around, shared: set[int]) -> tuple[int, ...]:
    """The widths of one budget, rising: of those inside the span as many as asked for, evenly in ln N; and the nearest
    beyond it, where fewer are inside. shared: widths of larger budgets, taken where they are as good: within half a
    step of an even place."""
    off, reach, sizes = dict(_trainable(study, prior, budget)), math.log(around.span), around.sizes
    below, above = ([w for w in off if (off[w] < 0) is side] for side in (True, False))
    if min(len(below), len(above)) < EACH_SIDE:
        side = "below" if len(below) < EACH_SIDE else "above"
        raise UserError(_unsuitable(study, prior, budget, side, [*off]))
    nearest = sorted(off, key=lambda width: abs(off[width]))
    inside, chosen = [width for width in nearest if abs(off[width]) <= reach * (1 + 1e-9)], set[int]()
    for i in range(sizes):
        place = reach * (2 * i / (sizes - 1) - 1)
        far = {width: abs(off[width] - place) for width in inside if width not in chosen}
        near = {width: d for width, d in far.items() if width in shared and d <= reach / (sizes - 1)} or far
        chosen |= {min(near, key=near.__getitem__)} if near else set()
    for widths in (below[::-1], above):
        lacking = max(0, EACH_SIDE - len(chosen.intersection(widths)))
        chosen |= {*[width for width in widths if width not in chosen][:lacking]}
    further = [width for width in nearest if width not in chosen]
    return tuple(sorted(chosen | {*further[: max(0, sizes - len(chosen))]}))


def _trainable(study: Study, prior: Prior, budget: float) -> Iterator[tuple[int, float]]:
    """(width, ln N / N*) of the multiples of the head size that the recipe trains at a budget, rising."""
    head = study.design.head_size
    for width in range(head, 4096 * head, head):
        depth = max(1, round(width / study.recipe.aspect))
        n = n_params(shape_of(study.design, study.data, depth, width))[study.params]
        if n > FARTHEST**2 * prior.optimum(budget):  # C / (N D) is 6 here, and may be another in a run.
            return
        if n * FARTHEST**2 > prior.optimum(budget):
            try:
                run = make_run(study, "grid", budget, width, study.seeds[0])
            except UserError:
                continue
            off = math.log(off_optimum(prior, run))
            if abs(off) <= math.log(FARTHEST):
                yield width, off


def _unsuitable(study: Study, prior: Prior, budget: float, side: str, widths: list[int]) -> str:
    """Why there is no slice about the prior's optimum at a budget, and what to do."""
    head = study.design.head_size
    optimum = f"the optimum of {compact(budget)} FLOPs has {count(prior.optimum(budget))} parameters"
    sizes = f"{head}, {2 * head}, ..." if not widths else f"{widths[0]} to {widths[-1]}"
    what = f"fewer than {EACH_SIDE} of the widths that this recipe trains there ({sizes}) lie {side} it"
    smaller = "design.head_size" if side == "below" else "recipe.min_steps"
    return f"study.prior: {optimum}, and {what}; use a larger budget or a smaller {smaller}, or give widths"
