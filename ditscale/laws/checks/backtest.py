"""Backtest: forget the largest one, two, ... budgets, predict them from the others, and compare."""

from dataclasses import dataclass, replace

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
from ..surface.approach3 import Approach3, fit_approach3

REPLICATES = 200  # of each refit behind a backtest's intervals
NOTICEABLE = 2e-3  # a smaller error of L* misleads nobody
FAR = 1.5  # of the distance from a prediction to the end of its interval: a miss beyond is no chance
MAX_HELD_OUT, MOST_ASKED = 4, 2  # budgets; of the answer, which takes longer


@dataclass(frozen=True)
class Prediction(Result):
    """What one approach said of a held-out budget. n_params_ratio: predicted / measured N*; loss: predicted L* with its
    interval, the measured vertex's own error folded in (no interval with fewer than 3 budgets left); loss_error:
    relative; covered: whether the interval held the measured L*; row_error, row_bias: mean absolute and mean relative
    error over the held-out runs (Approach 3 only)."""

    n_params_ratio: float
    loss: Estimate
    loss_error: float
    covered: bool | None
    row_error: float | None = None
    row_bias: float | None = None


@dataclass(frozen=True)
class Backtest(Result):
    """Predictions of one held-out budget from the fit without the largest `held_out` budgets. budget_flops: the budget
    predicted; factor: how far beyond the remaining ones it lies; measured_*: its own vertex. approach2, approach3,
    answer: None where it was refused on the rest; the answer is asked with the largest 1 and 2 held out."""

    held_out: int
    budget_flops: float
    factor: float
    measured_n_params: float
    measured_loss: float
    approach2: Prediction | None
    approach3: Prediction | None
    answer: Prediction | None = None


def backtest(
    table: Table, laws: Approach2, objective: str, bootstrap: int, seed: int, kappa: float | None
) -> tuple[list[Backtest], list[Finding]]:
    """Every budget among the largest 1 to 4 held out, as long as 2 remain. `laws` is Approach 2 on the whole table,
    whose vertices are what was measured."""
    budgets = [budget for budget, _ in table.slices()]
    if not table.is_isoflop():
        text = "without slices of equal compute there is no largest budget to hold out"
        return [], [finding("backtest_not_possible", text)]
    if len(budgets) < 3:
        text = f"{len(budgets)} budget{'s' * (len(budgets) > 1)}: holding one out leaves too few to predict it from"
        return [], [finding("backtest_not_possible", text, value=len(budgets))]
    text = "with 3 budgets the backtest predicts from 2: errors are shown, intervals are not"
    out, findings = [], [finding("backtest_without_interval", text)] if len(budgets) == 3 else []
    for held_out in range(1, min(MAX_HELD_OUT, len(budgets) - 2) + 1):
        rest = table.without_largest(held_out)
        draws = min(bootstrap, REPLICATES) if len(budgets) - held_out > 2 else 0
        two = fit_approach2(rest, laws.slices[0].response, draws, seed)
        three = fit_approach3(rest, objective, draws, seed, kappa)
        made = ask(rest, budgets[-held_out], kappa).whole if held_out <= MOST_ASKED else None
        # A slice without a usable minimum has nothing to compare a prediction with.
        for measured in (p for p in laws.slices[-held_out:] if p.ok):
            budget = measured.budget_flops
            noise = np.random.default_rng([seed, 3]).standard_normal(draws) * measured.loss_se
            said = (
                _by_law(two, measured, noise) if two.ok else None,
                _by_surface(three, measured, noise, table) if three.ok else None,
                _by_answer(made, measured) if made else None,
            )
            factor = budget / budgets[-held_out - 1]
            out.append(Backtest(held_out, budget, factor, measured.n_params, measured.loss, *said))
    if not out:
        text = f"the largest budget, {compact(budgets[-1])}, has no usable minimum to compare a prediction with"
        findings.append(finding("backtest_not_possible", text, slices=budgets[-1:]))
    return out, findings + _failed(out)


def _failed(backtests: list[Backtest]) -> list[Finding]:
    """`backtest_failed`: which of the laws missed the largest budget, held out alone. A warning where the answer did so
    by half its interval's side more, as one of 20 good intervals misses; info of the approaches, of which one has no
    floor and the other's interval is of its form alone."""
    findings = []
    for b in (b for b in backtests if b.held_out == 1):
        said = {"the answer": b.answer, "approach 2": b.approach2, "approach 3": b.approach3}
        for name, part in said.items():
            if part and part.covered is False and abs(part.loss_error) > NOTICEABLE:
                much = f"{100 * part.loss_error:+.2g} % off what was measured, outside its interval,"
                text = f"held out, {compact(b.budget_flops)} FLOPs were predicted {much} by {name}"
                end = part.loss.high if part.loss_error < 0 else part.loss.low
                far = end is not None and abs(b.measured_loss - part.loss.value) > FAR * abs(end - part.loss.value)
                severity: Severity = "warning" if far and name == "the answer" else "info"
                findings.append(finding("backtest_failed", text, (), [b.budget_flops], severity, part.loss_error))
    return findings


def _by_answer(made: Predictor, measured: Parabola) -> Prediction:
    """The answer's, its interval for the vertex of a slice of runs: with what those share, and the vertex's error."""
    budget = measured.budget_flops
    said = made.slice_minimum(budget, measured.loss_se)
    ratio = made.optimum(budget).n_params.value / measured.n_params
    return Prediction(ratio, said, said.value / measured.loss - 1, said.covers(measured.loss))


def _by_law(fitted: Approach2 | Approach3, measured: Parabola, noise: np.ndarray) -> Prediction:
    at = fitted.at(measured.budget_flops)
    loss = float(at["loss"][0])
    said = estimate(loss, at["loss"][1:] + noise)
    covered = None if said.low is None and said.high is None else said.covers(measured.loss)
    return Prediction(float(at["n_params"][0]) / measured.n_params, said, loss / measured.loss - 1, covered)


def _by_surface(fitted: Approach3, measured: Parabola, noise: np.ndarray, table: Table) -> Prediction:
    n, d, loss = (column[measured.rows] for column in (table.n_params, table.n_tokens, table.loss))
    errors = fitted.surface.loss_at(n, d) / loss - 1
    said = _by_law(fitted, measured, noise)
    return replace(said, row_error=float(np.mean(np.abs(errors))), row_bias=float(np.mean(errors)))
