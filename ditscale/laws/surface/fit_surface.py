"""Fitting the surface: variable projection to start, damped Gauss-Newton to finish, thousands of refits in batches."""

from __future__ import annotations

import math

import numpy as np

from ...errors import UserError, one_of
from ...units import compact
from ..findings import Finding, finding, run_to_add
from ..table import Table
from .descent import descend
from .surface import ExtraTerm, Surface, fold, optimum
from .variable_projection import SEED_EXPONENTS, seeds

OBJECTIVES = ("huber", "ls", "ls_log")
HUBER_DELTA = 1e-3
# The exponents are searched within these limits; a fit that ends on one is refused.
EXPONENT_LIMITS = (5e-3, 4.0)
BATCH_CELLS = 5e5  # replicates x runs that are refitted at once


def center(full: np.ndarray, means: np.ndarray, sign: int) -> np.ndarray:
    """Move the log coefficients to variables measured in units of their geometric means (sign -1) or back (sign +1).

    full (..., 1 + 2 J), means (J,). In centered form the normal equations have a condition number of about 1e4; in the
    usual one, about 1e11.
    """
    terms = len(means)
    out = np.array(full, dtype=float)
    out[..., 1 : 1 + terms] += sign * out[..., 1 + terms :] * means
    return out


def variables(table: Table, extra: tuple[ExtraTerm, ...] = ()) -> np.ndarray:
    """Logs (J, n) of what the J terms are powers of."""
    return np.log(np.stack([table.n_params, table.n_tokens, *(term.column for term in extra)]))


def fit_surface(
    table: Table,
    objective: str = "huber",
    kappa: float | None = None,
    *,
    delta: float = HUBER_DELTA,
    alpha: float | None = None,
    beta: float | None = None,
    tied: bool = False,
    extra: dict | None = None,
) -> Surface:
    """Fit all runs of `table`.

    objective: "huber" (summed, of log residuals), "ls" (squares of the loss itself) or "ls_log" (squares of log
    residuals); delta: of the Huber loss. kappa: C / (N D); estimated as the median over runs when None. alpha, beta:
    fix that exponent; tied: one exponent for both. extra {name: column (n,)}: further terms K x^-e with K >= 0.

    Refused: too few runs, budgets or sizes, a parameter on its bound, no convergence. Raises UserError on an unknown
    objective, an exponent outside its limits, alpha or beta together with tied, or an extra column that does not fit.
    """
    one_of(objective, OBJECTIVES, "objective")
    kappa = table.kappa() if kappa is None else kappa
    fixed = tuple((name, float(v)) for name, v in (("alpha", alpha), ("beta", beta)) if v is not None)
    for name, value in fixed:
        if not EXPONENT_LIMITS[0] < value < EXPONENT_LIMITS[1]:
            raise UserError(f"{name} = {value:g}: a fixed exponent must lie between {EXPONENT_LIMITS[0]:g} and "
                            f"{EXPONENT_LIMITS[1]:g}")  # fmt: skip
    if tied and fixed:
        raise UserError("tied means alpha = beta, both free; leave out alpha and beta, or give both and not tied")
    blank = tuple(
        ExtraTerm(name, math.nan, math.nan, *_extra_column(name, c, table)) for name, c in (extra or {}).items()
    )
    n_free = 5 + 2 * len(blank) - len(fixed) - tied
    refusal = _too_small(table, n_free)
    if refusal:
        nothing = np.full(5 + 2 * len(blank), np.nan)
        return Surface(nothing, kappa, objective, math.nan, np.full(len(table), np.nan), len(table), "refused",
                       (refusal,), fixed, tied, blank)  # fmt: skip
    logs = variables(table, blank)
    means = logs.mean(axis=1)
    x = logs - means[:, None]
    raw = objective == "ls"
    y = table.loss if raw else np.log(table.loss)
    weights = np.ones_like(y) if raw else 1 / table.loss**2
    grids = [np.array([v]) if v is not None else SEED_EXPONENTS for v in (alpha, beta)]
    starts = _with_extras(
        seeds(x[0], x[1], table.loss, weights, *grids, tied), len(blank), float(np.median(table.loss))
    )
    moves = _moves(2 + len(blank), fixed, tied)
    common = {"raw": raw, "limits": EXPONENT_LIMITS, "moves": moves}
    if objective == "huber":
        result = descend(starts, x, y, tolerance=1e-5, **common)
        # Starts that have met in one minimum go on as one.
        apart = np.unique(np.round(result.parameters, 2), axis=0, return_index=True)[1]
        parameters = result.parameters[apart]
        # The width of the quadratic zone shrinks in steps: straight to 1e-3 the objective is nearly least absolute
        # deviations, whose kinks stop the descent early.
        for width in (w for w in (1e-1, 1e-2, 1e-3, 1e-4) if w > delta):
            parameters = descend(parameters, x, y, delta=width, tolerance=1e-5, **common).parameters
        result = descend(parameters, x, y, delta=delta, **common)
    else:
        result = descend(starts, x, y, **common)
    best = int(np.argmin(result.value))
    centered = result.parameters[best]
    typical = float(np.median(table.loss))
    if centered[0] <= 1e-9 * typical:
        centered[0] = 0.0
    full = center(centered, means, +1)
    terms = tuple(
        ExtraTerm(t.name, math.exp(full[1 + j]), float(full[3 + len(blank) + j]), t.at, t.column)
        for j, t in enumerate(blank, start=2)
    )
    beyond = 10 * float(table.budget_flops.max())
    log_n = float(np.clip(optimum(fold(full, terms), kappa, beyond)[0], 0, np.log(beyond)))
    add = run_to_add(math.exp(log_n), beyond, kappa)
    findings = _judge(centered, bool(result.converged[best]), typical, dict(fixed), terms, add)
    fitted = full[0] + np.exp(full[1 : 3 + len(terms), None] - full[3 + len(terms) :, None] * logs).sum(axis=0)
    return Surface(
        full=full,
        kappa=kappa,
        objective=objective,
        objective_value=float(result.value[best]),
        residuals=np.log(table.loss) - np.log(fitted),
        n_runs=len(table),
        status="refused" if findings else "ok",
        findings=tuple(findings),
        fixed=fixed,
        tied=tied,
        extra=terms,
        delta=delta,
    )


