"""Backtest: forget the largest one, two, ... budgets, predict them from the others, and compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...units import compact
from ..estimates import Estimate, estimate
from ..findings import finding
from ..minima.approach2 import Approach2, fit_approach2
from ..result import Result
from ..surface.approach3 import Approach3, fit_approach3
from ..table import Table

REPLICATES = 200  # of each refit behind a backtest's intervals
MAX_HELD_OUT = 4


@dataclass(frozen=True)
class Prediction(Result):
    """What one approach said of a held-out budget.

    n_params_ratio: predicted / measured N*; loss: predicted L* with its interval, the measured vertex's own error
    folded in (no interval with fewer than 3 budgets left); loss_error: relative; covered: whether the interval held the
    measured L*; row_error, row_bias: mean absolute and mean relative error over the held-out runs (Approach 3 only).
    """

    n_params_ratio: float
    loss: Estimate
    loss_error: float
    covered: bool | None
    row_error: float | None = None
    row_bias: float | None = None


@dataclass(frozen=True)
class Backtest(Result):
    """Predictions of one held-out budget from the fit without the largest `held_out` budgets.

    budget_flops: the budget predicted; factor: how far beyond the remaining ones it lies; measured_*: its own vertex.
    approach2, approach3: None where that approach was refused on the rest.
    """

    held_out: int
    budget_flops: float
    factor: float
    measured_n_params: float
    measured_loss: float
    approach2: Prediction | None
    approach3: Prediction | None


def backtest(table: Table, laws: Approach2, objective: str, bootstrap: int, seed: int, **options):
    """([Backtest], [Finding]): every budget among the largest 1 to 4 held out, as long as 2 remain.

    `laws` is Approach 2 on the whole table, whose vertices are what was measured; options as for `fit_approach2`.
    """
    groups = table.slices()
    if not table.is_isoflop():
        text = "without slices of equal compute there is no largest budget to hold out"
        return [], [finding("backtest_not_possible", text)]
    if len(groups) < 3:
        text = f"{len(groups)} budget{'s' * (len(groups) > 1)}: holding one out leaves too few to predict it from"
        return [], [finding("backtest_not_possible", text, value=len(groups))]
    out, findings = [], []
    if len(groups) == 3:
        text = "with 3 budgets the backtest predicts from 2: errors are shown, intervals are not"
        findings.append(finding("backtest_without_interval", text))
    for held_out in range(1, min(MAX_HELD_OUT, len(groups) - 2) + 1):
        rest = table.take(np.concatenate([rows for _, rows in groups[:-held_out]]))
        draws = min(bootstrap, REPLICATES) if len(groups) - held_out > 2 else 0
        common = {"bootstrap": draws, "seed": seed, "resample": options.get("resample", "auto")}
        two = fit_approach2(rest, laws.slices[0].response, robust=laws.robust, **common)
        three = None
        if (table.loss > 0).all():
            three = fit_approach3(rest, objective, kappa=options.get("kappa"), **common)
        for slice_, (budget, rows) in zip(laws.slices[-held_out:], groups[-held_out:], strict=True):
            # A slice without a usable minimum has nothing to compare a prediction with.
            if not slice_.ok:
                continue
            noise = np.random.default_rng([seed, 3]).standard_normal(draws) * slice_.loss_se
            out.append(
                Backtest(
                    held_out,
                    budget,
                    budget / groups[-held_out - 1][0],
                    slice_.n_params,
                    slice_.loss,
                    _by_vertices(two, slice_, noise),
                    _by_surface(three, slice_, noise, table, rows),
                )
            )
    if not out:
        text = f"the largest budget, {compact(groups[-1][0])}, has no usable minimum to compare a prediction with"
        findings.append(finding("backtest_not_possible", text, slices=(groups[-1][0],)))
    return out, findings


def _by_vertices(laws: Approach2, measured, noise) -> Prediction | None:
    if not laws.ok:
        return None
    budget = measured.budget_flops
    draws = laws.loss_draws_at(budget) if len(noise) else None
    return _compare(measured, laws.model.at(budget), laws.loss_at(budget), draws, noise)


def _by_surface(fitted: Approach3 | None, measured, noise, table: Table, rows) -> Prediction | None:
    if fitted is None or not fitted.ok:
        return None
    n_star, _, loss = fitted.surface.optimum(measured.budget_flops)
    draws = fitted.prediction_of(fitted.draws, measured.budget_flops)["loss"] if len(noise) else None
    errors = fitted.surface.loss_at(table.n_params[rows], table.n_tokens[rows]) / table.loss[rows] - 1
    return _compare(measured, n_star, float(loss), draws, noise, float(np.mean(np.abs(errors))), float(np.mean(errors)))


def _compare(measured, n_star, loss, draws, noise, *row_errors) -> Prediction:
    said = estimate(loss, None if draws is None else draws + noise)
    covered = None if said.low is None and said.high is None else said.covers(measured.loss)
    return Prediction(float(n_star / measured.n_params), said, loss / measured.loss - 1, covered, *row_errors)
