"""The three law forms a forecast may rest on, side by side: pure power law, power law with a floor, surface."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..estimates import Estimate, estimate
from ..minima.approach2 import Approach2, fit_approach2
from ..result import Result
from ..surface.fit_surface import fit_surface
from ..surface.surface import Surface
from ..table import Table
from .prediction_interval import floor_is_needed, profile_interval

ORDER = ("surface", "power_law_with_floor", "power_law")


@dataclass(frozen=True)
class Form(Result):
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


def usable(surface: Surface) -> bool:
    """Whether a surface can carry a forecast: unlike in `Surface.ok`, E = 0 is allowed (a surface without a floor)."""
    return surface.ok or surface.without_floor


def law_forms(
    table: Table, budget_flops: float, laws: Approach2, surface: Surface, seed: int
) -> tuple[dict[str, Form], float]:
    """({name: Form} at the target, scatter of one run's log loss). `surface` is the "ls_log" fit, `laws` has draws."""
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
        admissible = not (name == "power_law" and _floor_is_shown(table, forms["surface"], surface, held))
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
    value, draws = laws.pure_loss(name, budget_flops)
    return (None, None, laws.floor.reasons) if math.isnan(value) else (value, draws, ())


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
    surface = fit_surface(rest, "ls_log")
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


def _floor_is_shown(table: Table, form: Form, surface: Surface, held: dict) -> bool:
    """Whether the pure power law is out: the F test rejects E = 0, and it did not predict the held-out budget better.

    The test believes the surface's form; a prediction believes nothing, so it outranks the test.
    """
    if not form.admissible or not floor_is_needed(table, surface):
        return False
    if "surface" not in held or "power_law" not in held:
        return True
    return abs(held["power_law"][0]) >= abs(held["surface"][0])


def admissible(forms: dict[str, Form]) -> tuple[list[Form], str]:
    """(the forms a forecast averages, in words why).

    Of the forms that could be fitted and that the runs do not reject, those not shown to be worse: whose held-out error
    is within two of its standard errors of the smallest. When the runs reject all that could be fitted, those are
    taken.
    """
    fitted = [forms[name] for name in ORDER if forms[name].loss is not None]
    left = [form for form in fitted if form.admissible] or fitted
    scored = [form for form in left if form.held_out_error is not None]
    least = min((abs(form.held_out_error) for form in scored), default=0.0)
    kept = [f for f in left if f not in scored or abs(f.held_out_error) <= least + 2 * f.held_out_se]
    errors = ", ".join(f"{f.law.replace('_', ' ')} {100 * f.held_out_error:+.2g} %" for f in scored)
    held = f"held-out errors at the largest budget: {errors}" if errors else "no held-out check was possible"
    names = ", ".join(f.law.replace("_", " ") for f in kept)
    return kept, f"{'equal mixture of' if len(kept) > 1 else 'only'} {names}; {held}"
