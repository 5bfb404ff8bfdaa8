"""`compare`: two or more designs or data sets at one budget, by what extrapolates: loss and equal-loss FLOPs.

Exponents decide little: of 60 simulated studies with 84 runs a design and 0.3 % noise (`tools/bench/acceptance.py`),
model exponents of 0.568 and 0.54 differed significantly in 53 %, the losses predicted at 1.5e21 FLOPs in 77 %."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from ..errors import UserError
from ..units import compact, number
from .checks.runs import check_rehearsal, refuse_units
from .estimates import Estimate, estimate
from .findings import Finding, finding, listed
from .minima.approach2 import Approach2, fit_approach2
from .minima.powerlaw import law_at
from .notebook import Shown
from .read import Source, read_table
from .result import Result
from .surface.approach3 import Approach3, fit_approach3
from .surface.surface import law_with_floor
from .table import Table
from .text import cells, columns, ends

SIGNIFICANT = 0.05
EXPONENTS = ("model", "data", "loss")
# Largest budgets further apart than this: one table's prediction rests on much more extrapolation than the other's.
UNEVEN = 3.0
RULE = (
    "p is two-sided, from the bootstrap: draw r of one table is paired with draw r of the other (they are "
    "independent), and with R pairs p = 2 (1 + k) / (R + 1), where k pairs lie on the rarer side of no difference; the "
    "smallest is 2 / (R + 1). Below 0.05 a difference is called significant."
)


@dataclass(frozen=True)
class Criterion(Result):
    """One of the paper's readings of exponents (arXiv 2410.08184, section 5). name: "model" (a more efficient model has
    the smaller model and the larger data exponent), "data" (better data, the opposite) or "pipeline" (a better one has
    the smaller loss exponent). favours: the table that the estimates point to, None when they point nowhere;
    significant: whether every exponent it needs differs significantly; p: the largest."""

    name: str
    favours: str | None
    significant: bool
    p: float | None


@dataclass(frozen=True)
class Pair(Result):
    """`b` against `a`. law: "surface" or "power_law" (of the minima), which gives the loss at the target.
    exponents_from: "minima" or, where a table has none, "surface". *_exponent_difference: b minus a, and *_exponent_p.
    loss_ratio: predicted loss of b / a at the target, and loss_p. flop_multiplier: FLOPs with which b reaches a's loss
    at the target, as a share of the target; None: b never reaches it; an end that is None is open. p: see RULE; None
    without a bootstrap. sentence: what all this says."""

    a: str
    b: str
    law: str | None
    exponents_from: str | None
    model_exponent_difference: Estimate | None
    model_exponent_p: float | None
    data_exponent_difference: Estimate | None
    data_exponent_p: float | None
    loss_exponent_difference: Estimate | None
    loss_exponent_p: float | None
    loss_ratio: Estimate | None
    loss_p: float | None
    flop_multiplier: Estimate | None
    criteria: tuple[Criterion, ...]
    sentence: str


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Fits of every table, each pair in the order given, at target_budget_flops. losses and exponents are each table's
    own; ranking: the names from the lowest predicted loss, None when not all have a law of one kind."""

    LAYOUT = 1
    COMPUTED = ("rule",)

    target_budget_flops: float
    metric: str
    exponents: dict[str, dict[str, Estimate] | None]
    losses: dict[str, Estimate | None]
    pairs: tuple[Pair, ...]
    ranking: tuple[str, ...] | None
    ranking_sentence: str
    findings: tuple[Finding, ...]

    rule = RULE

    def heading(self) -> str:
        return f"{self.metric} at {compact(self.target_budget_flops)} FLOPs of {len(self.losses)} tables"

    def main(self) -> dict[str, Estimate]:
        return {name: e for name, e in self.losses.items() if e is not None}

    def summary(self) -> str:
        rows = [["", *(cell for name in EXPONENTS for cell in (f"{name} exponent", "95 %")), self.metric, "95 %"]]
        for name, exponents in self.exponents.items():
            shown = ["refused", ""] * 3 if exponents is None else [c for e in exponents.values() for c in cells(e)]
            loss = self.losses[name]
            rows.append([name, *shown, *(["refused", ""] if loss is None else cells(loss))])
        said = [p.sentence for p in self.pairs] + [self.ranking_sentence] * bool(self.ranking_sentence)
        head = f"Compared at {compact(self.target_budget_flops)} FLOPs"
        return "\n".join([head, *columns(rows), "", *said, *listed(self.findings), "", RULE])


