"""A rehearsal's study: the same plan, with losses from a surface whose minima lie inside the plan's grid."""

from dataclasses import replace

import numpy as np

from ..config import Rehearsal, Study, check
from ..errors import UserError
from ..laws.synthetic import Truth
from ..plan.grid import plan_grid

E, ALPHA, BETA = 0.2, 0.35, 0.35
LOSS = 0.65  # The loss at the optimum of the middle budget.
CHECKPOINTS = 4  # Checkpoints of a run.


def rehearsal_of(study: Study, seconds: float, noise: float, seed: int) -> Study:
    """The study with the mark of a rehearsal. The optimum of its middle budget is the middle size of the grid there.

    Raises UserError for a study that is a rehearsal itself.
    """
    if study.rehearsal:
        raise UserError("this study is a rehearsal itself; rehearse the study it belongs to")
    planned = plan_grid(study)
    mean = float(np.mean(np.log(study.budgets)))
    budget = min(study.budgets, key=lambda b: abs(np.log(b) - mean))
    sizes = np.log([run.n_params for run in planned.runs if run.budget_flops == budget])
    middle = float(np.exp((sizes.min() + sizes.max()) / 2))
    # kappa is C / (N D), the median over the planned runs, as the fit takes it.
    kappa = float(np.median([r.achieved_flops / (r.n_params * r.n_tokens) for r in planned.runs]))
    truth = Truth.anchored(E, ALPHA, BETA, middle, LOSS, budget, kappa)
    surface = {name: float(f"{getattr(truth, name):.6g}") for name in ("E", "A", "B", "alpha", "beta")}
    rehearsal = Rehearsal(**surface, noise=noise, seconds=seconds, seed=seed)
    check(rehearsal, "rehearsal")
    cluster = replace(study.cluster, checkpoint_s=max(seconds / CHECKPOINTS, 0.01))
    return replace(study, rehearsal=rehearsal, cluster=cluster)