def _extra_column(name: str, column, table: Table) -> tuple[float, np.ndarray]:
    """(geometric mean, the column) of an extra term. Raises UserError when it is no positive column of the table."""
    column = np.asarray(column, dtype=float)
    if column.shape != (len(table),):
        raise UserError(f"extra term {name!r}: its column has {column.size} values, the table has {len(table)} runs")
    if not (np.isfinite(column) & (column > 0)).all():
        raise UserError(
            f"extra term {name!r}: its column must be positive; run {table.run_id[~(column > 0)][0]!r} is not"
        )
    return float(np.exp(np.log(column).mean())), column


def _too_small(table: Table, n_free: int) -> Finding | None:
    """The finding on a table that cannot carry n_free parameters, saying what to add; None when it can."""
    budgets = [budget for budget, _ in table.slices()]
    distinct = min(len(np.unique(np.round(np.log(column), 6))) for column in (table.n_params, table.n_tokens))
    if len(table) > n_free and len(budgets) >= 2 and distinct >= 3:
        return None
    names = tuple(str(r) for r in table.run_id)
    if len(table) > n_free and len(budgets) < 2:
        text = (
            f"the surface L(N, D) needs runs at 2 budgets or more, and all {len(table)} are at {compact(budgets[0])}; "
            f"add a budget, for example {compact(3 * budgets[0])}, with the same sizes"
        )
        return finding("too_few_budgets", text, slices=tuple(budgets), value=len(budgets))
    text = (
        f"the surface L(N, D) needs {n_free + 1} runs at 2 budgets with 3 different N and 3 different D; there are "
        f"{len(table)} runs at {len(budgets)}, with {distinct} different N or D"
    )
    return finding("too_few_runs", text, names, value=len(table))