class _Drawn(NamedTuple):
    """A number, or an array of them, with its draws (R, ...); None without a bootstrap."""

    value: Any
    draws: np.ndarray | None

    def estimate(self) -> Estimate:
        return estimate(self.value, self.draws)

    def test(self, none: float = 0.0) -> "_Test":
        return _Test(self.estimate(), two_sided_p(self.draws, none))


class _Test(NamedTuple):
    """A difference, or a ratio, and the p-value of there being none."""

    estimate: Estimate
    p: float | None


def _of(make: Callable[..., Any], *parts: _Drawn) -> _Drawn:
    """make(*values), and the same of every draw."""
    draws = [part.draws for part in parts if part.draws is not None]
    return _Drawn(make(*(part.value for part in parts)), make(*draws) if len(draws) == len(parts) else None)


class _Fit(NamedTuple):
    """One table's laws, and from them numbers with draws."""

    two: Approach2
    three: Approach3

    @property
    def surface(self) -> _Drawn:
        return _Drawn(self.three.surface.parameters, self.three.draws)

    def gives(self, law: str) -> bool:
        return self.three.ok if law == "surface" else self.two.loss is not None

    def curve(self, law: str) -> _Drawn:
        """(E, log k, exponent) (3,) of L*(C) = E + k C^exponent."""
        if law == "surface":
            kappa = self.three.surface.kappa
            return _of(lambda p: np.stack(law_with_floor(p, kappa), axis=-1), self.surface)
        pure, draws = self.two.laws["loss"], self.two.draws("loss")
        drawn = None if draws is None else np.column_stack([np.zeros(len(draws)), draws])
        return _Drawn(np.array([0.0, math.log(pure.coefficient), pure.exponent]), drawn)

    def exponent(self, name: str, source: str) -> _Drawn:
        """The model, data or loss exponent, of the minima's power laws or as the surface implies it."""
        if source == "minima":
            draws = self.two.draws(name)
            return _Drawn(self.two.laws[name].exponent, None if draws is None else draws[:, 1])

        def implied(s: np.ndarray) -> np.ndarray:
            alpha, beta = s[..., 3], s[..., 4]
            return {"model": beta, "data": alpha, "loss": -alpha * beta}[name] / (alpha + beta)

        return _of(implied, self.surface)

    def exponents(self) -> dict[str, Estimate] | None:
        source = _source(self)
        return {f"{n}_exponent": self.exponent(n, source).estimate() for n in EXPONENTS} if source else None

    def loss(self, budget: float) -> Estimate | None:
        law = _law_of(self)
        return _of(lambda curve: _loss_at(curve, budget), self.curve(law)).estimate() if law else None


