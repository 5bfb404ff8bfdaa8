"""The three law forms a forecast may rest on, pure power law, power law with a floor, surface, and their equal mixture.

Beyond the grid it is the form, more than the noise, that is uncertain, and a mixture of predictive distributions says
so (Hoeting et al., "Bayesian model averaging", Statistical Science 1999); the weights are equal, since a handful of
budgets cannot earn a form more."""

import math
from dataclasses import dataclass, replace

import numpy as np

from ..estimates import LEVEL, Estimate, estimate
from ..minima.approach2 import Approach2, fit_approach2
from ..result import Result
from ..surface.fit_surface import fit_surface
from ..surface.surface import N_PARAMETERS, Surface
from ..table import Table
from .prediction_interval import floor_is_needed, profile_interval

ORDER = ("surface", "power_law_with_floor", "power_law")
Z = 1.959963984540054  # half-width of a normal's central 95 %, in standard deviations
NO_FLOOR = "the runs reject a law without a floor (F test of E = 0 in the surface, 5 %)"


@dataclass(frozen=True)
class Form(Result):
    """One form's forecast. loss: one new run's loss with its 95 % prediction interval, or None when refused.
    held_out_error: relative error of L* at the largest budget when fitted without it (None: not possible); held_out_se:
    the standard error of that comparison, from the scatter of the runs. admissible: whether the runs leave this form
    possible; reasons: why it was refused or is not admissible."""

    law: str
    loss: Estimate | None
    held_out_error: float | None
    held_out_se: float | None
    admissible: bool
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.law.replace("_", " ")


def law_forms(
    table: Table, budget_flops: float, laws: Approach2, surface: Surface, seed: int
) -> tuple[dict[str, Form], float]:
    """({name: Form} at the target, scatter of one run's log loss). `surface` is the "ls_log" fit, `laws` has draws."""
    scatter, held = _scatter(laws, surface), _held_out(table)

    def form(law: str, loss: Estimate | None, reasons: tuple[str, ...]) -> Form:
        error, se = held.get(law, (None, None)) if loss else (None, None)
        return Form(law, loss, error, se, loss is not None, reasons)

    of_surface = None
    if surface.usable:
        n_star, d_star, loss = map(float, surface.optimum(budget_flops))
        low, high, scatter = profile_interval(table, surface, n_star, d_star)
        of_surface = Estimate(loss, low if low > 0 else None, high if math.isfinite(high) else None)
    forms = {"surface": form("surface", of_surface, surface.reasons)}
    few = tuple(f.message for f in laws.findings if f.code in ("too_few_budgets", "not_isoflop"))
    for name in ("power_law_with_floor", "power_law"):
        value, draws = laws.pure_loss(name, budget_flops)
        if draws is None:
            forms[name] = form(name, None, laws.floor.reasons if laws.ok else few)
            continue
        noise = np.random.default_rng([seed, 4]).standard_normal(len(draws))
        forms[name] = form(name, estimate(value, draws * np.exp(scatter * noise)), ())
    pure = forms["power_law"]
    if pure.loss and _floor_is_shown(table, forms["surface"], surface, held):
        forms["power_law"] = replace(pure, admissible=False, reasons=(NO_FLOOR,))
    return forms, scatter


def _scatter(laws: Approach2, surface: Surface) -> float:
    """Rms log-loss scatter of one run about the parabolas or, where there are none, the surface."""
    if laws.ok:
        residuals = np.concatenate([p.residuals for p in laws.accepted])
        return math.sqrt(float(residuals @ residuals) / max(len(residuals) - 3 * len(laws.accepted), 1))
    return math.sqrt(float(np.sum(surface.residuals**2)) / max(len(surface.residuals) - N_PARAMETERS, 1))


def _held_out(table: Table) -> dict[str, tuple[float, float]]:
    """The relative error of each form's L* at the largest budget, from fits to the others, and its standard error."""
    own = fit_approach2(table, "log", 0).slices[-1] if len(table.slices()) > 2 and table.is_isoflop() else None
    if own is None or not own.ok:
        return {}
    rest, budget, own_se = table.without_largest(1), own.budget_flops, own.loss_se / own.loss
    out, laws, surface = {}, fit_approach2(rest, "log", 200, 0), fit_surface(rest, "ls_log")
    for name in ("power_law_with_floor", "power_law"):
        value, draws = laws.pure_loss(name, budget)
        if draws is not None:
            out[name] = value / own.loss - 1, math.hypot(own_se, _spread(draws))
    if surface.usable:
        n_star, d_star, loss = map(float, surface.optimum(budget))
        low, high, scatter = profile_interval(rest, surface, n_star, d_star)
        of_law = (math.log(high) - math.log(low)) / 4 if low > 0 else math.inf
        out["surface"] = loss / own.loss - 1, math.hypot(own_se, math.sqrt(max(of_law**2 - scatter**2, 0)))
    return {name: pair for name, pair in out.items() if all(map(math.isfinite, pair))}


