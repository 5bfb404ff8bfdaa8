"""The three law forms a forecast may rest on, side by side: pure power law, power law with a floor, surface."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .approach2 import Approach2, fit_approach2
from .predictive import floor_is_needed, profile_interval
from .surface import Surface, fit_surface
from .table import Table
from .uncertainty import Estimate, estimate

# In order of preference among forms that predicted the held-out budget equally well: the surface uses every run, where
# the other two use one number per budget.
ORDER = ("surface", "power_law_with_floor", "power_law")


@dataclass(frozen=True)
class Form:
    """One form's forecast. loss: one new run's loss with its 95 % prediction interval, or None when refused.

    held_out_error: relative error of L* at the largest budget when fitted without it (None: not possible);
    held_out_se: the standard error of that comparison, from the scatter of the runs. admissible: whether the runs leave
    this form possible; reasons: why it was refused or is not admissible.
    """

    law: str
    loss: Estimate | None
    held_out_error: float | None
    held_out_se: float | None
    admissible: bool
    reasons: tuple[str, ...]

    def to_dict(self) -> dict:
        return {
            "law": self.law,
            "loss": None if self.loss is None else self.loss.to_dict(),
            "held_out_error": self.held_out_error,
            "held_out_se": self.held_out_se,
            "admissible": self.admissible,
            "reasons": list(self.reasons),
        }


def usable(surface: Surface) -> bool:
    """Whether a surface can carry a forecast: unlike in `Surface.ok`, E = 0 is allowed (a surface without a floor)."""
    return surface.ok or surface.without_floor


def law_forms(
    table: Table, budget_flops: float, laws: Approach2, surface: Surface, seed: int
) -> tuple[dict[str, Form], float]:
    """({name: Form} at the target, scatter of one run's log loss). `surface` is the "ls" fit, `laws` has draws."""
    scatter = _scatter(laws, surface)
    held = _held_out(table)
    forms = {}
    if usable(surface):
        n_star, d_star, loss = (float(v) for v in surface.optimum(budget_flops))
        low, high, scatter = profile_interval(table, surface, n_star, d_star)
        interval = Estimate(loss, low if low > 0 else None, high if math.isfinite(high) else None)
        forms["surface"] = Form("surface", interval, *held.get("surface", (None, None)), True, surface.reasons)
    else:
        forms["surface"] = Form("surface", None, None, None, False, surface.reasons)
    for name in ("power_law_with_floor", "power_law"):
        value, draws, reasons = _through_minima(laws, name, budget_flops)
        if value is None:
            forms[name] = Form(name, None, None, None, False, reasons)
            continue
        rng = np.random.default_rng([seed, 4])
        noisy = draws * np.exp(scatter * rng.standard_normal(len(draws)))
        admissible = not (name == "power_law" and forms["surface"].admissible and floor_is_needed(table, surface))
        if not admissible:
            reasons = ("the runs reject a law without a floor (F test of E = 0 in the surface, 5 %)",)
        forms[name] = Form(name, estimate(value, noisy), *held.get(name, (None, None)), admissible, reasons)
    return forms, scatter


def _scatter(laws: Approach2, surface: Surface) -> float:
    """Rms log-loss scatter of one run about the parabolas or, where there are none, the surface."""
    if laws.ok:
        residuals = np.concatenate([p.residuals for p in laws.accepted])
        return math.sqrt(float(residuals @ residuals) / max(len(residuals) - 3 * len(laws.accepted), 1))
    return math.sqrt(float(np.sum(surface.residuals**2)) / max(len(surface.residuals) - 5, 1))


def _through_minima(laws: Approach2, name: str, budget_flops: float):
    """(value, draws, reasons) of the pure law or of the law with a floor; value is None when refused."""
    if not laws.ok:
        return None, None, tuple(f.message for f in laws.findings if f.code in ("too_few_budgets", "not_isoflop"))
    if name == "power_law":
        return float(laws.loss.at(budget_flops)), laws.draws_at("loss", budget_flops), ()
    if laws.floor.status != "ok":
        return None, None, laws.floor.reasons
    return float(laws.floor.at(budget_flops)), laws.floor_draws_at(budget_flops), ()


def _held_out(table: Table) -> dict[str, tuple[float, float]]:
    """{form: (relative error of L*, its standard error)} at the largest budget, from fits to the others."""
    groups = table.slices()
    own = fit_approach2(table, "log", 0).slices[-1] if len(groups) > 2 and table.is_isoflop() else None
    if own is None or not own.ok:
        return {}
    rest = table.take(np.concatenate([rows for _, rows in groups[:-1]]))
    budget = own.budget_flops
    out = {}
    own_se = own.loss_se / own.loss
    laws = fit_approach2(rest, "log", 200, 0)
    for name in ("power_law_with_floor", "power_law"):
        value, draws, _ = _through_minima(laws, name, budget)
        if value is not None:
            out[name] = (value / own.loss - 1, math.hypot(own_se, _spread(draws)))
    surface = fit_surface(rest, "ls")
    if usable(surface):
        n_star, d_star, loss = (float(v) for v in surface.optimum(budget))
        low, high, scatter = profile_interval(rest, surface, n_star, d_star)
        of_law = (math.log(high) - math.log(low)) / 4 if low > 0 else math.inf
        out["surface"] = (loss / own.loss - 1, math.hypot(own_se, math.sqrt(max(of_law**2 - scatter**2, 0))))
    return {name: pair for name, pair in out.items() if all(map(math.isfinite, pair))}


def _spread(draws) -> float:
    """Robust standard deviation of log draws: half the central 68 %."""
    with np.errstate(divide="ignore"):
        low, high = np.quantile(np.log(draws[np.isfinite(draws)]), [0.16, 0.84])
    return float(high - low) / 2


def choose(forms: dict[str, Form]) -> tuple[str, str]:
    """(name, why) of the form a forecast rests on.

    Among admissible forms, the one with the smallest held-out error; forms within two standard errors of it count as
    equal, and among equals the first of `ORDER` is taken. Without a held-out check the first admissible of `ORDER`.
    """
    given = [name for name in ORDER if forms[name].loss is not None and forms[name].admissible]
    if not given:
        given = [name for name in ORDER if forms[name].loss is not None]
    scored = [name for name in given if forms[name].held_out_error is not None]
    if not scored:
        return given[0], f"no held-out check was possible; {given[0]} is the first of {', '.join(ORDER)} that fits"
    best = min(scored, key=lambda name: abs(forms[name].held_out_error))
    least = abs(forms[best].held_out_error)
    # A form that could not be scored (too few budgets remain) has not been shown to be worse.
    equal = [
        name
        for name in given
        if name not in scored or abs(forms[name].held_out_error) <= least + 2 * forms[name].held_out_se
    ]
    errors = ", ".join(f"{name} {100 * forms[name].held_out_error:+.2g} %" for name in scored)
    why = f"held-out errors at the largest budget: {errors}; "
    if len(equal) > 1:
        return equal[
            0
        ], why + f"none of {', '.join(equal)} is shown to be worse, and {equal[0]} comes first in the order"
    return equal[0], why + f"{equal[0]} has the smallest"
