"""The grid of an isoFLOP study: budgets x widths x seeds to runs, and the probe's size from the law."""

import math
from dataclasses import dataclass

from ..config import Study
from ..errors import UserError
from ..units import compact, count
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
    note: str = ""  # Why no runs are nested, where the study asks for nested runs.

    @property
    def flops(self) -> float:
        """Training FLOPs of all runs, counted exactly. A nested run costs its cool-down only, if it has one."""
        return float(sum(r.flops_per_image * (r.n_images + r.branch_images) for r in self.runs if not r.within))


def plan_grid(study: Study) -> Plan:
    """Every run of the study but the probe. Raises UserError when a budget keeps no run at all."""
    runs: list[Run] = []
    dropped: list[Dropped] = []
    for budget in study.budgets:
        widths = study.widths_of(budget)
        for width in widths:
            try:
                runs += [make_run(study, "grid", budget, width, seed) for seed in study.seeds]
            except UserError as error:
                dropped.append(Dropped(budget, width, str(error)))
        if sum(cell.budget_flops == budget for cell in dropped) == len(widths):
            raise UserError(f"budget {compact(budget)}: no width fits it ({dropped[-1].width}: {dropped[-1].reason})")
    note = ""
    if study.nested and not study.rehearsal:
        runs, note = nest(runs, study.recipe)
    return Plan(tuple(runs), tuple(dropped), note)


def plan_probe(study: Study, n_params: float) -> Run:
    """The probe: the recipe's size nearest (in log N) to the forecast's optimum `n_params`, at the probe's budget."""
    head, best = study.design.head_size, None
    distance = lambda run: abs(math.log(run.n_params / n_params))
    for width in range(head, 1024 * head, head):
        try:
            run = make_run(study, "probe", study.probe_budget, width, study.seeds[0])
        except UserError:
            if best is not None:
                break
            continue
        if best is not None and distance(run) > distance(best):
            break
        best = run
    if best is None:
        raise UserError(f"study.probe_budget: no model of this recipe trains at {compact(study.probe_budget)}")
    return best


def table(plan: Plan) -> str:
    """The plan as aligned text."""
    lines = [
        f"{'budget':>9} {'size':>9} {'N':>7} {'images':>8} {'tokens D':>9} {'steps':>8} {'FLOPs':>10} {'off':>7} "
        f"{'6ND/C':>6} {'rate':>9}"
    ]
    for r in plan.runs:
        lines.append(
            f"{compact(r.budget_flops):>9} {f'{r.width}x{r.depth}':>9} {count(r.n_params):>7} {count(r.n_images):>8} "
            f"{count(r.n_tokens):>9} {r.steps:>8} {compact(r.achieved_flops):>10} {r.deviation:>+7.2%} "
            f"{6 * r.n_params * r.n_tokens / r.budget_flops:>6.2f} {r.lr:>9.3g}"
        )
    for d in plan.dropped:
        lines.append(f"dropped: budget {compact(d.budget_flops)}, width {d.width}: {d.reason}")
    nested = [r for r in plan.runs if r.within]
    if nested:
        saved = float(sum(r.flops_per_image * r.stable_images for r in nested))
        cooling = sum(r.flops_per_image * r.n_images for r in nested) - saved
        how = f", but for their cool-down of {compact(cooling)} FLOPs" if cooling else ""
        lines.append(
            f"{len(nested)} runs are nested: trained as part of a longer run{how}; {saved / (saved + plan.flops):.0%} "
            "of the FLOPs saved"
        )
    if plan.note:
        lines.append(f"nested: {plan.note}")
    rates = sum(r.role == "rate" for r in plan.runs)
    of_them = f", {rates} of them a sweep of the learning rate" if rates else ""
    evaluation = sum(evaluation_flops(r) for r in plan.runs)
    then = f", and {compact(evaluation)} ({evaluation / plan.flops:.1%}) of evaluation" if evaluation else ""
    return "\n".join([*lines, f"{len(plan.runs)} runs{of_them}, {compact(plan.flops)} FLOPs of training{then}"])