def compare(
    tables: Mapping[str, Source], target: float | str, *, objective: str = "huber", bootstrap: int = 1000, seed: int = 0
) -> Comparison:
    """Compare tables {name: whatever `read_table` reads} at a target budget in FLOPs.

    objective: of the surface fits (see `fit`); bootstrap: replicates behind the intervals and p-values, 0 for neither.
    Raises UserError on fewer than 2 tables, and on tables read for different metrics.

        ds.compare({"cross": "cross.csv", "in-context": "in.csv"}, "1e21").summary()
    """
    if not isinstance(tables, Mapping) or len(tables) < 2:
        raise UserError("compare needs two or more tables, each with a name of its own")
    read = {name: read_table(source) for name, source in tables.items()}
    first = next(iter(read.values()))
    if any(table.metric != first.metric for table in read.values()):
        shown = ", ".join(f"{name} {table.metric}" for name, table in read.items())
        raise UserError(f"compare: the tables were read for different metrics ({shown}); read the same one")
    rehearsed = [name for name, table in read.items() if table.rehearsal]
    if 0 < len(rehearsed) < len(read):
        names = ", ".join(rehearsed)
        raise UserError(f"compare: {names} was rehearsed, not trained, so it compares with nothing trained")
    budget = number(target, "target", above=0)
    fits, grids = {}, {name: table.grid() for name, table in read.items()}
    for k, (name, grid) in enumerate(grids.items()):
        if not len(grid):
            raise UserError(f"{name}: every run is a probe; a comparison needs grid runs")
        refuse_units(grid)
        # A seed per table: the same draws for both would correlate errors that are independent.
        own = seed * 1000 + k
        two = fit_approach2(grid, bootstrap=bootstrap, seed=own)
        fits[name] = _Fit(two, fit_approach3(grid, objective, bootstrap, own))
    pairs = tuple(_pair(a, b, fits, budget, first.metric) for a, b in itertools.combinations(read, 2))
    ranking, sentence = _rank(fits, pairs, budget) if len(read) > 2 else (None, "")
    exponents, losses = {n: f.exponents() for n, f in fits.items()}, {n: f.loss(budget) for n, f in fits.items()}
    findings = (*check_rehearsal(first), *_uneven(grids, budget))
    return Comparison(budget, first.metric, exponents, losses, pairs, ranking, sentence, findings)


def two_sided_p(draws: np.ndarray | None, none: float = 0.0) -> float | None:
    """The p-value of `RULE` for draws (R,) of a difference; `none` is the value that means no difference."""
    if draws is None:
        return None
    draws = draws[~np.isnan(draws)]
    if len(draws) < 40:
        return None
    rarer = min(np.sum(draws <= none), np.sum(draws >= none))
    return float(min(1.0, 2 * (1 + rarer) / (len(draws) + 1)))


def _law_of(*fits: _Fit) -> str | None:
    """The law that all give: the surface, else the pure power law."""
    return next((law for law in ("surface", "power_law") if all(f.gives(law) for f in fits)), None)


def _source(*fits: _Fit) -> str | None:
    if all(f.two.loss is not None for f in fits):
        return "minima"
    return "surface" if all(f.three.ok for f in fits) else None


_loss_at = partial(law_at, "power_law_with_floor")


def _multiplier(a: np.ndarray, b: np.ndarray, budget: float) -> np.ndarray:
    """FLOPs with which b reaches a's loss at `budget`, over `budget`; infinite where b's floor lies above that loss."""
    goal = _loss_at(a, budget) - b[..., 0]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        log_c = (np.log(np.maximum(goal, 1e-300)) - b[..., 1]) / b[..., 2]
        return np.where(goal > 0, np.exp(log_c - math.log(budget)), np.inf)


def _pair(a: str, b: str, fits: dict[str, _Fit], budget: float, metric: str) -> Pair:
    one, other = fits[a], fits[b]
    source, law = _source(one, other), _law_of(one, other)
    tests: dict[str, _Test] = {}
    if source:
        differences = {n: (one.exponent(n, source), other.exponent(n, source)) for n in EXPONENTS}
        tests = {name: _of(lambda x, y: y - x, *both).test() for name, both in differences.items()}
    ratio = multiplier = None
    if law:
        curves = one.curve(law), other.curve(law)
        ratio = _of(lambda x, y: _loss_at(y, budget) / _loss_at(x, budget), *curves).test(1.0)
        drawn = _of(lambda x, y: _multiplier(x, y, budget), *curves)
        multiplier = drawn.estimate() if math.isfinite(drawn.value) else None
    criteria = _criteria(a, b, tests) if tests else ()
    parts = [f"{a} and {b} cannot be compared: no law is given for both."]
    if law and ratio:
        at = f"at {compact(budget)} FLOPs by the {law.replace('_', ' ')}"
        parts = [_loss_sentence(a, b, at, metric, ratio, multiplier)]
    if source:
        better = None if ratio is None else b if ratio.estimate.value < 1 else a
        parts.append(_criteria_sentence(tests, criteria, source, better))
    model, data, loss = (tests.get(name) for name in EXPONENTS)
    return Pair(
        a=a, b=b, law=law, exponents_from=source,
        model_exponent_difference=model and model.estimate, model_exponent_p=model and model.p,
        data_exponent_difference=data and data.estimate, data_exponent_p=data and data.p,
        loss_exponent_difference=loss and loss.estimate, loss_exponent_p=loss and loss.p,
        loss_ratio=ratio and ratio.estimate, loss_p=ratio and ratio.p, flop_multiplier=multiplier,
        criteria=criteria, sentence=" ".join(parts),
    )  # fmt: skip


