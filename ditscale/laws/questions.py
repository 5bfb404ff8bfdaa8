"""`predict`: what-if questions to the predictor of a table.

A question is a budget, a value to reach, or what is given beside a budget: a size, a number of tokens, a ratio of
tokens to parameters, or a number of unique images."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Iterator

import numpy as np

from ..errors import UserError
from ..result import Result
from ..tables.read import Source, read_table
from ..tables.table import Table
from ..units import compact, count, number
from .checks.runs import refuse_units
from .estimates import Estimate
from .findings import Finding, listed
from .notebook import Shown
from .predictor.identify import ask
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
    asked_for = _given(
        budget=budget, reach=reach, n_params=n_params, n_tokens=n_tokens, ratio=ratio, images=images
    )  # fmt: skip
    at = asked_for.get("budget")
    if at is None and ("ratio" in asked_for or spread or tuple(metrics) or tuple(countings)):
        asked_at = "a ratio, metrics, countings and the spread are asked at a budget"
        raise UserError(f"predict: {asked_at}; give one, as in 1.5e21")
    grid, fitted = read_table(table).grid("a prediction"), fitted or {}
    refuse_units(grid, kappa)
    goal = asked_for.get("reach", 1.0)
    if goal <= 0 and not grid.higher_is_better and grid.info_of(grid.metric).positive:
        raise UserError(f"reach: {goal:g} is not positive, as every {grid.metric} is; write a value such as 2.5")
    before = fitted.get(grid.metric)
    asked = ask(grid, min(at or math.inf, 10 * grid.largest), kappa, before)
    tokens, passes = _tokens_of(grid, asked_for, tokens_per_image), number(repeats, "repeats", above=0)
    choices, refused = list[Choice](), list[Finding | None]()
    if (law := asked.predictor) is None:
        refused.append((ask(grid, at, kappa, before) if at else asked).refused)
    else:
        for choice in _sought(law, asked_for, tokens):
            # The runs must speak for the budget that was found; where none was, for far ones, or for their own.
            none = grid.largest * (1 if choice.what.endswith("any budget") else 1000)
            there = asked.at(choice.budget_flops.value if choice.budget_flops else none)
            refused.append(there.refused)
            if "N*" not in there.lacks and not (there.lacks and choice.what.startswith("reach")):
                choices.append(replace(choice, loss=None) if there.lacks else choice)
        if at:
            asked = asked.at(at)
            choices += _choices(law, asked.lacks, asked_for, tokens, passes)
            refused.append(asked.refused)
    made = asked.whole
    found = {name: _metric(grid, name, made, at, kappa, fitted.get(name)) for name in metrics} if made and at else {}
    counted = tuple(_counted(grid, name, at, kappa) for name in countings) if made and at else ()
    tried = analyses(grid, at, countings) if spread and at and asked.predictor and "N*" not in asked.lacks else ()
    tried = tuple(replace(one, loss=None) for one in tried) if asked.lacks else tried
    said = tuple(dict.fromkeys(one for one in refused if one))
    return Answers(grid.metric, at, tuple(choices), found, counted, tried, said)


def _given(**asked: float | str | None) -> dict[str, float]:
    """What is asked, as numbers."""
    least = dict.fromkeys(asked, {"above": 0.0}) | {"reach": {}, "images": {"low": 1.0}}
    given = {name: number(v, name, **least[name]) for name, v in asked.items() if v is not None}
    if not given:
        raise UserError("predict: ask something: a budget, a value to reach, or a size, tokens, or images")
    return given


def _tokens_of(grid: Table, asked: dict[str, float], tokens_per_image: float | str | None) -> float:
    """Tokens of the unique images that are given; infinite where none are."""
    if "images" not in asked:
        return math.inf
    if tokens_per_image is not None:
        return asked["images"] * number(tokens_per_image, "tokens_per_image", above=0)
    if grid.n_images is None or not np.isfinite(grid.n_images).all():
        lost = "predict: how many tokens an image has is not in the table"
        raise UserError(f"{lost}; give tokens_per_image (--tokens-per-image), as in 256")
    return asked["images"] * float(np.median(grid.n_tokens / grid.n_images))


def _sought(made: Predictor, given: dict[str, float], unique: float) -> Iterator[Choice]:
    """The budgets that are sought: of a value to reach and, without a budget, at which something given is optimal."""
    if "reach" in given:
        found = made.budget_for(given["reach"])
        there = made.optimum(found.value) if found else None
        n_params, n_tokens = (there.n_params, there.n_tokens) if there else (None, None)
        what = f"reach {given['reach']:g}"
        if found is None:  # Every budget that is looked at reaches it, or none.
            easy = made.optimum(made.smallest).loss.value < given["reach"]
            what += ": at any budget" if easy != (made.runs.sign < 0) else ": at no budget"
        yield Choice(what, found, n_params, n_tokens, Estimate(given["reach"]))
    for name, what in (("n_params", "N"), ("n_tokens", "D"), ("images", "images")) if "budget" not in given else ():
        if name in given:
            found = made.budget_of(**({"n_tokens": unique} if name == "images" else {name: given[name]}))
            best = vars(made.optimum(found.value)) if found else {}
            yield Choice(f"{what} = {count(given[name])} is the optimum", found, **best)


def _choices(
    made: Predictor, lacks: tuple[str, ...], given: dict[str, float], unique: float, repeats: float
) -> Iterator[Choice]:
    """The optimum at a budget, as far as the runs determine it, and what is given beside it. unique: tokens."""
    if "N*" in lacks:
        return
    budget = given["budget"]
    nd, best = budget / made.runs.kappa, made.optimum(budget)
    regret, loss = (None, None) if lacks else (made.regret(budget, best.n_params.value), best.loss)
    yield Choice("optimum", Estimate(budget), best.n_params, best.n_tokens, loss, regret=regret)
    if lacks:
        return
    yield Choice("one new run there", Estimate(budget), loss=made.one_run(budget))
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


def of_metric(grid: Table, name: str) -> Table:
    """The runs that have another of the table's metrics, as a table of it."""
    return grid.take(np.isfinite(grid.column(name))).of_metric(name)


def _metric(
    grid: Table, name: str, loss: Predictor, budget: float, kappa: float | None, fitted: Predictor | None
) -> Estimate:
    """A column's value at N* of the loss."""
    own = ask(of_metric(grid, name), budget, kappa, fitted)
    if own.whole is None:
        why = own.refused.message if own.refused else ""
        raise UserError(f"{grid.where}: there is no law of {name}: {why}", status=3)
    return own.whole.at_size(budget, loss.optimum(budget).n_params.value).loss


def _counted(grid: Table, column: str, budget: float, kappa: float | None) -> Counting:
    counted = counted_by(grid, column)
    refuse_units(counted, kappa)
    made = predictor(counted, kappa=kappa)
    best, exponents = made.optimum(budget), [made.exponent(name, budget) for name in ("model", "data")]
    return Counting(column, best.n_params, best.n_tokens, best.loss, *exponents)
