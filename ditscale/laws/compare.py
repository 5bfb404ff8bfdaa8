"""`compare`: two or more designs or data sets at one budget, judged by what extrapolates: loss and equal-loss FLOPs.

Exponents are shown with intervals but decide little: of 60 simulated studies with 84 runs a design and 0.3 % noise
(`synthetic.two_designs`, model exponents 0.568 and 0.54), the model exponents differed significantly in 53 %, the
losses predicted at 1.5e21 FLOPs in 77 %.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..units import compact, number
from .checks.runs import check_rehearsal, refuse_units
from .estimates import Estimate, estimate
from .findings import Finding, finding
from .minima.approach2 import Approach2, fit_approach2
from .result import Result
from .surface.approach3 import Approach3, fit_approach3
from .surface.surface import law_with_floor
from .table import Table

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
    """One of the paper's readings of exponents (arXiv 2410.08184, section 5).

    name: "model" (a more efficient model has the smaller model and the larger data exponent), "data" (better data, the
    opposite) or "pipeline" (a better one has the smaller loss exponent). favours: the table that the estimates point
    to, None when they point nowhere; significant: whether every exponent it needs differs significantly; p: the
    largest.
    """

    name: str
    favours: str | None
    significant: bool
    p: float | None


@dataclass(frozen=True)
class Pair(Result):
    """`b` against `a`.

    law: "surface" or "power_law" (of the minima), which gives the loss at the target. exponents_from: "minima" or,
    where a table has none, "surface". *_exponent_difference: b minus a, and *_exponent_p. loss_ratio: predicted loss of
    b / a at the target, and loss_p. flop_multiplier: FLOPs with which b reaches a's loss at the target, as a share of
    the target; None: b never reaches it; an end that is None is open. p: see RULE; None without a bootstrap. sentence:
    what all this says.
    """

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


@dataclass(frozen=True)
class Comparison(Result):
    """Fits of every table, each pair in the order given, at target_budget_flops. losses and exponents are each table's
    own; ranking: the names from the lowest predicted loss, None when not all have a law of one kind.
    """

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

    def summary(self) -> str:
        from .text import columns, interval

        head = [f"{name} exponent" for name in EXPONENTS] + [self.metric]
        rows = [["", *itertools.chain.from_iterable((name, "95 %") for name in head)]]
        for name, exponents in self.exponents.items():
            cells = ["refused", ""] * 3 if exponents is None else [c for e in exponents.values() for c in interval(e)]
            loss = self.losses[name]
            rows.append([name, *cells, *(["refused", ""] if loss is None else interval(loss))])
        out = [f"Compared at {compact(self.target_budget_flops)} FLOPs", *columns(rows), ""]
        out += [p.sentence for p in self.pairs]
        out += [self.ranking_sentence] if self.ranking_sentence else []
        return "\n".join([*out, *(f"  {f.severity}: {f.code}: {f.message}" for f in self.findings), "", RULE])


@dataclass(frozen=True)
class _Fit:
    """One table's laws, and from them points with draws: (value, draws (R, ...) or None)."""

    two: Approach2
    three: Approach3

    def gives(self, law: str) -> bool:
        return self.three.ok if law == "surface" else self.two.ok and self.two.loss is not None

    def curve(self, law: str):
        """(E, log k, exponent) of L*(C) = E + k C^exponent: the point (3,) and its draws (R, 3)."""
        if law == "surface":
            kappa, draws = self.three.surface.kappa, self.three.draws
            point = np.array(law_with_floor(self.three.surface.parameters, kappa))
            return point, None if draws is None else np.stack(law_with_floor(draws, kappa), axis=-1)
        point = np.array([0.0, math.log(self.two.loss.coefficient), self.two.loss.exponent])
        draws = self.two.draws("loss")
        return point, None if draws is None else np.column_stack([np.zeros(len(draws)), draws])

    def exponent(self, name: str, source: str):
        """The model, data or loss exponent, of the minima's power laws or as the surface implies it."""
        if source == "minima":
            draws = self.two.draws(name)
            return self.two.laws[name].exponent, None if draws is None else draws[:, 1]
        of = {
            "model": lambda s: s[..., 4] / (s[..., 3] + s[..., 4]),
            "data": lambda s: s[..., 3] / (s[..., 3] + s[..., 4]),
            "loss": lambda s: -s[..., 3] * s[..., 4] / (s[..., 3] + s[..., 4]),
        }[name]
        draws = self.three.draws
        return float(of(self.three.surface.parameters)), None if draws is None else of(draws)