def _criteria(a: str, b: str, tests: dict[str, _Test]) -> tuple[Criterion, ...]:
    def criterion(name: str, **needs: int) -> Criterion:
        """needs: the sign of b minus a that favours b, by exponent."""
        points = {float(np.sign(sign * tests[n].estimate.value)) for n, sign in needs.items()}
        favours = b if points == {1.0} else a if points == {-1.0} else None
        known = [p for n in needs if (p := tests[n].p) is not None]
        p = max(known) if len(known) == len(needs) else None
        return Criterion(name, favours, favours is not None and p is not None and p < SIGNIFICANT, p)

    return criterion("model", model=-1, data=+1), criterion("data", model=+1, data=-1), criterion("pipeline", loss=-1)


def _rank(fits: dict[str, _Fit], pairs: Sequence[Pair], budget: float) -> tuple[tuple[str, ...] | None, str]:
    """(names from the lowest loss, the sentence), by one law for all; (None, why not) where there is none."""
    law = _law_of(*fits.values())
    if law is None:
        lost = [n for n, f in fits.items() if not f.gives("surface") and not f.gives("power_law")]
        return None, f"No ranking: {', '.join(lost) or 'the tables'} gave no law that all share."
    losses = {name: float(_loss_at(f.curve(law).value, budget)) for name, f in fits.items()}
    order = tuple(sorted(losses, key=losses.__getitem__))
    adjusted = _holm({frozenset((p.a, p.b)): p.loss_p for p in pairs})
    text = f"From the lowest loss at {compact(budget)} FLOPs: {order[0]} ({losses[order[0]]:.4g})"
    for better, worse in itertools.pairwise(order):
        p = adjusted[frozenset((better, worse))]
        says = "untested" if p is None else f"{'behind' if p < SIGNIFICANT else 'not distinguished'}, p = {p:.2g}"
        text += f", {worse} ({losses[worse]:.4g}; {says})"
    corrected = "" if None in adjusted.values() else f" These p are corrected for {len(pairs)} comparisons (Holm)."
    return order, f"{text}.{corrected}"


def _holm(ps: Mapping[Any, float | None]) -> dict[Any, float | None]:
    """Holm's step-down correction (1979): ascending p times the number of hypotheses left, never falling."""
    known = {key: p for key, p in ps.items() if p is not None}
    if len(known) < len(ps):
        return dict.fromkeys(ps)
    order = sorted(known, key=known.__getitem__)
    corrected = (min(1.0, (len(ps) - k) * known[key]) for k, key in enumerate(order))
    return dict(zip(order, itertools.accumulate(corrected, max), strict=True))


