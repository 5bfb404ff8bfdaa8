"""Backtest: forget the largest one, two, ... budgets, predict them from the others, and compare."""

from dataclasses import dataclass, replace
from typing import Iterator

import numpy as np

from ...result import Result
from ...tables.table import Table
from ...units import compact
from ..estimates import Estimate, estimate
from ..findings import Finding, Severity, finding
from ..minima.approach2 import Approach2, fit_approach2
from ..minima.parabola import Parabola
from ..predictor.identify import ask
from ..predictor.predictor import Predictor
from ..surface.fit_surface import Approach3, fit_approach3

REPLICATES = 200  # of each refit behind a backtest's intervals
NOTICEABLE = 2e-3  # a smaller error of L* misleads nobody
FAR = 1.5  # of the distance from a prediction to the end of its interval: a miss beyond is no chance
MAX_HELD_OUT, MOST_ASKED = 4, 2  # budgets; of the answer, which takes longer


@dataclass(frozen=True)
class Prediction(Result):
    """What one approach said of a held-out budget. n_params_ratio: predicted / measured N*; loss: predicted L*, the
    measured vertex's own error in its interval; loss_error: relative; covered: whether the interval held the measured
    L*; row_error, row_bias: mean absolute and mean relative error over the held-out runs (Approach 3 only)."""

    n_params_ratio: float
    loss: Estimate
    loss_error: float
    covered: bool | None
    row_error: float | None = None
    row_bias: float | None = None


@dataclass(frozen=True)
class Backtest(Result):
    """Predictions of budget_flops from the fit without the largest `held_out` budgets. factor: how far beyond the rest
    it lies; measured_*: its own vertex. approach2, approach3, answer: None where refused; the answer is asked with the
    largest 1 and 2 held out."""

    held_out: int
    budget_flops: float
    factor: float
    measured_n_params: float
    measured_loss: float
    approach2: Prediction | None
    approach3: Prediction | None
    answer: Prediction | None = None

    @property
    def by_law(self) -> dict[str, Prediction | None]:
        return {"answer": self.answer, "approach 2": self.approach2, "approach 3": self.approach3}


def backtest(
    table: Table, laws: Approach2, objective: str, bootstrap: int, seed: int, kappa: float | None
) -> tuple[list[Backtest], list[Finding]]:
    """Every budget among the largest 1 to 4 held out, as long as 2 remain. `laws` is Approach 2 on the whole table,
    whose vertices are what was measured."""
    budgets, out = [budget for budget, _ in table.slices(levers=False)], []
    if not table.is_isoflop() or len(budgets) < 3:
        few = f"{len(budgets)} budget{'s' * (len(budgets) > 1)}: holding one out leaves too few to predict it from"
        text = few if table.is_isoflop() else "without slices of equal compute there is no largest budget to hold out"
        return [], [finding("backtest_not_possible", text, value=len(budgets) if table.is_isoflop() else None)]
    for held_out in range(1, min(MAX_HELD_OUT, len(budgets) - 2) + 1):
        rest = table.without_largest(held_out)
        draws = min(bootstrap, REPLICATES) if len(budgets) - held_out > 2 else 0
        two = fit_approach2(rest, laws.slices[0].response, draws, seed)
        three = fit_approach3(rest, objective, draws, seed, kappa)
        made = ask(rest, budgets[-held_out], kappa).whole if held_out <= MOST_ASKED else None
        # A slice without a usable minimum has nothing to compare a prediction with.
        for p in (p for p in laws.slices[-held_out:] if p.ok):
            noise = np.random.default_rng([seed, 3]).standard_normal(draws) * p.loss_se
            by_law, by_surface = (_by_approach(fitted, p, noise) if fitted.ok else None for fitted in (two, three))
            by_surface = by_surface and _with_rows(by_surface, three, p, table)
            factor = p.budget_flops / budgets[-held_out - 1]
            by_answer = _by_answer(made, p) if made else None
            out.append(Backtest(held_out, p.budget_flops, factor, p.n_params, p.loss, by_law, by_surface, by_answer))
    findings = [f for b in out for f in _failed(b)]
    if not out:
        text = f"the largest budget, {compact(budgets[-1])}, has no usable minimum to compare a prediction with"
        findings = [finding("backtest_not_possible", text, slices=budgets[-1:])]
    text = "with 3 budgets the backtest predicts from 2: errors are shown, intervals are not"
    return out, [finding("backtest_without_interval", text)] * (len(budgets) == 3) + findings


def _failed(b: Backtest) -> Iterator[Finding]:
    """`backtest_failed`: which of the laws missed the largest budget, held out alone. A warning where the answer did so
    by half its interval's side more; info of the approaches, whose intervals are of their form alone."""
    for name, said in b.by_law.items():
        if b.held_out == 1 and said and said.covered is False and abs(said.loss_error) > NOTICEABLE:
            much = f"{100 * said.loss_error:+.2g} % off what was measured, outside its interval,"
            text = f"held out, {compact(b.budget_flops)} FLOPs were predicted {much} by"
            text += f" the {name}" if name == "answer" else f" {name}"
            end = said.loss.high if said.loss_error < 0 else said.loss.low
            far = end is not None and abs(b.measured_loss - said.loss.value) > FAR * abs(end - said.loss.value)
            severity: Severity = "warning" if far and name == "answer" else "info"
            yield finding("backtest_failed", text, (), [b.budget_flops], severity, said.loss_error)


def _by_answer(made: Predictor, measured: Parabola) -> Prediction:
    """The answer's, its interval for the vertex of a slice of runs: with what those share, and the vertex's error."""
    said = made.slice_minimum(measured.budget_flops, measured.loss_se)
    return _prediction(measured, made.optimum(measured.budget_flops).n_params.value, said)


def _by_approach(fitted: Approach2 | Approach3, measured: Parabola, noise: np.ndarray) -> Prediction:
    at = fitted.at(measured.budget_flops)
    return _prediction(measured, float(at["n_params"][0]), estimate(at["loss"][0], at["loss"][1:] + noise))


def _prediction(measured: Parabola, n_params: float, loss: Estimate) -> Prediction:
    covered = None if loss.low is None and loss.high is None else loss.covers(measured.loss)
    return Prediction(n_params / measured.n_params, loss, loss.value / measured.loss - 1, covered)


def _with_rows(said: Prediction, fitted: Approach3, measured: Parabola, table: Table) -> Prediction:
    n, d, loss = (column[measured.rows] for column in (table.n_params, table.n_tokens, table.loss))
    errors = fitted.surface.loss_at(n, d) / loss - 1
    return replace(said, row_error=float(np.mean(np.abs(errors))), row_bias=float(np.mean(errors)))
