"""Which form a metric follows in C: a power law, a power law with a floor, or a line in log C; chosen by a stated rule.

The loss of Approach 2 and any other metric (FID, VLB, likelihood) go through here. A form is never chosen silently:
every form's parameters, AICc and held-out error are kept beside the choice."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ...errors import UserError
from ...units import compact
from ..result import Result, extra
from .powerlaw import FORMS, law_at

RULE = (
    "Forms are fitted to the values at the budgets. Each gets a small-sample AIC (AICc; Burnham and Anderson 2002, "
    "sections 2.4 and 2.5): from its squared misfit in standard errors where these are known, inflated until the form "
    "with most parameters fits, else from its relative misfit. A form with 3 parameters takes part with 4 budgets and "
    "known errors, or with 6. Of the forms within 2 of the smallest AICc, the one that best predicts the largest "
    "budget from the others is taken."
)
CLOSE = 2.0  # a difference in AICc below which the data do not tell two forms apart


class Errors(NamedTuple):
    """What is known of the values' noise: standard errors se (K,), in their units, with dof degrees of freedom."""

    se: np.ndarray
    dof: int


class Points(NamedTuple):
    """What a law in C is fitted to: values (K,) at budgets (K,), and what is known of their noise."""

    budgets: np.ndarray
    values: np.ndarray
    errors: Errors | None


@dataclass(frozen=True)
class FittedForm(Result):
    """One form through the points. parameters: as in `FORMS`, None where it could not be fitted; rms: relative misfit;
    aicc, held_out_error: None where there are too few budgets; held_out_error is the relative error at the largest
    budget when fitted without it."""

    form: str
    parameters: dict[str, float | None]
    rms: float | None
    aicc: float | None
    held_out_error: float | None
    reason: str

    def at(self, budget_flops: ArrayLike) -> np.ndarray:
        """Values at budgets, same shape as budget_flops."""
        log_c = np.log(np.asarray(budget_flops, dtype=float))
        parameters = np.array([self.parameters[name] for name in FORMS[self.form].parameters], dtype=float)
        return FORMS[self.form].at(parameters, np.atleast_1d(log_c)).reshape(log_c.shape)

    def contradiction(self) -> str:
        known = self.form in FORMS and set(self.parameters) == set(FORMS[self.form].parameters)
        return "" if known else f"{self.form!r} is no form of law with these parameters"


