"""The next runs of a study on disk, as `ditscale plan DIR --refine` proposes them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import units
from ..collect.table import collect
from ..config import Study
from ..errors import UserError, command
from ..laws import read_table
from ..laws.predictor.predictor import predictor
from ..naming import StudyPaths
from ..plan.nest import nest
from ..plan.run import Run, read_run
from ..plan.study import plan_all, read_study
from ..result import Result
from .design import LEAST_RUNS
from .refine import STOPPING, Widths, fitted_law, refine
from .search import CENTRED
from .studies import Cells, Goal, possible_runs
from .surfaces import Surface

SMALLER, LARGER = (10, 3), 3  # further budgets: the smallest over these, and the largest times this
ROLES = ("grid", "lever")  # of the runs that the law is fitted to
HIGHEST = 0.3  # of the target: no larger budget is proposed


@dataclass(frozen=True)
class Proposal(Result):
    """A run to add, and why."""

    run_id: str
    role: str
    budget_flops: float
    width: int
    seed: int
    n_params: float
    hours: float  # of devices; 0 of a run that another one produces on its way
    why: str


@dataclass(frozen=True)
class NextRuns(Result):
    """now, after: half-widths at `target` as they are, and as expected with the runs; hours: of devices, for the runs;
    to_goal: for all that the goal is thought to take, 0 where it is reached; coming: runs that are planned already."""

    dir: str
    target: float
    goal: str
    now: Widths
    after: Widths
    runs: tuple[Proposal, ...]
    hours: float
    flops: float
    to_goal: float
    coming: int
    reached: bool
    added: bool = False

    def summary(self) -> str:
        lines = [f"{self.goal} wanted at {units.compact(self.target)} FLOPs; 95 % intervals now: {_words(self.now)}"]
        lines.append(f"  (for stopping on them: {STOPPING:.2f} times what `fit` states, and no less than planned)")
        if self.reached:
            return "\n".join([*lines, "the target is met; no further run is needed"])
        if not self.runs:
            wait = f"the {self.coming} runs that are planned already are thought to do; {command('launch', self.dir)}"
            none = "no run of this recipe that may be paid for narrows them"
            return "\n".join([*lines, f"{wait} trains them" if self.coming else none])
        cost = f"{self.hours:.3g} device-hours ({units.compact(self.flops)} FLOPs)"
        head = f"{len(self.runs)} runs narrow them most for their {cost}, to "
        lines.append(f"{head}{_words(self.after)}:")
        for run in self.runs:
            cost = f"{run.hours:.3g} h" if run.hours else "nested"
            size = f"width {run.width:4d}, N {units.count(run.n_params):>5}, seed {run.seed}"
            lines.append(f"  {units.compact(run.budget_flops):>7} {size}  {cost:>8}  {run.role:5}  {run.why}")
        lines.append(f"about {self.to_goal:.3g} device-hours in all are thought to be needed")
        there = f"added to {self.dir}; {command('launch', self.dir)} trains them"
        how = f"nothing was written; add --add to plan them in {self.dir}"
        return "\n".join([*lines, there if self.added else how])


def _words(widths: Widths) -> str:
    factor = math.exp(widths.n_params)
    return f"L* ±{math.expm1(widths.loss):.2%}, N* x/÷{factor:.2f}, exponent ±{widths.exponent:.3f}"


def next_runs(
    root: Path | str, goal: Goal, hours: Callable[[Run], float], most: float = math.inf, add: bool = False
) -> NextRuns:
    """What to train next so that the probe's forecast is as narrow as `goal`. hours: of devices, of one training; most:
    that may be spent; add: whether the runs are planned in the study. Raises UserError where the finished runs give no
    law, or where `most` is below the cheapest run."""
    paths, study = StudyPaths(root), read_study(root)
    collected = collect(root)
    lost = {run_id for run_id, reason in collected.excluded if reason.startswith("diverged")}
    count = sum(row["role"] in ROLES for row in collected.rows)
    if count < LEAST_RUNS:
        raise UserError(f"{root}: {count} finished runs give no law to refine; {command('launch', root)} trains more")
    table = read_table(root).grid()
    planned = {run.run_id: run for run in (read_run(at.run) for at in paths.run_dirs())}
    finished = [planned[str(run_id)] for run_id in table.run_id]
    own = {run.run_id for run in finished}
    coming = [r for r in planned.values() if r.role in ROLES and r.run_id not in own | lost]
    there = [*finished, *coming]
    law = fitted_law(predictor(table))
    new = [run for run in _candidates(study, there, law, hours) if run.run_id not in planned]
    own = {run.run_id for run in there}
    cells = Cells.of([*there, *new], law, study.nested, lambda run: 0.0 if run.run_id in own else hours(run))
    least = float(cells.candidates.cost[len(there) :].min(initial=math.inf))
    if most < least < math.inf:
        raise UserError(f"--gpu-hours {most:.3g}: is below one run; the cheapest takes {least:.3g}")
    found = refine(table, cells.candidates, len(there), study.probe_budget, goal.to_array(), most)
    runs = [_with_role(cells, i) for i in found.rows]
    runs = nest(runs, study.recipe)[0] if study.nested else runs
    if add and runs:
        plan_all(paths, runs, by="refine")
    return NextRuns(
        str(root), study.probe_budget, str(goal), found.now, found.after,
        tuple(_proposal(run, there, hours) for run in runs),
        found.cost, sum(run.flops_per_image * (run.n_images + run.branch_images) for run in runs if not run.within),
        found.to_goal, len(coming), found.reached, bool(add and runs),
    )  # fmt: skip


def _candidates(study: Study, there: Sequence[Run], law: Surface, hours: Callable[[Run], float]) -> list[Run]:
    """Runs at the budgets that are there, at smaller and a larger one, with the seeds that are there and one more."""
    budgets = sorted({run.budget_flops for run in there})
    smaller = [float(f"{budgets[0] / factor:.0e}") for factor in SMALLER]
    larger = [float(f"{budgets[-1] * LARGER:.0e}")] if budgets[-1] * LARGER < HIGHEST * study.probe_budget else []
    seeds = sorted({run.seed for run in there})
    return possible_runs(study, law, (*smaller, *budgets, *larger), (*seeds, seeds[-1] + 1), hours)


def _with_role(cells: Cells, i: int) -> Run:
    run = cells.runs[i]
    return replace(run, role="grid" if abs(cells.candidates.off[i]) <= CENTRED else "lever")


def _proposal(run: Run, there: Sequence[Run], hours: Callable[[Run], float]) -> Proposal:
    slices = [other for other in there if other.budget_flops == run.budget_flops]
    sizes, budgets = {other.n_params for other in slices}, {other.budget_flops for other in there}
    if not slices:
        why = "a smaller budget: cheap leverage" if run.budget_flops < min(budgets) else "a larger budget"
    elif run.n_params in sizes:
        why = "a further seed"
    elif run.n_params > max(sizes):
        why = "beyond the largest size"
    else:
        why = "beyond the smallest size" if run.n_params < min(sizes) else "between two sizes"
    cost = 0.0 if run.within else hours(run)
    return Proposal(run.run_id, run.role, run.budget_flops, run.width, run.seed, run.n_params, cost, why)
