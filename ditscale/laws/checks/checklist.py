"""The reproducibility checklist printed with each law, after Li et al., "(Mis)Fitting" (arXiv 2502.18969).

Answers come from the fit and from `Table.recorded`; what is in neither is "not recorded", never guessed."""

from dataclasses import dataclass
from typing import Iterator, Sequence

import numpy as np

from ...result import Result
from ...tables.table import Table, describe
from ...units import compact, count
from ..estimates import Bootstrap
from ..minima.approach2 import Approach2
from ..surface.fit_surface import N_PARAMETERS, OBJECTIVES, Approach3
from .backtest import Backtest

NOT_RECORDED = "not recorded"
# (key of `Table.recorded`, which `ditscale collect` writes and lines `# key: value` of a CSV give, part, question).
RECORDED = (
    ("hypothesis", "hypothesis", "what the study is to find out"),
    ("design", "setup", "architecture"),
    ("recipe", "setup", "optimiser, learning rate, batch size, schedule"),
    ("seeds", "setup", "seeds of the runs"),
    ("version", "setup", "software the runs were made with"),
    ("n_params", "counting", "what N counts"),
    ("n_tokens", "counting", "what D counts"),
    ("budget_flops", "counting", "what C counts"),
    ("data", "data", "training data"),
    ("evaluation", "data", "what the metric was measured on"),
)
PARTS = ("hypothesis", "setup", "counting", "data", "fit", "dropped points", "validation", "uncertainty")
START = "non-negative least squares for every pair of exponents on a fixed grid; no random starts"
DESCENT = "damped Gauss-Newton from the best of these until no step helps"
HUBER = "Huber reached by narrowing from least squares"


@dataclass(frozen=True)
class Item(Result):
    """One line of the checklist: its part (of PARTS), the question, and the answer or "not recorded"."""

    COMPUTED = ("recorded",)

    part: str
    question: str
    answer: str

    @property
    def recorded(self) -> bool:
        return self.answer != NOT_RECORDED


def checklist(
    table: Table, two: Approach2, three: Approach3, bootstrap: Bootstrap, backtests: Sequence[Backtest],
    probes: Sequence[str] = (),
) -> tuple[Item, ...]:  # fmt: skip
    """The items for a fit of `table`, in the order of PARTS; probes: the runs that were held out."""
    known = {key.lower().replace(" ", "_"): text for key, text in table.recorded}
    # Metrics may be measured on unlike data, and in unlike ways.
    if of_metric := known.get(f"evaluation_{table.metric.lower()}"):
        known["evaluation"] = of_metric
    items = [Item(part, question, known.get(key, NOT_RECORDED)) for key, part, question in RECORDED]
    items += [Item(*answer) for answer in (*_of_the_table(table), *_of_the_fit(table, two, three, bootstrap))]
    items.append(Item("dropped points", "probes held out", "; ".join(probes) or "none"))
    items.append(Item("validation", "held-out budgets", _backtests(backtests)))
    return tuple(sorted(items, key=lambda item: PARTS.index(item.part)))


def lines(items: tuple[Item, ...]) -> list[str]:
    """Text for a summary: a heading that counts what is missing, then one line an item under its part."""
    missing = sum(not item.recorded for item in items)
    out = [f"Checklist for repeating this ({len(items) - missing} of {len(items)} recorded)"]
    width = max(len(item.question) for item in items)
    for part in PARTS:
        out += [f"  {part}"] + [f"    {i.question.ljust(width)}  {i.answer}" for i in items if i.part == part]
    return out


def _of_the_table(table: Table) -> Iterator[tuple[str, str, str]]:
    sizes = f"N {count(table.n_params.min())} to {count(table.n_params.max())}"
    tokens = f"D {count(table.n_tokens.min())} to {count(table.n_tokens.max())} tokens"
    yield "setup", "runs", f"{describe(len(table), [budget for budget, _ in table.slices()])}, {sizes}, {tokens}"
    kappa = table.budget_flops / (table.n_params * table.n_tokens)
    yield "counting", "C / (N D)", f"{np.median(kappa):.4g} in the median, {kappa.min():.4g} to {kappa.max():.4g}"
    if table.achieved_flops is not None:
        off = np.nanmax(np.abs(table.achieved_flops / table.budget_flops - 1))
        yield "counting", "achieved FLOPs against C", f"{100 * off:.2g} % off at most"
    for name in ("n_params", "n_tokens", "budget_flops"):
        if theirs := dict(table.recorded).get(f"column {name}"):
            yield "counting", f"column of {name}", theirs
    yield "data", "metric that is fitted", table.metric
    yield "data", "table", table.source or NOT_RECORDED


def _of_the_fit(table: Table, two: Approach2, three: Approach3, bootstrap: Bootstrap) -> Iterator[tuple[str, str, str]]:
    yield (
        "hypothesis",
        "form of approach 3",
        f"{table.metric}(N, D) = E + A N^-alpha + B D^-beta, all of E, A, B non-negative",
    )
    curve = "log " * any(p.response == "log" for p in two.slices) + table.metric
    form = f"parabola of the {curve} in log N at each budget; power laws in C through {len(two.accepted)} minima"
    yield "hypothesis", "form of approach 2", form
    free = f"{len(table)} runs, {N_PARAMETERS} parameters of the surface, 3 of each parabola"
    yield "hypothesis", "runs and free parameters", free
    yield "fit", "objective of approach 3", OBJECTIVES[three.surface.objective]
    yield "fit", "objective of approach 2", "least squares"
    yield "fit", "initialisation", START
    codes = ", ".join(sorted({f.code for f in three.surface.findings}))
    settled = "converged, no parameter on a bound" if three.ok else f"refused: {codes}"
    yield "fit", "optimiser", f"{DESCENT}, {HUBER}; {settled}"
    excluded = "; ".join(f"{run} ({why})" for run, why in table.exclusions)
    refused = "; ".join(compact(p.budget_flops) for p in two.slices if not p.ok)
    yield "dropped points", "runs excluded by name", excluded or "none"
    yield "dropped points", "slices without a usable minimum", refused or "none"
    drawn = bootstrap.replicates > 0
    yield "uncertainty", "intervals", "95 % percentile" if drawn else "none"
    yield "uncertainty", "bootstrap", f"{bootstrap.replicates} replicates, seed {bootstrap.seed}" if drawn else "none"
    if drawn:
        yield "uncertainty", "replicates", "runs drawn again; in small slices fitted values plus noise"


def _backtests(backtests: Sequence[Backtest]) -> str:
    """Errors at the largest budget, held out alone; the farther ones stand under the backtests."""
    alone = [b for b in backtests if b.held_out == 1 and (b.approach2 or b.approach3)]
    said = [(name, p) for b in alone for name, p in b.by_law.items() if p and name != "answer"]
    errors = ", ".join(f"{name} {100 * p.loss_error:+.2g} %" for name, p in said)
    return f"{errors} at {compact(alone[0].budget_flops)}" if alone else "none was possible"