def _with_extras(starts: np.ndarray, count: int, typical: float) -> np.ndarray:
    """Starting points (., 1 + 2 J) for `count` extra terms: each a few per cent of the loss, with three exponents."""
    if not count:
        return starts
    out = []
    for exponent in (0.1, 0.3, 1.0):
        logs = np.full((len(starts), count), math.log(0.03 * typical))
        out.append(np.hstack([starts[:, :3], logs, starts[:, 3:], np.full((len(starts), count), exponent)]))
    return np.concatenate(out)


def _moves(terms: int, fixed, tied: bool) -> np.ndarray | None:
    """The directions in which the parameters of `terms` terms may move (see `descend`)."""
    if not (fixed or tied):
        return None
    moves = np.eye(1 + 2 * terms)
    alpha, beta = 1 + terms, 2 + terms
    if tied:
        moves[beta, alpha] = 1.0
    gone = [beta] * tied + [{"alpha": alpha, "beta": beta}[name] for name, _ in fixed]
    return np.delete(moves, gone, axis=1)


def _judge(centered, converged: bool, typical_loss: float, fixed: dict, extra, add: str) -> list[Finding]:
    """What stands against a fit, from its centered parameters; `add` is a run that would show a floor."""
    findings = []
    terms = (len(centered) - 1) // 2
    low, high = EXPONENT_LIMITS

    def bound(text, value):
        findings.append(finding("parameter_on_bound", text, value=float(value)))

    if centered[0] == 0:
        bound(
            "the surface's floor E sits on its bound 0: these runs do not show an irreducible loss; widen the budgets, "
            f"for example by {add}",
            0,
        )
    known = [
        ("A", "alpha", "N"),
        ("B", "beta", "D"),
        *((f"K of {t.name}", f"exponent of {t.name}", t.name) for t in extra),
    ]
    for j, (name, symbol, axis) in enumerate(known):
        coefficient, exponent = centered[1 + j], centered[1 + terms + j]
        if coefficient < math.log(1e-6 * typical_loss):
            bound(
                f"the surface's {name} sits on its bound 0: the loss does not depend on {axis} here; widen its range", 0
            )
        elif symbol not in fixed and not 1.02 * low <= exponent <= 0.98 * high:
            bound(
                f"the surface's {symbol} sits on its bound ({exponent:.3g}); widen the range of {axis} in the runs",
                exponent,
            )
    if not converged:
        findings.append(finding("not_converged", "the surface fit did not converge; its numbers are withheld"))
    return findings


def refit_surfaces(surface: Surface, table: Table, log_loss: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Full parameters (R, 1 + 2 J) of many refits started from `surface`: log_loss (R, n) or (n,), weights (R, n).

    Refits use the surface's objective and constraints and stop at a tolerance far below the spread of the replicates.
    They go in batches whose arrays stay within about 200 MB.
    """
    logs = variables(table, surface.extra)
    means = logs.mean(axis=1)
    start = center(surface.full, means, -1)
    raw = surface.objective == "ls"
    y = np.atleast_2d(np.exp(log_loss) if raw else log_loss)
    replicates = len(y) if weights is None else len(weights)
    batch = max(1, int(BATCH_CELLS // len(table)))
    parts = []
    for first in range(0, replicates, batch):
        rows = slice(first, min(first + batch, replicates))
        result = descend(
            np.broadcast_to(start, (rows.stop - first, len(start))),
            logs - means[:, None],
            y if len(y) == 1 else y[rows],
            weights=None if weights is None else weights[rows],
            delta=surface.delta if surface.objective == "huber" else math.inf,
            raw=raw,
            limits=EXPONENT_LIMITS,
            tolerance=1e-6,
            max_steps=100,
            moves=_moves(len(logs), surface.fixed, surface.tied),
        )
        parts.append(center(result.parameters, means, +1))
    return np.concatenate(parts)