def compare(
    tables: dict[str, Table], target, *, objective: str = "huber", bootstrap: int = 1000, seed: int = 0
) -> Comparison:
    """Compare tables {name: Table} at a target budget in FLOPs.

    objective: of the surface fits (see `fit`); bootstrap: replicates behind the intervals and p-values, 0 for neither.
    Raises UserError on fewer than 2 tables, and on tables read for different metrics.
    """
    if len(tables) < 2:
        raise UserError("compare needs two or more tables, each with a name of its own")
    metrics = {name: table.metric for name, table in tables.items()}
    if len(set(metrics.values())) > 1:
        shown = ", ".join(f"{name} {metric}" for name, metric in metrics.items())
        raise UserError(f"compare: the tables were read for different metrics ({shown}); read the same one")
    rehearsed = [name for name, table in tables.items() if table.rehearsal]
    if 0 < len(rehearsed) < len(tables):
        raise UserError(
            f"compare: {', '.join(rehearsed)} was rehearsed, not trained, so it compares with nothing trained"
        )
    budget = number(target, "target", above=0)
    fits, grids = {}, {name: table.grid() for name, table in tables.items()}
    for k, (name, grid) in enumerate(grids.items()):
        if not len(grid):
            raise UserError(f"{name}: every run is a probe; a comparison needs grid runs")
        refuse_units(grid)
        # A seed per table: the same draws for both would correlate errors that are independent.
        own = seed * 1000 + k
        fits[name] = _Fit(
            fit_approach2(grid, bootstrap=bootstrap, seed=own),
            fit_approach3(grid, objective, bootstrap=bootstrap, seed=own),
        )
    metric = next(iter(metrics.values()))
    pairs = tuple(_pair(a, b, fits, budget, metric) for a, b in itertools.combinations(tables, 2))
    ranking, sentence = _rank(fits, pairs, budget) if len(tables) > 2 else (None, "")
    return Comparison(
        budget,
        metric,
        {name: _exponents(f) for name, f in fits.items()},
        {name: _loss(f, budget) for name, f in fits.items()},
        pairs,
        ranking,
        sentence,
        tuple(check_rehearsal(next(iter(tables.values()))) + _uneven(grids, budget)),
    )


# ------------------------------------------------------------------------------------------------------------- numbers


def two_sided_p(draws, none: float = 0.0) -> float | None:
    """The p-value of `RULE` for draws (R,) of a difference; `none` is the value that means no difference."""
    if draws is None:
        return None
    draws = draws[~np.isnan(draws)]
    if len(draws) < 40:
        return None
    rarer = min(np.sum(draws <= none), np.sum(draws >= none))
    return float(min(1.0, 2 * (1 + rarer) / (len(draws) + 1)))


def _source(*fits: _Fit) -> str | None:
    if all(f.two.ok and f.two.loss is not None for f in fits):
        return "minima"
    return "surface" if all(f.three.ok for f in fits) else None


def _exponents(f: _Fit) -> dict[str, Estimate] | None:
    source = _source(f)
    return source and {f"{n}_exponent": estimate(*f.exponent(n, source)) for n in EXPONENTS}


def _loss_at(curve: np.ndarray, budget: float):
    return curve[..., 0] + np.exp(curve[..., 1] + curve[..., 2] * math.log(budget))


def _loss(f: _Fit, budget: float) -> Estimate | None:
    law = next((law for law in ("surface", "power_law") if f.gives(law)), None)
    if law is None:
        return None
    point, draws = f.curve(law)
    return estimate(_loss_at(point, budget), None if draws is None else _loss_at(draws, budget))


def _multiplier(a: np.ndarray, b: np.ndarray, budget: float) -> np.ndarray:
    """FLOPs with which b reaches a's loss at `budget`, over `budget`; infinite where b's floor lies above that loss."""
    log_c = math.log(budget)
    goal = _loss_at(a, budget) - b[..., 0]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(goal > 0, np.exp((np.log(np.maximum(goal, 1e-300)) - b[..., 1]) / b[..., 2] - log_c), np.inf)


