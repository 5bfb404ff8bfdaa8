"""The grid of an isoFLOP study: budgets x widths x seeds to runs, its learning-rate sweep, and the probe's size."""

import itertools
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config import Prior, Study
from ..errors import UserError
from ..units import compact, count
from .nest import nest
from .run import Run, make_run
from .sizes import off_optimum, with_widths

if TYPE_CHECKING:
    from .checks import Check

# What the last line of a plan says of runs that are not of a slice.
PARTS = {"lever": "of them levers, in the surface and in no parabola", "rate": "of them a sweep of the learning rate"}


@dataclass(frozen=True)
class Dropped:
    """A cell of the grid that has no run, and why."""

    budget_flops: float
    width: int
    reason: str

    def __str__(self) -> str:
        return f"dropped: budget {compact(self.budget_flops)}, width {self.width}: {self.reason}"


@dataclass(frozen=True)
class Plan:
    """The runs of a study's grid and the cells that could not be planned."""

    runs: tuple[Run, ...]
    dropped: tuple[Dropped, ...]
    note: str = ""  # Why no runs are nested, where the study asks for nested runs.
    prior: Prior | None = None  # The study's.
    notes: tuple[str, ...] = ()  # The study's.
    checks: tuple["Check", ...] = ()  # What was found before it was written (plan/checks), errors first.

    @property
    def flops(self) -> float:
        """Training FLOPs of all runs, counted exactly. A nested run costs its cool-down only, if it has one."""
        return float(sum(r.flops_per_image * (r.n_images + r.branch_images) for r in self.runs if not r.within))


def plan_grid(study: Study) -> Plan:
    """Every run of the study but the probe: its slices (role "grid") and its levers. Raises UserError when a slice
    keeps no run at all, and as `with_widths`."""
    study = with_widths(study)
    runs, dropped, note = list[Run](), list[Dropped](), ""
    for budget in study.budgets:
        cells = [("grid", width) for width in study.widths_of(budget)]
        cells += [("lever", width) for width in study.levers_of(budget)]
        lost = len(dropped)
        for role, width in cells:
            try:
                runs += [make_run(study, role, budget, width, seed) for seed in study.seeds]
            except UserError as error:
                dropped.append(Dropped(budget, width, str(error)))
        if not any(run.role == "grid" and run.budget_flops == budget for run in runs):
            cell = dropped[lost]
            raise UserError(f"budget {compact(budget)}: no width fits it ({cell.width}: {cell.reason})")
    if study.nested and not study.rehearsal:
        runs, note = nest(runs, study.recipe)
    return Plan(tuple(runs), tuple(dropped), note, study.prior, study.notes)


def plan_runs(study: Study) -> Plan:
    """Every run that can be planned before there is a law: the grid and, if the study has `rates`, their sweep (role
    "rate"): the grid's runs at the sweep's budgets again, at every multiple but 1. Raises UserError as `plan_grid`."""
    grid, budgets = plan_grid(study), study.rate_budgets or study.budgets[:1]
    swept = (run for run in grid.runs if run.role == "grid" and run.budget_flops in budgets)
    points = [(run.budget_flops, run.width, run.seed) for run in swept]
    sweep = [make_run(study, "rate", *point, multiple) for point in points for multiple in study.rates if multiple != 1]
    return replace(grid, runs=(*grid.runs, *sweep))


def nearest_run(study: Study, role: str, budget: float, n_params: float, seed: int) -> Run:
    """The run of the recipe's size nearest (in log N) to `n_params` at a budget. Raises UserError where none trains."""
    head, best = study.design.head_size, None
    distance = lambda run: abs(math.log(run.n_params / n_params))
    for width in range(head, 1024 * head, head):
        run = None
        with suppress(UserError):
            run = make_run(study, role, budget, width, seed)
        if best and not (run and distance(run) <= distance(best)):
            break
        best = run
    if not best:
        raise UserError(f"no model of this recipe trains at {compact(budget)} FLOPs; ask a larger budget")
    return best


def plan_probe(study: Study, n_params: float, independent: bool = True) -> Run:
    """The probe: the recipe's size nearest to the forecast's optimum `n_params`, at the probe's budget. It has a seed
    and a data seed of its own, so that no grid run shares its weights' start, noise, or images in their order. Studies
    planned before that was so (`independent` False) have a probe that begins as the grid run of its size."""
    seed = study.seeds[0]
    if independent:
        seed = next(n for n in itertools.count() if n not in study.seeds)
        # Held-out images of drawn data sets come from the validation's seed.
        taken = (study.data.seed, study.validation.seed)
        data_seed = next(n for n in itertools.count(study.data.seed + 1) if n not in taken)
        study = replace(study, data=replace(study.data, seed=data_seed))
    return nearest_run(study, "probe", study.probe_budget, n_params, seed)


def is_independent(study: Study, probe: Run) -> bool:
    """Whether the probe shares neither its seed nor its data seed with a run of the grid."""
    return probe.seed not in study.seeds and probe.data.seed != study.data.seed


def table(plan: Plan) -> str:
    """The plan as aligned text; with a prior, N relative to its optimum."""
    prior = plan.prior
    head = (
        "budget",
        "size",
        "N",
        "images",
        "tokens D",
        "steps",
        "FLOPs",
        "off",
        "6ND/C",
        "rate",
        "N/N*" if prior else "",
        "",
    )
    rows = [head] + [
        (compact(r.budget_flops), f"{r.width}x{r.depth}", count(r.n_params), count(r.n_images), count(r.n_tokens),
         str(r.steps), compact(r.achieved_flops), f"{r.deviation:+.2%}",
         f"{6 * r.n_params * r.n_tokens / r.budget_flops:.2f}", f"{r.lr:.3g}",
         f"{off_optimum(prior, r):.3g}" if prior else "", r.role * (r.role != "grid"))
        for r in plan.runs
    ]  # fmt: skip
    lines = [
        " ".join(map(str.rjust, row, (9, 9, 7, 8, 9, 8, 10, 7, 6, 9, 6 * bool(prior), 0))).rstrip() for row in rows
    ]
    lines += map(str, plan.dropped)
    if nested := [r for r in plan.runs if r.within]:
        saved = float(sum(r.flops_per_image * r.stable_images for r in nested))
        cooling = sum(r.flops_per_image * r.n_images for r in nested) - saved
        how = f", but for their cool-down of {compact(cooling)} FLOPs" if cooling else ""
        share = f"{saved / (saved + plan.flops):.0%} of the FLOPs saved"
        lines.append(f"{len(nested)} runs are nested: trained as part of a longer run{how}; {share}")
    if plan.note:
        lines.append(f"nested: {plan.note}")
    lines += [f"note: {text}" for text in plan.notes]
    if prior and prior.source:
        lines.append(f"N* of the prior: {prior.source}")
    roles = [run.role for run in plan.runs]
    of_them = "".join(f", {roles.count(role)} {what}" for role, what in PARTS.items() if role in roles)
    evaluation = sum(r.evaluation_flops for r in plan.runs)
    then = f", and {compact(evaluation)} ({evaluation / plan.flops:.1%}) of evaluation" if evaluation else ""
    return "\n".join([*lines, f"{len(plan.runs)} runs{of_them}, {compact(plan.flops)} FLOPs of training{then}"])
