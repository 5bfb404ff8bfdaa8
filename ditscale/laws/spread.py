"""How far N* and L* depend on how a table is analysed: 64 ways, which no interval of one way can show."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Iterator

import numpy as np

from ..errors import UserError
from ..quantities import at_optimum
from ..result import Result
from ..tables.table import Table
from ..units import compact, count
from .minima.approach2 import fit_approach2
from .predictor.identify import ask
from .predictor.predictor import Predictor
from .surface.fit_surface import OBJECTIVES, fit_surface
from .text import columns, short

ANALYSES = 64


@dataclass(frozen=True)
class Analysis(Result):
    """N* and L* at the budget by one form on one version of the table; None where that gives none."""

    table: str
    form: str
    n_params: float | None = None
    loss: float | None = None


def counted_by(grid: Table, column: str) -> Table:
    """The table with N, or D, counted by another of its columns."""
    values = grid.column(column)
    of = "n_tokens" if "token" in column or "image" in column else "n_params"
    if not (np.isfinite(values) & (values > 0)).all():
        raise UserError(f"{grid.where}: column {column} is not positive in every run, so it counts nothing")
    fields: dict[str, Any] = {of: values}
    return replace(grid, **fields)


def analyses(grid: Table, budget: float, countings: Iterable[str] = ()) -> tuple[Analysis, ...]:
    """N* and L* at a budget by 64 ways to analyse a table: 8 versions of it (whole; other countings of N; less a seed;
    less a budget, or the smallest or largest size of each) by 8 forms (the answer and its three members, Approach 2,
    and Approach 3 by three objectives). N* of another counting is scaled to the table's own at the optimum's D."""
    versions = list(itertools.islice(_versions(grid, countings), ANALYSES // 8))
    return tuple(itertools.chain.from_iterable(by_forms(name, table, budget) for name, table in versions))


def _versions(grid: Table, countings: Iterable[str]) -> Iterator[tuple[str, Table]]:
    yield "as it is", grid
    for column in itertools.islice((c for c in countings if "token" not in c and "image" not in c), 2):
        yield f"N by {column}", counted_by(grid, column)
    seeds = np.unique(grid.shared.get("seed", np.zeros(0)))
    if len(seeds) > 1:
        yield f"less seed {seeds[-1]}", grid.take(grid.shared["seed"] != seeds[-1])
    slices = grid.slices()
    for side, end in (("smallest", np.argmin), ("largest", np.argmax)):
        lost = [rows[end(grid.n_params[rows])] for _, rows in slices if len(rows) > 4]
        yield f"less the {side} sizes", grid.take(np.delete(np.arange(len(grid)), lost))
    # From the outside inwards: the ends of the budgets say most.
    order = sorted(range(len(slices)), key=lambda k: min(k, len(slices) - 1 - k))
    for k in itertools.cycle(order):
        yield f"less budget {compact(slices[k][0])}", grid.take(np.delete(np.arange(len(grid)), slices[k][1]))


def by_forms(name: str, table: Table, budget: float, fitted: Predictor | None = None) -> Iterator[Analysis]:
    """N* and L* at a budget by each form, on the version of a table that is called `name`; fitted: see `ask`."""
    made = ask(table, budget, fitted=fitted).predictor
    for form in ("answer", "surface", "relaxed", "bent"):
        one = made if made is None or form == "answer" else made.only(form)
        if one is None or not one.members:
            yield Analysis(name, form)
        else:
            best = one.optimum(budget)
            yield Analysis(name, form, best.n_params.value, best.loss.value)
    low = table.falling()
    two = fit_approach2(low, bootstrap=0)
    said = two.predict(budget) if two.ok else None
    known = (said.n_params.value, table.sign * said.loss.value) if said else ()
    yield Analysis(name, "approach 2", *known)
    for objective in OBJECTIVES:
        surface = fit_surface(low, objective)
        n, _, loss = surface.optimum(budget) if surface.ok else (None, None, None)
        yield Analysis(name, f"approach 3, {objective}", *(float(x) for x in (n, loss) if x is not None))


def lines(tried: tuple[Analysis, ...], metric: str) -> list[str]:
    """The ranges over all choices, and over each kind of choice with the other at its first."""

    def span(chosen: Iterable[Analysis], form: Any, field: str) -> str:
        values = sorted(v for a in chosen if (v := getattr(a, field)) is not None)
        return f"{form(values[0])} .. {form(values[-1])}" if values else "-"

    kinds = {
        "all": tried, "form, on the whole table": [a for a in tried if a.table == tried[0].table],
        "table, by the answer": [a for a in tried if a.form == "answer"],
    }  # fmt: skip
    rows = [["choice", "analyses", "N*", at_optimum(metric)]]
    for kind, chosen in kinds.items():
        rows.append([kind, str(len(list(chosen))), span(chosen, count, "n_params"), span(chosen, short, "loss")])
    none = sum(a.n_params is None for a in tried)
    return [f"Spread over {len(tried)} analyses ({none} of which give no law)", *columns(rows)]