def _pair(a: str, b: str, fits: dict[str, _Fit], budget: float, metric: str) -> Pair:
    one, other = fits[a], fits[b]
    source = _source(one, other)
    differences, ps = {}, {}
    for name in EXPONENTS:
        differences[name], ps[name] = None, None
        if source:
            (value_a, draws_a), (value_b, draws_b) = one.exponent(name, source), other.exponent(name, source)
            draws = None if draws_a is None or draws_b is None else draws_b - draws_a
            differences[name], ps[name] = estimate(value_b - value_a, draws), two_sided_p(draws)
    law = next((law for law in ("surface", "power_law") if one.gives(law) and other.gives(law)), None)
    ratio = p = multiplier = None
    if law:
        (point_a, draws_a), (point_b, draws_b) = one.curve(law), other.curve(law)
        have = draws_a is not None and draws_b is not None
        drawn = _loss_at(draws_b, budget) / _loss_at(draws_a, budget) if have else None
        ratio, p = estimate(_loss_at(point_b, budget) / _loss_at(point_a, budget), drawn), two_sided_p(drawn, 1.0)
        value = float(_multiplier(point_a, point_b, budget))
        if math.isfinite(value):
            multiplier = estimate(value, _multiplier(draws_a, draws_b, budget) if have else None)
    criteria = _criteria(a, b, differences, ps)
    parts = [_loss_sentence(a, b, budget, law, metric, ratio, p, multiplier)]
    if source:
        better = None if ratio is None else b if ratio.value < 1 else a
        parts.append(_criteria_sentence(differences, ps, criteria, source, better))
    spread = {f"{n}_exponent_{what}": of[n] for n in EXPONENTS for what, of in (("difference", differences), ("p", ps))}
    return Pair(
        a=a, b=b, law=law, exponents_from=source, **spread, loss_ratio=ratio, loss_p=p, flop_multiplier=multiplier,
        criteria=criteria, sentence=" ".join(parts),
    )  # fmt: skip


def _criteria(a: str, b: str, differences: dict, ps: dict) -> tuple[Criterion, ...]:
    if differences["model"] is None:
        return ()

    def criterion(name, *needs):
        """needs: (exponent, sign of b minus a that favours b)."""
        points = {float(np.sign(sign * differences[n].value)) for n, sign in needs}
        favours = b if points == {1.0} else a if points == {-1.0} else None
        known = [ps[n] for n, _ in needs]
        p = None if None in known else max(known)
        return Criterion(name, favours, favours is not None and p is not None and p < SIGNIFICANT, p)

    return (
        criterion("model", ("model", -1), ("data", +1)),
        criterion("data", ("model", +1), ("data", -1)),
        criterion("pipeline", ("loss", -1)),
    )


def _rank(fits: dict[str, _Fit], pairs: tuple[Pair, ...], budget: float):
    """(names from the lowest loss, the sentence), by one law for all; (None, why not) where there is none."""
    law = next((law for law in ("surface", "power_law") if all(f.gives(law) for f in fits.values())), None)
    if law is None:
        lost = [n for n, f in fits.items() if not f.gives("surface") and not f.gives("power_law")]
        return None, f"No ranking: {', '.join(lost) or 'the tables'} gave no law that all share."
    losses = {name: float(_loss_at(f.curve(law)[0], budget)) for name, f in fits.items()}
    order = tuple(sorted(losses, key=losses.get))
    adjusted = _holm({frozenset((p.a, p.b)): p.loss_p for p in pairs})
    text = f"From the lowest loss at {compact(budget)} FLOPs: {order[0]} ({losses[order[0]]:.4g})"
    for better, worse in itertools.pairwise(order):
        p = adjusted[frozenset((better, worse))]
        says = "untested" if p is None else f"{'behind' if p < SIGNIFICANT else 'not distinguished'}, p = {p:.2g}"
        text += f", {worse} ({losses[worse]:.4g}; {says})"
    corrected = "" if None in adjusted.values() else f" These p are corrected for {len(pairs)} comparisons (Holm)."
    return order, f"{text}.{corrected}"


def _holm(ps: dict) -> dict:
    """Holm's step-down correction (1979): ascending p times the number of hypotheses left, never falling."""
    if None in ps.values():
        return dict.fromkeys(ps)
    out, least = {}, 0.0
    for k, key in enumerate(sorted(ps, key=ps.get)):
        least = max(least, min(1.0, (len(ps) - k) * ps[key]))
        out[key] = least
    return out