@dataclass(frozen=True)
class Refits:
    """Parameters (R, P) of each form in each replicate, and the index (R,) of the form taken there."""

    names: tuple[str, ...]
    fits: tuple[np.ndarray, ...]
    pick: np.ndarray

    def at(self, budget_flops: float) -> np.ndarray:
        """(R,) values at a budget, each by the form taken in that replicate."""
        values = np.stack([law_at(n, p, budget_flops) for n, p in zip(self.names, self.fits, strict=True)], axis=-1)
        return np.take_along_axis(values, self.pick[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class MetricLaw(Result):
    """The forms fitted to a metric's values at the budgets, and the one that `RULE` takes. points: what they were
    fitted to; None when the law was read back."""

    COMPUTED = ("rule",)

    chosen: str
    why: str
    forms: tuple[FittedForm, ...]
    points: Points | None = extra()

    rule = RULE

    def at(self, budget_flops: ArrayLike) -> np.ndarray:
        """The chosen form at budgets, same shape as budget_flops."""
        return next(f for f in self.forms if f.form == self.chosen).at(budget_flops)

    def contradiction(self) -> str:
        return "" if self.chosen in [f.form for f in self.forms] else f"{self.chosen!r} is none of its forms"

    def refit(self, values: np.ndarray) -> Refits:
        """Replicates of the values (R, K), each with the form that `RULE` takes for it. Choosing again in every
        replicate keeps the uncertainty of the choice in the interval."""
        names, points = tuple(f.form for f in self.forms), self._fitted()
        scored = _score(np.log(points.budgets), values, names, points.errors)
        return Refits(names, tuple(scored.fits), _choose(scored))

    def form_at(self, values: np.ndarray, budget_flops: float) -> np.ndarray:
        """(R,) predictions from values (R, K) at the budgets, all with the chosen form."""
        fitted = FORMS[self.chosen].fit(np.log(self._fitted().budgets), values)
        return law_at(self.chosen, fitted, budget_flops)

    def _fitted(self) -> Points:
        if self.points is None:
            raise UserError("a law that was read back from a file cannot be refitted; fit the table again")
        return self.points


def metric_law(
    budget_flops: ArrayLike, values: ArrayLike, forms: Sequence[str] = tuple(FORMS), errors: Errors | None = None
) -> MetricLaw:
    """The law of a metric in C from its values (K,) at budgets (K,), rising; 2 budgets at least.

    errors: what is known of the values' noise; without it only their misfit tells the forms apart. Only the line in log
    C exists where a value is not positive. Raises ValueError with fewer than 2 budgets."""
    budgets, y = np.asarray(budget_flops, dtype=float), np.asarray(values, dtype=float)
    if len(budgets) < 2:
        raise ValueError(f"a law in C needs 2 budgets, not {len(budgets)}")
    if (np.diff(budgets) <= 0).any():
        raise ValueError("a law in C needs budgets that rise; sort them, and take the mean of what shares a budget")
    if errors is not None:
        # Noise-free values: an error of 0 would turn rounding into evidence.
        errors = Errors(np.maximum(errors.se, 1e-9 * np.abs(y)), errors.dof)
    names = list(forms) if (y > 0).all() else ["linear_in_log_c"]
    scored = _score(np.log(budgets), y[None], names, errors)
    chosen = names[int(_choose(scored)[0])]
    fitted = []
    for k, (name, fits) in enumerate(zip(names, scored.fits, strict=True)):
        off = FORMS[name].at(fits, np.log(budgets)) - y[None]
        rms = float(np.sqrt(np.mean(_relative(off, y[None]) ** 2)))
        aicc, error = (float(v) if math.isfinite(v) else None for v in (scored.aicc[0, k], scored.held_out[0, k]))
        parameters = dict(zip(FORMS[name].parameters, fits[0].tolist(), strict=True))
        reason = "" if aicc is not None else _reason(name, fits[0], len(budgets), 4 if errors else 6)
        fitted.append(FittedForm(name, parameters, rms, aicc, error, reason))
    return MetricLaw(chosen, _why(fitted, chosen, budgets), tuple(fitted), Points(budgets, y, errors))


def _relative(off: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Misfits off (R, k), of the last k of the values y (R, K), relative to them or, where one is not positive, to the
    largest size."""
    size = np.where((y > 0).all(axis=-1, keepdims=True), y, np.abs(y).max(axis=-1, keepdims=True))
    return off / size[:, -off.shape[1] :]


class _Scored(NamedTuple):
    """fits (R, P) of each of F forms, AICc (R, F) and relative held-out errors (R, F); infinite where a form does not
    take part."""

    fits: list[np.ndarray]
    aicc: np.ndarray
    held_out: np.ndarray


def _score(log_c: np.ndarray, y: np.ndarray, names: Sequence[str], errors: Errors | None) -> _Scored:
    """Of values y (R, K), budgets rising."""
    n = len(log_c)
    fits, misfits, held = [], [], []
    for name in names:
        parameters, fit, at = FORMS[name]
        p = len(parameters)
        enough = n >= min(p, 3) if p < 3 else n > p
        found = fit(log_c, y) if enough else np.full((len(y), p), np.nan)
        fits.append(found)
        off = at(found, log_c) - y
        misfit = ((off / errors.se) ** 2).sum(-1) if errors else (_relative(off, y) ** 2).mean(-1)
        if name == "power_law_with_floor":
            # With E = 0 it is the pure law over again.
            misfit = np.where(found[:, 0] > 1e-6 * np.abs(y).min(axis=-1), misfit, np.inf)
        misfits.append(np.where(np.isfinite(misfit), misfit, np.inf))
        error = np.full(len(y), np.inf)
        if n > 2 and n - 1 >= p + (p == 3):
            error = _relative(at(fit(log_c[:-1], y[:, :-1]), log_c[-1:]) - y[:, -1:], y)[:, 0]
        held.append(np.where(np.isfinite(error), error, np.inf))
    misfit, counts = np.stack(misfits, axis=-1), np.array([len(FORMS[name].parameters) for name in names])
    score = _aicc_known(misfit, counts, n, errors.dof) if errors else _aicc(misfit, counts, n)
    return _Scored(fits, score, np.stack(held, axis=-1))


def _aicc(misfit: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    """AICc (R, F) from mean squared relative misfits, whose scale is unknown and counts as a parameter."""
    k = counts + 1
    # Misfit below rounding is no evidence: on noise-free values the simpler form must not lose by 1e-30.
    with np.errstate(divide="ignore"):
        score = n * np.log(np.maximum(misfit, 1e-20)) + 2 * k
    correction = np.where(n - k - 1 > 0, 2 * k * (k + 1) / np.maximum(n - k - 1, 1), np.where(counts > 2, np.inf, 0.0))
    return score + correction


def _aicc_known(chi2: np.ndarray, counts: np.ndarray, n: int, dof: int) -> np.ndarray:
    """AICc (R, F) from chi-squares, whose scale is known from `dof` further degrees of freedom (QAICc)."""
    # What even the richest form leaves over is not noise of the runs; it must not decide between the forms.
    left = np.where(np.isfinite(chi2), chi2 / np.maximum(n - counts, 1), np.inf)
    richest = np.min(np.where(counts == counts.max(), left, np.inf), axis=-1, keepdims=True)
    richest = np.where(np.isfinite(richest), richest, left.min(axis=-1, keepdims=True))
    k, total = counts + 1, n + dof
    correction = 2 * k * (k + 1) / np.maximum(total - k - 1, 1)
    return chi2 / np.maximum(np.where(np.isfinite(richest), richest, 1.0), 1.0) + 2 * k + correction


def _choose(scored: _Scored) -> np.ndarray:
    """Index (R,) of the form that `RULE` takes."""
    close = scored.aicc <= scored.aicc.min(axis=-1, keepdims=True) + CLOSE
    # Held-out errors first, the AICc between equals (all infinite with 2 budgets).
    error = np.where(close, np.abs(scored.held_out), np.nan)
    error = np.where(np.isnan(error), np.inf, np.minimum(error, 1e300))
    none = ~(error < 1e300).any(axis=-1)
    return np.where(none, np.argmin(np.where(close, scored.aicc, np.inf), axis=-1), np.argmin(error, axis=-1))


def _reason(name: str, parameters: np.ndarray, n: int, enough: int) -> str:
    """Why a form takes no part."""
    if name != "power_law_with_floor" or n >= enough and not np.isfinite(parameters[0]):
        return "could not be fitted"
    short = f"3 parameters; {n} budgets cannot show a floor, {enough} can"
    return short if n < enough else "its floor is 0: the pure power law over again"


def _why(fitted: list[FittedForm], chosen: str, budgets: np.ndarray) -> str:
    if len(budgets) == 2:
        return "2 budgets: every form passes through both, so the simplest is taken"
    shown = []
    for f in fitted:
        held = "" if f.held_out_error is None else f", held-out error {100 * f.held_out_error:+.2g} %"
        shown.append(f"{_name(f.form)}: {f.reason or f'AICc {f.aicc:.4g}{held}'}")
    return f"{_name(chosen)} on {len(budgets)} budgets to {compact(budgets[-1])} ({'; '.join(shown)})"


def _name(form: str) -> str:
    return form.replace("_", " ").replace("log c", "log C")
