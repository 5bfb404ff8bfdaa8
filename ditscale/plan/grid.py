"""The grid of an isoFLOP study: budgets x widths x seeds to runs, and the probe's size from the law."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import units
from ..config import Study
from ..errors import UserError
from .nest import nest
from .price import evaluation_flops
from .run import Run, make_run


@dataclass(frozen=True)
class Dropped:
    """A cell of the grid that has no run, and why."""

    budget_flops: float
    width: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """The runs of a study's grid and the cells that could not be planned."""

    runs: tuple[Run, ...]
    dropped: tuple[Dropped, ...]
    note: str = ""  # why runs are not nested, where they were to be

    @property
    def flops(self) -> float:
        """Training FLOPs of all runs, counted exactly; runs that are read from others cost their cool-down, if they
        have one."""
        return float(sum(r.flops_per_image * (r.n_images + r.branch_images) for r in self.runs if not r.within))


def plan_grid(study: Study) -> Plan:
    """Every run of the study but the probe. Raises UserError when a budget keeps no run at all."""
    runs, dropped = [], []
    for budget in study.budgets:
        kept = 0
        for width in study.widths_of(budget):
            try:
                runs += [make_run(study, "grid", budget, width, seed) for seed in study.seeds]
                kept += 1
            except UserError as error:
                dropped.append(Dropped(budget, width, str(error)))
        if not kept:
            raise UserError(
                f"budget {units.compact(budget)}: no width fits it ({dropped[-1].width}: {dropped[-1].reason})"
            )
    note = ""
    if study.nested and not study.rehearsal:
        runs, note = nest(runs, study.recipe)
    return Plan(tuple(runs), tuple(dropped), note)


def plan_probe(study: Study, n_params: float) -> Run:
    """The probe: the recipe's size nearest (in log N) to the forecast's optimum `n_params`, at the probe's budget."""
    head, best = study.design.head_size, None
    for width in range(head, 1024 * head, head):
        try:
            run = make_run(study, "probe", study.probe_budget, width, study.seeds[0])
        except UserError:
            if best is not None:
                break
            continue
        if best is not None and _distance(run, n_params) > _distance(best, n_params):
            break
        best = run
    if best is None:
        raise UserError(f"study.probe_budget: no model of this recipe trains at {units.compact(study.probe_budget)}")
    return best


def _distance(run: Run, n_params: float) -> float:
    return abs(math.log(run.n_params / n_params))


def table(plan: Plan) -> str:
    """The plan as aligned text."""
    head = (
        f"{'budget':>9} {'size':>9} {'N':>7} {'images':>8} {'tokens D':>9} {'steps':>8} "
        f"{'FLOPs':>10} {'off':>7} {'6ND/C':>6} {'rate':>9}"
    )
    lines = [head]
    for r in plan.runs:
        lines.append(
            f"{units.compact(r.budget_flops):>9} {f'{r.width}x{r.depth}':>9} {units.count(r.n_params):>7} "
            f"{units.count(r.n_images):>8} {units.count(r.n_tokens):>9} {r.steps:>8} "
            f"{units.compact(r.achieved_flops):>10} "
            f"{r.deviation:>+7.2%} {6 * r.n_params * r.n_tokens / r.budget_flops:>6.2f} {r.lr:>9.3g}"
        )
    for d in plan.dropped:
        lines.append(f"dropped: budget {units.compact(d.budget_flops)}, width {d.width}: {d.reason}")
    read = [r for r in plan.runs if r.within]
    if read:
        saved = float(sum(r.flops_per_image * r.stable_images for r in read))
        cooling = sum(r.flops_per_image * r.n_images for r in read) - saved
        what = "are the beginning of a longer one and read from it"
        if cooling:
            what = f"begin as a longer one and branch off it for their cool-down, {units.compact(cooling)} FLOPs"
        lines.append(f"{len(read)} runs {what}: {saved / (saved + plan.flops):.0%} of the FLOPs saved")
    if plan.note:
        lines.append(f"nested: {plan.note}")
    swept = sum(r.role == "rate" for r in plan.runs)
    of_them = f", {swept} of them a sweep of the learning rate" if swept else ""
    measured = sum(evaluation_flops(r) for r in plan.runs)
    then = f", and {units.compact(measured)} ({measured / plan.flops:.1%}) of evaluation" if measured else ""
    lines.append(f"{len(plan.runs)} runs{of_them}, {units.compact(plan.flops)} FLOPs of training{then}")
    return "\n".join(lines)
