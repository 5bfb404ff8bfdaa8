"""Backtest: forget the largest budget, predict it from the others, and compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..units import compact
from .approach2 import fit_approach2
from .approach3 import fit_approach3
from .findings import Finding
from .surface import optimum
from .table import Table
from .uncertainty import Estimate, estimate


@dataclass(frozen=True)
class Backtest:
    """Errors on the held-out slice, per approach (None where that approach was refused on the rest).

    factor: how far beyond the remaining budgets it lies. measured_*: the held-out slice's own vertex. approach2 and
    approach3: {"n_params_ratio", "loss_error", "loss", "covered"}: predicted / measured N*, relative error of L*, its
    Estimate (with the measured vertex's own error folded in) and whether that covered; approach3 also has "row_error",
    the mean absolute relative error over the held-out runs.
    """

    held_out_budget: float
    factor: float
    measured_n_params: float
    measured_loss: float
    approach2: dict | None
    approach3: dict | None

    def to_dict(self) -> dict:
        out = {k: getattr(self, k) for k in ("held_out_budget", "factor", "measured_n_params", "measured_loss")}
        for name in ("approach2", "approach3"):
            part = getattr(self, name)
            out[name] = part and {k: v.to_dict() if isinstance(v, Estimate) else v for k, v in part.items()}
        return out


def backtest(table: Table, objective: str, response: str, bootstrap: int, seed: int):
    """(Backtest or None, findings). Without an interval when fewer than 3 budgets remain."""
    groups = table.slices()
    if not table.is_isoflop():
        text = "without slices of equal compute there is no largest budget to hold out"
        return None, [Finding("backtest_not_possible", text)]
    held_budget, held = groups[-1]
    rest = table.take(np.concatenate([rows for _, rows in groups[:-1]])) if len(groups) > 2 else None
    if rest is None:
        text = f"{len(groups)} budget{'s' * (len(groups) > 1)}: holding one out leaves too few to predict it from"
        return None, [Finding("backtest_not_possible", text)]
    # All slices of a study share one noise level; the held-out vertex is judged by itself.
    own = fit_approach2(table, response, 0).slices[-1]
    if not own.ok:
        text = f"the largest budget, {compact(held_budget)}, has no usable minimum to compare a prediction with"
        return None, [Finding("backtest_not_possible", text, slices=(held_budget,))]
    findings = []
    enough = len(groups) > 3
    if not enough:
        text = "with 3 budgets the backtest predicts from 2: errors are shown, intervals are not"
        findings.append(Finding("backtest_without_interval", text))
    draws = bootstrap if enough else 0
    noise = 0.0
    if draws:
        noise = np.random.default_rng([seed, 3]).standard_normal(draws) * own.loss_se / own.loss
    parts = {}
    laws = fit_approach2(rest, response, draws, seed)
    if laws.ok:
        spread = laws.draws_at("loss", held_budget)
        parts["approach2"] = _compare(own, laws.model.at(held_budget), laws.loss.at(held_budget), spread, noise)
    fit = fit_approach3(rest, objective, draws, seed)
    if fit.ok:
        n_star, _, loss = fit.surface.optimum(held_budget)
        spread = None
        if fit.draws is not None:
            spread = optimum(fit.draws, fit.surface.kappa, held_budget)[2]
        parts["approach3"] = _compare(own, n_star, loss, spread, noise)
        fitted = fit.surface.loss_at(table.n_params[held], table.n_tokens[held])
        parts["approach3"]["row_error"] = float(np.mean(np.abs(fitted / table.loss[held] - 1)))
    factor = held_budget / groups[-2][0]
    return Backtest(
        held_budget, factor, own.n_params, own.loss, parts.get("approach2"), parts.get("approach3")
    ), findings


def _compare(own, n_star, loss, spread, noise) -> dict:
    interval = estimate(loss, None if spread is None else spread * np.exp(noise))
    return {
        "n_params_ratio": float(n_star / own.n_params),
        "loss_error": float(loss / own.loss - 1),
        "loss": interval,
        "covered": None if spread is None else interval.covers(own.loss),
    }