def _uneven(grids: dict[str, Table], budget: float) -> list[Finding]:
    """Findings on tables that are hard to compare: far targets, unlike ranges of budgets, unlike counting of FLOPs."""
    findings = []
    largest = {name: float(grid.budget_flops.max()) for name, grid in grids.items()}
    for name, top in largest.items():
        if budget > 10 * top:
            beyond = f"{compact(budget / top)}x beyond the largest budget of {name}, {compact(top)}"
            findings.append(finding("extrapolation", f"{compact(budget)} FLOPs lie {beyond}"))
    far, near = min(largest, key=largest.__getitem__), max(largest, key=largest.__getitem__)
    if largest[near] > UNEVEN * largest[far]:
        further = f"{compact(largest[near] / largest[far])}x further, and a law that bends would count against one only"
        text = f"{far} ends at {compact(largest[far])} FLOPs and {near} at {compact(largest[near])}"
        text = f"{text}: the loss of {far} is extrapolated {further}"
        findings.append(finding("extrapolation", text, severity="warning"))
    kappa = {name: grid.kappa() for name, grid in grids.items()}
    low, high = min(kappa, key=kappa.__getitem__), max(kappa, key=kappa.__getitem__)
    if kappa[high] > 1.2 * kappa[low]:
        text = f"C / (N D) is {compact(kappa[low])} in {low} and {compact(kappa[high])} in {high}"
        alike = "equal FLOPs mean something only if both count N, D and C alike"
        findings.append(finding("units_mixed", f"{text}; {alike}"))
    return findings


def _tested(test: _Test, form: Callable[[float], str]) -> str:
    """'+2 %, 95 % +1 % to +3 %, p = 0.01', as far as it is known."""
    e = test.estimate
    text = form(e.value) if None in (e.low, e.high) else f"{form(e.value)}, 95 % {ends(e, form, ' to ')}"
    return text if test.p is None else f"{text}, p = {test.p:.2g}"


def _loss_sentence(a: str, b: str, at: str, metric: str, ratio: _Test, multiplier: Estimate | None) -> str:
    """Every word follows from a number: 'better' only where p is below 0.05."""
    percent, p = 100 * (ratio.estimate.value - 1), ratio.p
    shown = _tested(ratio, lambda x: f"{100 * (x - 1):+.2g} %") + ("; no interval" if p is None else "")
    if p is not None and p < SIGNIFICANT:
        text = f"{b} is {'better' if percent < 0 else 'worse'} than {a} {at}: its {metric} differs by {shown}"
    else:
        text = f"{a} and {b} are not distinguished {at}: the {metric} of {b} differs by {shown}"
        if p is not None and percent:
            text += f", which points towards {b if percent < 0 else a}, not significant"
    if multiplier is None:
        return f"{text}; {b} reaches that {metric} of {a} at no budget."

    def times(x: float | None, unbounded: str = "") -> str:
        return unbounded if x is None else f"{x:.2f}" if 0.1 <= x < 100 else compact(x)

    low, high = times(multiplier.low, "no lower bound"), times(multiplier.high, "no upper bound")
    interval = "" if p is None else f", 95 % {low} to {high}"
    return f"{text}; {b} reaches the same loss with {times(multiplier.value)}x the FLOPs{interval}."


def _criteria_sentence(
    tests: dict[str, _Test], criteria: tuple[Criterion, ...], source: str, better: str | None
) -> str:
    """better: the table with the lower predicted loss, which an exponent may contradict but not outvote."""
    model, data, pipeline = criteria
    of = {name: f"difference {_tested(test, '{:+.3g}'.format)}" for name, test in tests.items()}
    where = "" if source == "minima" else ", as the surfaces imply them"
    both = f"model {of['model']}; data {of['data']}"
    # One difference has two readings, as either the model or the data is what differs.
    reading = (
        f"{model.favours} has the smaller model and larger data exponent{where}: of two designs the mark of a more "
        f"efficient model, while of two data sets {data.favours} has the mark of better data"
    )
    unclear = f"Model and data exponents do not differ significantly ({both}); the estimates point towards this, not"
    text = f"{reading} ({both})" if model.significant else f"{unclear} significant: {reading}"
    if model.favours is None:
        text = f"The model and data exponents{where} point to neither ({both})"
    if pipeline.significant:
        last = f"{pipeline.favours} has the smaller loss exponent, the mark of a better pipeline ({of['loss']})"
    else:
        points = f"; points towards {pipeline.favours}, not significant" if pipeline.favours else ""
        last = f"The loss exponents do not differ significantly ({of['loss']}){points}"
    if pipeline.favours and better and pipeline.favours != better:
        last += ", against the predicted loss, which decides"
    return f"{text}. {last}."