def _uneven(grids: dict[str, Table], budget: float) -> list[Finding]:
    """Findings on tables that are hard to compare: far targets, unlike ranges of budgets, unlike counting of FLOPs."""
    findings = []
    largest = {name: float(grid.budget_flops.max()) for name, grid in grids.items()}
    for name, top in largest.items():
        if budget > 10 * top:
            beyond = f"{compact(budget / top)}x beyond the largest budget of {name}, {compact(top)}"
            text = f"{compact(budget)} FLOPs lie {beyond}"
            findings.append(finding("extrapolation", text))
    far, near = min(largest, key=largest.get), max(largest, key=largest.get)
    if largest[near] > UNEVEN * largest[far]:
        text = (
            f"{far} ends at {compact(largest[far])} FLOPs and {near} at {compact(largest[near])}: the loss of {far} is "
            f"extrapolated {compact(largest[near] / largest[far])}x further, and a law that bends would count against "
            "one only"
        )
        findings.append(finding("extrapolation", text, severity="warning"))
    kappa = {name: grid.kappa() for name, grid in grids.items()}
    low, high = min(kappa, key=kappa.get), max(kappa, key=kappa.get)
    if kappa[high] > 1.2 * kappa[low]:
        text = (
            f"C / (N D) is {compact(kappa[low])} in {low} and {compact(kappa[high])} in {high}; equal FLOPs mean "
            "something only if both count N, D and C alike"
        )
        findings.append(finding("units_mixed", text))
    return findings


# ----------------------------------------------------------------------------------------------------------- sentences


def _loss_sentence(a, b, budget, law, metric, ratio, p, multiplier) -> str:
    """Every word follows from a number: 'better' only where p is below 0.05."""
    if law is None:
        return f"{a} and {b} cannot be compared: no law is given for both."
    at = f"at {compact(budget)} FLOPs by the {law.replace('_', ' ')}"
    percent = 100 * (ratio.value - 1)
    shown = f"{percent:+.2g} %"
    if ratio.low is not None and ratio.high is not None:
        shown += f", 95 % {100 * (ratio.low - 1):+.2g} to {100 * (ratio.high - 1):+.2g} %"
    shown += "; no interval" if p is None else f", p = {p:.2g}"
    if p is not None and p < SIGNIFICANT:
        text = f"{b} is {'better' if percent < 0 else 'worse'} than {a} {at}: its {metric} differs by {shown}"
    else:
        points = (
            f", which points towards {b if percent < 0 else a}, not significant" if p is not None and percent else ""
        )
        text = f"{a} and {b} are not distinguished {at}: the {metric} of {b} differs by {shown}{points}"
    if multiplier is None:
        return f"{text}; {b} reaches that {metric} of {a} at no budget."
    text += f"; {b} reaches the same loss with {_times(multiplier.value)}x the FLOPs"
    if p is not None:
        low = "no lower bound" if multiplier.low is None else _times(multiplier.low)
        high = "no upper bound" if multiplier.high is None else _times(multiplier.high)
        text += f", 95 % {low} to {high}"
    return text + "."


def _times(x: float) -> str:
    return f"{x:.2f}" if 0.1 <= x < 100 else compact(x)


def _criteria_sentence(differences, ps, criteria, source, better) -> str:
    """better: the table with the lower predicted loss, which an exponent may contradict but not outvote."""
    model, data, pipeline = criteria
    where = "" if source == "minima" else ", as the surfaces imply them"
    shown = "; ".join(f"{n} {_show(differences[n], ps[n])}" for n in ("model", "data"))
    if model.favours is None:
        text = f"The model and data exponents{where} point to neither ({shown})"
    else:
        # One difference has two readings, as either the model or the data is what differs.
        reading = (
            f"{model.favours} has the smaller model and larger data exponent{where}: of two designs the mark of a more "
            f"efficient model, while of two data sets {data.favours} has the mark of better data"
        )
        if model.significant:
            text = f"{reading} ({shown})"
        else:
            text = (
                f"Model and data exponents do not differ significantly ({shown}); the estimates point towards this, "
                f"not significant: {reading}"
            )
    shown = _show(differences["loss"], ps["loss"])
    if pipeline.significant:
        last = f"{pipeline.favours} has the smaller loss exponent, the mark of a better pipeline ({shown})"
    else:
        points = f"; points towards {pipeline.favours}, not significant" if pipeline.favours else ""
        last = f"The loss exponents do not differ significantly ({shown}){points}"
    if pipeline.favours and better and pipeline.favours != better:
        last += ", against the predicted loss, which decides"
    return f"{text}. {last}."


def _show(e: Estimate, p: float | None) -> str:
    text = f"difference {e.value:+.3g}"
    if e.low is not None and e.high is not None:
        text += f", 95 % {e.low:+.3g} to {e.high:+.3g}"
    return text if p is None else f"{text}, p = {p:.2g}"
