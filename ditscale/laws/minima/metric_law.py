"""Which form a metric follows in C: a power law, a power law with a floor, or a line in log C; chosen by a stated rule.

The loss of Approach 2 and any other metric (FID, VLB, likelihood) go through here. A form is never chosen silently:
every form's parameters, AICc and held-out error are kept beside the choice."""

import math
from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True)
class FittedForm(Result):
    """One form through the points. parameters: as in `FORMS`, None where it could not be fitted; rms: relative misfit;
    held_out_error: relative, at the largest budget when fitted without it; it and aicc are None with few budgets."""

    form: str
    parameters: dict[str, float | None]
    rms: float | None
    aicc: float | None
    held_out_error: float | None
    reason: str

    def at(self, budget_flops: ArrayLike) -> np.ndarray:
        """Values at budgets, same shape as budget_flops."""
        parameters = [self.parameters[name] for name in FORMS[self.form].parameters]
        return law_at(self.form, np.array(parameters, dtype=float), budget_flops)

    def contradiction(self) -> str:
        known = self.form in FORMS and set(self.parameters) == set(FORMS[self.form].parameters)
        return "" if known else f"{self.form!r} is no form of law with these parameters"


@dataclass(frozen=True)
class Refits:
    """Each of F forms in each of R replicates: parameters (R, P), AICc (R, F) and relative held-out errors (R, F),
    infinite where a form does not take part."""

    names: tuple[str, ...]
    fits: tuple[np.ndarray, ...]
    aicc: np.ndarray
    held_out: np.ndarray

    @cached_property
    def pick(self) -> np.ndarray:
        """Index (R,) of the form that `RULE` takes."""
        close = self.aicc <= self.aicc.min(axis=-1, keepdims=True) + CLOSE
        # Held-out errors first, the AICc between equals (all infinite with 2 budgets).
        error = np.where(close, np.abs(self.held_out), np.inf)
        none = ~np.isfinite(error).any(axis=-1)
        return np.where(none, np.argmin(np.where(close, self.aicc, np.inf), axis=-1), np.argmin(error, axis=-1))

    def at(self, budget_flops: float) -> np.ndarray:
        """(R,) values at a budget, each by the form taken in that replicate."""
        values = np.stack([law_at(n, p, budget_flops) for n, p in zip(self.names, self.fits, strict=True)], axis=-1)
        return np.take_along_axis(values, self.pick[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class MetricLaw(Result):
    """The forms fitted to a metric's values at the budgets, and the one that `RULE` takes. points: log C (K,), and what
    is known of the noise, of what they were fitted to; None when the law was read back."""

    COMPUTED = ("rule",)

    chosen: str
    why: str
    forms: tuple[FittedForm, ...]
    points: tuple[np.ndarray, Errors | None] | None = extra()

    rule = RULE

    def at(self, budget_flops: ArrayLike) -> np.ndarray:
        """The chosen form at budgets, same shape as budget_flops."""
        return next(f for f in self.forms if f.form == self.chosen).at(budget_flops)

    def contradiction(self) -> str:
        return "" if self.chosen in [f.form for f in self.forms] else f"{self.chosen!r} is none of its forms"

    def refit(self, values: np.ndarray) -> Refits:
        """Replicates of the values (R, K), each with the form that `RULE` takes for it. Choosing again in every
        replicate keeps the uncertainty of the choice in the interval."""
        if self.points is None:
            raise UserError("a law that was read back from a file cannot be refitted; fit the table again")
        log_c, errors = self.points
        return _refits(log_c, values, tuple(f.form for f in self.forms), errors)


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
    names, log_c = tuple(forms) if (y > 0).all() else ("linear_in_log_c",), np.log(budgets)
    refits = _refits(log_c, y[None], names, errors)
    chosen, fitted = names[int(refits.pick[0])], []
    for name, fits, *scores in zip(names, refits.fits, refits.aicc[0], refits.held_out[0], strict=True):
        rms = float(np.sqrt(np.mean(_relative(FORMS[name].at(fits, log_c) - y[None], y[None]) ** 2)))
        aicc, error = (float(v) if math.isfinite(v) else None for v in scores)
        parameters = dict(zip(FORMS[name].parameters, fits[0].tolist(), strict=True))
        reason = "" if aicc is not None else _reason(name, fits[0], len(budgets), 4 if errors else 6)
        fitted.append(FittedForm(name, parameters, rms, aicc, error, reason))
    return MetricLaw(chosen, _why(fitted, chosen, budgets), tuple(fitted), (log_c, errors))


def _relative(off: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Misfits off (R, k) of the last k of y (R, K), relative to y or, where one is not positive, the largest size."""
    size = np.where((y > 0).all(axis=-1, keepdims=True), y, np.abs(y).max(axis=-1, keepdims=True))
    return off / size[:, -off.shape[1] :]


def _refits(log_c: np.ndarray, y: np.ndarray, names: tuple[str, ...], errors: Errors | None) -> Refits:
    """Of values y (R, K), budgets rising."""
    n, fits, misfits, held = len(log_c), [], [], []
    for name in names:
        parameters, fit, at = FORMS[name]
        least = 2 if len(parameters) == 2 else 4  # budgets
        nothing = np.full((len(y), len(parameters)), np.nan)
        fits.append(found := fit(log_c, y) if n >= least else nothing)
        off = at(found, log_c) - y
        misfit = ((off / errors.se) ** 2).sum(-1) if errors else (_relative(off, y) ** 2).mean(-1)
        if name == "power_law_with_floor":
            # With E = 0 it is the pure law over again.
            misfit = np.where(found[:, 0] > 1e-6 * np.abs(y).min(axis=-1), misfit, np.inf)
        misfits.append(misfit)
        before = fit(log_c[:-1], y[:, :-1]) if n > least else nothing
        held.append(_relative(at(before, log_c[-1:]) - y[:, -1:], y)[:, 0])
    misfit, held_out = (
        np.where(np.isfinite(part), part, np.inf) for part in (np.stack(misfits, -1), np.stack(held, -1))
    )
    counts = np.array([len(FORMS[name].parameters) for name in names])
    return Refits(names, tuple(fits), _aicc(misfit, counts, n, errors.dof if errors else 0), held_out)


def _aicc(misfit: np.ndarray, counts: np.ndarray, n: int, dof: int) -> np.ndarray:
    """AICc (R, F): from chi-squares whose scale is known from `dof` further degrees of freedom (QAICc) or, with dof 0,
    from mean squared relative misfits, whose unknown scale counts as a parameter."""
    k = counts + 1
    spare = n + dof - k - 1
    without = np.where(counts > 2, np.inf, 0.0)
    correction = np.where(spare + dof > 0, 2 * k * (k + 1) / np.maximum(spare, 1), without)
    if not dof:
        # Misfit below rounding is no evidence: on noise-free values the simpler form must not lose by 1e-30.
        return n * np.log(np.maximum(misfit, 1e-20)) + 2 * k + correction
    # What even the richest form leaves over is not noise of the runs; it must not decide between the forms.
    left = misfit / np.maximum(n - counts, 1)
    richest = np.min(np.where(counts == counts.max(), left, np.inf), axis=-1, keepdims=True)
    richest = np.where(np.isfinite(richest), richest, left.min(axis=-1, keepdims=True))
    return misfit / np.maximum(np.where(np.isfinite(richest), richest, 1.0), 1.0) + 2 * k + correction


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
        shown.append(f"{f.form}: {f.reason or f'AICc {f.aicc:.4g}{held}'}")
    text = f"{chosen} on {len(budgets)} budgets to {compact(budgets[-1])} ({'; '.join(shown)})"
    return text.replace("_", " ").replace("log c", "log C")
