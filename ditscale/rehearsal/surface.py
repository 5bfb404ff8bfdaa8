"""The rehearsal of a study: the same plan, on a surface whose minima lie inside the plan's grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..config import Rehearsal, Study
from ..errors import UserError
from ..laws.synthetic import Truth
from ..plan.grid import Plan, plan_grid

E, ALPHA, BETA = 0.2, 0.35, 0.35
LOSS = 0.65  # at the optimum of the middle budget
SAVES = 4  # checkpoints in a run's time


def rehearsal_of(study: Study, seconds: float, noise: float, seed: int) -> Study:
    """The study with the mark of a rehearsal. The optimum of its middle budget is the middle size of the grid there.

    Raises UserError for a study that is a rehearsal itself.
    """
    if study.rehearsal:
        raise UserError("this study is a rehearsal itself; rehearse the study it belongs to")
    planned = plan_grid(study)
    budget = float(np.exp(np.mean(np.log(study.budgets))))
    nearest = min(study.budgets, key=lambda b: abs(np.log(b / budget)))
    sizes = np.log([run.n_params for run in planned.runs if run.budget_flops == nearest])
    middle = float(np.exp((sizes.min() + sizes.max()) / 2))
    truth = Truth.anchored(E, ALPHA, BETA, middle, LOSS, nearest, kappa_of(planned))
    surface = {name: float(f"{getattr(truth, name):.6g}") for name in ("E", "A", "B", "alpha", "beta")}
    made = Rehearsal(**surface, noise=noise, seconds=seconds, seed=seed)
    made.check("rehearsal")
    return replace(study, rehearsal=made, cluster=replace(study.cluster, checkpoint_s=max(seconds / SAVES, 0.01)))


def kappa_of(planned: Plan) -> float:
    """C / (N D), the median over the planned runs, as the fit takes it."""
    return float(np.median([r.achieved_flops / (r.n_params * r.n_tokens) for r in planned.runs]))


def truth_of(rehearsal: Rehearsal, kappa: float) -> Truth:
    """The rehearsal's surface, with its optima at budgets C = kappa N D in closed form."""
    return Truth(rehearsal.E, rehearsal.A, rehearsal.B, rehearsal.alpha, rehearsal.beta, kappa)
