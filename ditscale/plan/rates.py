"""The learning-rate sweep: runs of the grid again, at multiples of the rate that the recipe gives them."""

from dataclasses import replace

from ..config import Study
from .grid import Plan, plan_grid
from .run import Run, make_run


def plan_runs(study: Study) -> Plan:
    """Every run that can be planned before there is a law: the grid and, if the study has `rates`, their sweep.

    Raises UserError as `plan_grid` does.
    """
    grid = plan_grid(study)
    return replace(grid, runs=grid.runs + plan_rates(study, grid.runs))


def plan_rates(study: Study, grid: tuple[Run, ...]) -> tuple[Run, ...]:
    """The sweep's runs, of role "rate": each run of the grid at the sweep's budgets, at every multiple but 1.

    Multiple 1 is the run of the grid itself. The sweep's runs serve the law of the rate only, and enter no slice.
    """
    budgets = study.rate_budgets or study.budgets[:1]
    return tuple(
        make_run(study, "rate", run.budget_flops, run.width, run.seed, multiple)
        for run in grid
        if run.budget_flops in budgets
        for multiple in study.rates
        if multiple != 1
    )
