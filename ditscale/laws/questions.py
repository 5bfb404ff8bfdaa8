"""`predict`: what-if questions to the predictor of a table.

A question is a budget, a value to reach, or what is given beside a budget: a size, a number of tokens, a ratio of
tokens to parameters, or a number of unique images."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Iterator

import numpy as np

from ..errors import UserError
from ..result import Result
from ..tables.read import Source, read_table
from ..tables.table import Table
from ..units import compact, count, number
from .estimates import Estimate
from .findings import Finding, listed
from .notebook import Shown
from .predictor.identify import Asked, ask
from .predictor.predictor import Predictor, predictor
from .spread import Analysis, analyses, counted_by, lines
from .text import cells, columns, ends, short

# Passes over which the worth of a repeat falls by a factor e. Diffusion models bear about 100 (arXiv 2507.15857), where
# Muennighoff et al. (arXiv 2305.16264, equation 5) found 15 for language models. The runs themselves do not say it.
REPEATS = 100.0


@dataclass(frozen=True)
class Choice(Result):
    """One answer. what: the question; penalty: the loss over the optimum's, less 1 (of a metric of either sign: the
    difference); flops_share: the budget at which the optimum reaches that loss, over this one; regret: expected share
    of the budget that is lost because N* is not known. None: not asked, or not determined."""

    what: str
    budget_flops: Estimate | None
    n_params: Estimate | None = None
    n_tokens: Estimate | None = None
    loss: Estimate | None = None
    penalty: Estimate | None = None
    flops_share: Estimate | None = None
    regret: float | None = None


@dataclass(frozen=True)
class Counting(Result):
    """The law under one counting of N or D: the column that counts, the optimum at the budget, and the exponents."""

    column: str
    n_params: Estimate
    n_tokens: Estimate
    loss: Estimate
    model_exponent: Estimate
    data_exponent: Estimate


@dataclass(frozen=True, repr=False)
class Answers(Shown):
    """All that was asked. metrics {column: its value at N* of the loss}; analyses: see `spread`."""

    LAYOUT = 1

    metric: str
    budget_flops: float | None
    choices: tuple[Choice, ...]
    metrics: dict[str, Estimate]
    countings: tuple[Counting, ...]
    analyses: tuple[Analysis, ...]
    findings: tuple[Finding, ...]

    @property
    def given(self) -> bool:
        return any(c.loss or c.n_params or c.budget_flops and c.budget_flops.low for c in self.choices)

    def heading(self) -> str:
        at = f" at {compact(self.budget_flops)} FLOPs" if self.budget_flops else ""
        return f"{self.metric}{at}: {len(self.choices)} answers"

    def main(self) -> dict[str, Estimate]:
        return {c.what: c.loss for c in self.choices if c.loss} | self.metrics

    def summary(self) -> str:
        head = ["", "C", "N", "95 %", "D", "95 %", self.metric, "95 %", "over optimum", "FLOPs needed", "regret"]
        rows = [head] + [_row(c) for c in self.choices]
        out = ["Answers by the mixture of forms (docs/laws.md)", *columns(rows)] if self.choices else []
        if self.metrics:
            out += ["Metrics at N*", *columns([[name, *cells(e)] for name, e in self.metrics.items()])]
        if self.countings:
            rows = [["counted by", "N*", "95 %", "D*", "95 %", self.metric, "N* exponent", "95 %"]]
            for c in self.countings:
                sizes = [*cells(c.n_params, count), *cells(c.n_tokens, count)]
                rows.append([c.column, *sizes, short(c.loss.value), *cells(c.model_exponent)])
            out += ["The same law under other countings", *columns(rows)]
        return "\n".join([*out, *(lines(self.analyses, self.metric) if self.analyses else []), *listed(self.findings)])


def _row(c: Choice) -> list[str]:
    def shown(e: Estimate | None, form: Any = short) -> list[str]:
        return [form(e.value), ends(e, form)] if e else ["-", ""]

    over, share = c.penalty, c.flops_share
    percent = "-" if over is None else f"{100 * over.value:+.2g} %"
    at = "-" if c.budget_flops is None else compact(c.budget_flops.value)
    if c.budget_flops and (span := ends(c.budget_flops, compact)):
        at += f" ({span})"
    elif c.what.startswith("reach"):
        at += " (no bound)" * bool(c.budget_flops)
    regret = "-" if c.regret is None else f"{100 * c.regret:.2g} %"
    needed = "-" if share is None else f"{100 * share.value:.3g} %"
    sizes = [*shown(c.n_params, count), *shown(c.n_tokens, count), *shown(c.loss)]
    return [c.what, at, *sizes, percent, needed, regret]


def predict(
    table: Source, budget: float | str | None = None, *, reach: float | str | None = None,
    n_params: float | str | None = None, n_tokens: float | str | None = None, ratio: float | str | None = None,
    images: float | str | None = None, tokens_per_image: float | str | None = None, repeats: float | str = REPEATS,
    metrics: Iterable[str] = (), countings: Iterable[str] = (), spread: bool = False, kappa: float | None = None,
    fitted: Mapping[str, Predictor] | None = None,
) -> Answers:  # fmt: skip
    """Answer what-if questions from the grid runs of `table`, whatever `read_table` reads.

    budget: in FLOPs. With it: the optimum there and, for n_params, n_tokens, ratio (D / N) or images (unique ones), the
    best rest and what it costs beside the optimum. Without it: the budget at which n_params, n_tokens or images are the
    optimum's. reach: a value of the metric; the budget that reaches it. repeats: see `REPEATS`. metrics: more columns
    (of `read_table(..., also=)`), at N* of the budget. countings: columns that count N (or, with `token` or `image` in
    their name, D) otherwise. spread: see `analyses`. fitted {column: predictor}: what was fitted to these very runs
    before, which saves the time of fitting. Raises UserError on bad arguments.

        ds.predict("runs.csv", "1.5e21", n_params="600e6").summary()
    """
    given = {"budget": budget, "reach": reach, "n_params": n_params, "n_tokens": n_tokens}
    given |= {"ratio": ratio, "images": images}
    low = {"reach": -math.inf}
    asked_for = {name: number(v, name, above=low.get(name, 0)) for name, v in given.items() if v is not None}
    if not asked_for:
        raise UserError("predict: ask something: a budget, a value to reach, or a size, tokens, or images")
    at = asked_for.get("budget")
    if at is None and ("ratio" in asked_for or spread or tuple(metrics) or tuple(countings)):
        asked_at = "a ratio, metrics, countings and the spread are asked at a budget"
        raise UserError(f"predict: {asked_at}; give one, as in 1.5e21")
    grid, fitted = read_table(table).grid("a prediction"), fitted or {}
    asked = ask(grid, at or 10 * grid.largest, kappa, fitted.get(grid.metric))
    if "reach" in asked_for and not asked.lacks and asked.predictor:  # Whether the runs speak for where that may be.
        needed = asked.predictor.budget_for(asked_for["reach"])
        asked = asked.at(max(asked.target, needed.value if needed else 1000 * grid.largest))
    tokens = _tokens_of(grid, asked_for, tokens_per_image)
    choices = tuple(_choices(asked, asked_for, tokens, number(repeats, "repeats", above=0)))
    made = asked.whole
    found = {name: _metric(grid, name, made, at, kappa, fitted.get(name)) for name in metrics} if made and at else {}
    counted = tuple(_counted(grid, name, at, kappa) for name in countings) if made and at else ()
    tried = analyses(grid, at, countings) if spread and at and asked.predictor else ()
    findings = (asked.refused,) if asked.refused else ()
    return Answers(grid.metric, at, choices, found, counted, tried, findings)


def _tokens_of(grid: Table, asked: dict[str, float], tokens_per_image: float | str | None) -> float:
    """Tokens of the unique images that are given; infinite where none are."""
    if "images" not in asked:
        return math.inf
    if tokens_per_image is not None:
        return asked["images"] * number(tokens_per_image, "tokens_per_image", above=0)
    if grid.n_images is None or not np.isfinite(grid.n_images).all():
        raise UserError(
            "how many tokens an image has is not in the table; give tokens_per_image (--tokens-per-image), as in 256"
        )
    return asked["images"] * float(np.median(grid.n_tokens / grid.n_images))


def _choices(asked: Asked, given: dict[str, float], unique: float, repeats: float) -> Iterator[Choice]:
    made, lacks = asked.predictor, asked.lacks
    if made is None:
        return
    if "reach" in given and "L*" not in lacks:
        found = made.budget_for(given["reach"])
        there = made.optimum(found.value) if found else None
        n_params, n_tokens = (there.n_params, there.n_tokens) if there else (None, None)
        what = f"reach {given['reach']:g}"
        if found is None:  # Every budget that is looked at reaches it, or none.
            easy = made.optimum(made.smallest).loss.value < given["reach"]
            what += ": at any budget" if easy != (made.runs.sign < 0) else ": at no budget"
        yield Choice(what, found, n_params, n_tokens, Estimate(given["reach"]))
    if "budget" not in given:
        for name, what in (("n_params", "N"), ("n_tokens", "D"), ("images", "images")):
            if name in given and "N*" not in lacks:
                size = {"n_tokens": unique} if name == "images" else {name: given[name]}
                yield _where_optimal(made, f"{what} = {count(given[name])} is the optimum", size, lacks)
        return
    budget = given["budget"]
    nd, best = budget / made.runs.kappa, made.optimum(budget)
    n_params, n_tokens = (None, None) if "N*" in lacks else (best.n_params, best.n_tokens)
    regret, loss = None if lacks else made.regret(budget, best.n_params.value), None if "L*" in lacks else best.loss
    yield Choice("optimum", Estimate(budget), n_params, n_tokens, loss, regret=regret)
    if "L*" not in lacks:
        yield Choice("one new run there", Estimate(budget), loss=made.one_run(budget))
    if lacks:
        return
    sizes_of: dict[str, tuple[str, Callable[[float], float]]] = {
        "n_params": ("N", float), "n_tokens": ("D", lambda d: nd / d), "ratio": ("D / N", lambda r: math.sqrt(nd / r)),
    }  # fmt: skip
    for name, (what, size_of) in sizes_of.items():
        if name in given:
            yield fixed(made, budget, f"{what} = {count(given[name])}", size_of(given[name]))
    if unique < best.n_tokens.value:

        def worth(n: np.ndarray) -> np.ndarray:
            return made.runs.kappa * n * _worth(nd / n, unique, repeats)

        best_size = made.best_with(budget, worth)
        text = f"{nd / best_size / unique:.3g} passes (repeats worth 1/e after {repeats:g})"
        yield fixed(made, budget, "each image once", nd / unique)
        yield fixed(made, budget, text, best_size, float(worth(np.array(best_size))))
    elif "images" in given:
        yield Choice(f"images suffice: {best.n_tokens.value / unique:.2g} passes", Estimate(budget))


def _worth(n_tokens: np.ndarray, unique: float, repeats: float) -> np.ndarray:
    """Unique tokens that as many tokens of `unique` ones are worth (arXiv 2305.16264, equation 5)."""
    again = np.maximum(n_tokens / unique - 1, 0)
    return np.where(again > 0, unique * (1 - repeats * np.expm1(-again / repeats)), n_tokens)


def fixed(made: Predictor, budget: float, what: str, n_params: float, worth: float | None = None) -> Choice:
    """The answer at a size. worth: see `Predictor.at_size`."""
    at = made.at_size(budget, n_params, worth)
    sizes = (Estimate(at.n_params), Estimate(at.n_tokens))
    regret = made.regret(budget, n_params) if worth is None else None
    return Choice(what, Estimate(budget), *sizes, at.loss, at.penalty, at.flops_share, regret)


def _where_optimal(made: Predictor, what: str, size: dict[str, float], lacks: tuple[str, ...]) -> Choice:
    budget = made.budget_of(**size)
    if budget is None:
        return Choice(what, None)
    best = made.optimum(budget.value)
    return Choice(what, budget, best.n_params, best.n_tokens, None if "L*" in lacks else best.loss)


def of_metric(grid: Table, name: str) -> Table:
    """The runs that have another of the table's metrics, as a table of it."""
    return grid.take(np.isfinite(grid.column(name))).of_metric(name)


def _metric(
    grid: Table, name: str, loss: Predictor, budget: float, kappa: float | None, fitted: Predictor | None
) -> Estimate:
    """A column's value at N* of the loss."""
    own = ask(of_metric(grid, name), budget, kappa, fitted)
    if own.predictor is None:
        why = own.refused.message if own.refused else ""
        raise UserError(f"{grid.where}: there is no law of {name}: {why}", status=3)
    return own.predictor.at_size(budget, loss.optimum(budget).n_params.value).loss


def _counted(grid: Table, column: str, budget: float, kappa: float | None) -> Counting:
    made = predictor(counted_by(grid, column), kappa=kappa)
    best, exponents = made.optimum(budget), [made.exponent(name, budget) for name in ("model", "data")]
    return Counting(column, best.n_params, best.n_tokens, best.loss, *exponents)