def _spread(draws: np.ndarray) -> float:
    """Robust standard deviation of log draws: half the central 68 %."""
    with np.errstate(divide="ignore"):
        low, high = np.quantile(np.log(draws[np.isfinite(draws)]), [0.16, 0.84])
    return float(high - low) / 2


def _floor_is_shown(table: Table, form: Form, surface: Surface, held: dict[str, tuple[float, float]]) -> bool:
    """Whether the pure power law is out: the F test rejects E = 0, and it did not predict the held-out budget better.
    The test believes the surface's form; a prediction believes nothing, so it outranks the test."""
    if not form.admissible or not floor_is_needed(table, surface):
        return False
    both = "surface" in held and "power_law" in held
    return not both or abs(held["power_law"][0]) >= abs(held["surface"][0])


def admissible(forms: dict[str, Form]) -> tuple[list[Form], str]:
    """(the forms a forecast mixes, in words why). Of the forms that could be fitted and that the runs do not reject,
    those whose held-out error is within two of its standard errors of the smallest; when the runs reject all, all."""
    fitted = [forms[name] for name in ORDER if forms[name].loss is not None]
    left = [form for form in fitted if form.admissible] or fitted
    errors = {form.name: form.held_out_error for form in left if form.held_out_error is not None}
    most = min(map(abs, errors.values()), default=0.0)
    kept = [f for f in left if f.held_out_error is None or abs(f.held_out_error) <= most + 2 * (f.held_out_se or 0.0)]
    shown = ", ".join(f"{name} {100 * error:+.2g} %" for name, error in errors.items())
    held = f"held-out errors at the largest budget: {shown}" if shown else "no held-out check was possible"
    return kept, f"{'equal mixture of' if len(kept) > 1 else 'only'} {', '.join(f.name for f in kept)}; {held}"


def widened(loss: Estimate, held_out_error: float | None) -> Estimate:
    """A form's interval with its own error on the held-out budget added in quadrature, on the side where the
    measurement lay: a form that missed the last step by 10 % will not do better on a longer one."""
    missed = math.log1p(held_out_error or 0.0)
    low = high = None
    if loss.low is not None:
        low = loss.value * math.exp(-math.hypot(math.log(loss.value / loss.low), max(missed, 0.0)))
    if loss.high is not None:
        high = loss.value * math.exp(math.hypot(math.log(loss.high / loss.value), max(-missed, 0.0)))
    return Estimate(loss.value, low, high)


def mixture(parts: list[Estimate]) -> Estimate:
    """Median and central 95 % of the equal mixture of `parts`, each a two-sided normal in log loss. An end that one
    part leaves open is open. One part alone is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    middle = np.array([math.log(p.value) for p in parts])
    below = np.array([_sigma(p.value, p.low, p.high) for p in parts])
    above = np.array([_sigma(p.value, p.high, p.low) for p in parts])

    def share_below(x: float) -> float:
        z = (x - middle) / np.where(x < middle, below, above)
        return float(np.mean([0.5 * math.erfc(-v / math.sqrt(2)) for v in z]))

    def quantile(p: float) -> float:
        low, high = float((middle - 9 * below).min()), float((middle + 9 * above).max())
        for _ in range(80):
            half = (low + high) / 2
            low, high = (half, high) if share_below(half) < p else (low, half)
        return math.exp(high)

    tail = (1 - LEVEL) / 2
    low = None if any(p.low is None for p in parts) else quantile(tail)
    high = None if any(p.high is None for p in parts) else quantile(1 - tail)
    return Estimate(quantile(0.5), low, high)


def _sigma(value: float, end: float | None, other: float | None) -> float:
    """Standard deviation of log loss towards `end`; towards an open end that of the other side."""
    end = other if end is None else end
    return max(abs(math.log(end / value)) / Z, 1e-9) if end is not None else 1e-9
