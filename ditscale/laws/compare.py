"""`compare`: two or more designs or data sets at one budget, by what extrapolates: loss and equal-loss FLOPs, both as
`predictor` gives them.

Exponents are shown with intervals but decide little: designs whose exponents differ by 0.03 are told apart by their
losses at 250 times the largest budget long before they are by the exponents."""

import itertools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from ..errors import UserError
from ..result import Result
from ..tables.read import Source, read_table
from ..tables.table import Table
from ..units import compact, number
from .checks.runs import check_rehearsal
from .estimates import Estimate
from .findings import Finding, finding, listed
from .fit import fit
from .laws import Laws
from .notebook import Shown
from .predictor.predictor import Predictor, difference, multiplier
from .text import cells, columns, ends

SIGNIFICANT = 0.05
EXPONENTS = ("model", "data", "loss")
UNEVEN = 3.0  # Largest budgets further apart than this: one prediction rests on much more extrapolation.
FIRST = operator.itemgetter(0)
# Keys of `Table.recorded` that the tables must agree on for their losses to mean the same.
SAME = {"evaluation": "measured on different held-out data", "latents": "measured through different latents"}
SAMPLED = ("fid", "kid", "clip")  # metrics of samples compare whatever the loss was measured on
RULE = (
    "p is two-sided: twice the probability, under the two tables' independent predictions, that the difference has the "
    "other sign; the smallest is 1 / 400. Below 0.05 a difference is called significant."
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
    """`b` against `a`. law, exponents_from: "mixture", None where a table has no law. *_exponent_difference: b minus a,
    and *_exponent_p. loss_ratio: predicted loss of b / a at the target, and loss_p; of a metric of either sign None,
    and metric_difference: b minus a. flop_multiplier: FLOPs with which b reaches a's loss at the target, as a share of
    the target; None: b never reaches it; an end that is None is open. p: see RULE. sentence: what all this says."""

    a: str
    b: str
    sentence: str
    law: str | None = None
    exponents_from: str | None = None
    model_exponent_difference: Estimate | None = None
    model_exponent_p: float | None = None
    data_exponent_difference: Estimate | None = None
    data_exponent_p: float | None = None
    loss_exponent_difference: Estimate | None = None
    loss_exponent_p: float | None = None
    loss_ratio: Estimate | None = None
    metric_difference: Estimate | None = None
    loss_p: float | None = None
    flop_multiplier: Estimate | None = None
    criteria: tuple[Criterion, ...] = ()


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
        head = [f"{name} exponent" for name in EXPONENTS] + [self.metric]
        rows = [["", *itertools.chain.from_iterable((name, "95 %") for name in head)]]
        for name, exponents in self.exponents.items():
            known, none = exponents or {}, "refused" if exponents is None else "-"
            each = [cells(known[key]) if (key := f"{e}_exponent") in known else [none, ""] for e in EXPONENTS]
            shown = itertools.chain.from_iterable(each)
            loss = self.losses[name]
            rows.append([name, *shown, *(["refused", ""] if loss is None else cells(loss))])
        out = [f"Compared at {compact(self.target_budget_flops)} FLOPs", *columns(rows), ""]
        out += [p.sentence for p in self.pairs]
        out += [self.ranking_sentence] if self.ranking_sentence else []
        return "\n".join([*out, *listed(self.findings), "", RULE])


class _Test(NamedTuple):
    """A difference, or a ratio, and the p-value of there being none."""

    estimate: Estimate
    p: float


def compare(tables: Mapping[str, Source], target: float | str, *, bootstrap: int = 200, seed: int = 0) -> Comparison:
    """Compare tables {name: whatever `read_table` reads} at a target budget in FLOPs. Its findings are those of `fit`
    on each table, and of what the tables do not have in common.

    bootstrap, seed: of `fit`, whose findings they serve; the comparison draws nothing. Raises UserError on fewer than 2
    tables, and on tables read for different metrics.

        ds.compare({"cross": "cross.csv", "in-context": "in.csv"}, "1e21").summary()
    """
    if not isinstance(tables, Mapping) or len(tables) < 2:
        raise UserError("compare needs two or more tables, each with a name of its own")
    read = {name: read_table(source) for name, source in tables.items()}
    metrics = {name: table.metric for name, table in read.items()}
    if len(set(metrics.values())) > 1:
        shown = ", ".join(f"{name} {metric}" for name, metric in metrics.items())
        raise UserError(f"compare: the tables were read for different metrics ({shown}); read the same one")
    rehearsed = [name for name, table in read.items() if table.rehearsal]
    if 0 < len(rehearsed) < len(read):
        names = ", ".join(rehearsed)
        raise UserError(f"compare: {names} was rehearsed, not trained, so it compares with nothing trained")
    budget = number(target, "target", above=0)
    laws = {name: fit(table, bootstrap=bootstrap, seed=seed, targets=budget) for name, table in read.items()}
    fits = {name: _whole(made, budget) for name, made in laws.items()}
    own = (
        (name, f) for name, made in laws.items() for f in made.findings if f.code not in ("extrapolation", "rehearsal")
    )
    findings = [replace(f, message=f"{name}: {f.message}") for name, f in own]
    metric, grids = next(iter(metrics.values())), {name: table.grid() for name, table in read.items()}
    findings += check_rehearsal(next(iter(read.values()))) + _unlike(read, metric) + _uneven(grids, budget)
    pairs = tuple(_pair(a, b, fits, budget, metric) for a, b in itertools.combinations(read, 2))
    ranking, sentence = _rank(fits, pairs, budget) if len(read) > 2 else (None, "")
    exponents = {
        name: {f"{e}_exponent": made.exponent(e, budget) for e in made.exponents} if made else None
        for name, made in fits.items()
    }
    losses = {name: made.optimum(budget).loss if made else None for name, made in fits.items()}
    return Comparison(budget, metric, exponents, losses, pairs, ranking, sentence, tuple(findings))


def _whole(laws: Laws, budget: float) -> Predictor | None:
    """The predictor of a fit, where the runs determine both N* and L* at the budget."""
    said = next(iter(laws.predictions.values())).answer
    return laws.fits.predictor if laws.fits and said and said.loss and said.n_params else None


def _pair(a: str, b: str, fits: dict[str, Predictor | None], budget: float, metric: str) -> Pair:
    one, other = fits[a], fits[b]
    if one is None or other is None:
        lost = " and ".join(name for name in (a, b) if fits[name] is None)
        return Pair(a, b, f"{a} and {b} cannot be compared: the runs of {lost} do not determine a law.")
    slopes = {name: [made.slope(budget, name).spread_out() for made in (one, other)] for name in one.exponents}
    tests = {name: _Test(*difference(*both)) for name, both in slopes.items()}
    apart, log = _Test(*difference(one.comparable(budget), other.comparable(budget))), one.runs.log
    apart = apart._replace(estimate=apart.estimate.exp()) if log else apart
    better = b if apart.estimate.value < (1 if log else 0) else a
    apart = apart._replace(estimate=apart.estimate.negative()) if one.runs.sign < 0 else apart
    found, criteria = multiplier(one, other, budget), _criteria(a, b, tests)
    sentence = _loss_sentence(a, b, f"at {compact(budget)} FLOPs", metric, apart, better, log, found)
    differences: dict[str, Any] = {f"{name}_exponent_difference": test.estimate for name, test in tests.items()}
    differences |= {f"{name}_exponent_p": test.p for name, test in tests.items()}
    differences["loss_ratio" if log else "metric_difference"] = apart.estimate
    return Pair(
        a, b, f"{sentence} {_criteria_sentence(tests, criteria, better)}", "mixture", "mixture", loss_p=apart.p,
        flop_multiplier=found, criteria=criteria, **differences,
    )  # fmt: skip


def _criteria(a: str, b: str, tests: dict[str, _Test]) -> tuple[Criterion, ...]:
    def criterion(name: str, *needs: tuple[str, int]) -> Criterion:
        """needs: (exponent, sign of b minus a that favours b)."""
        points = {float(np.sign(sign * tests[n].estimate.value)) for n, sign in needs}
        favours = b if points == {1.0} else a if points == {-1.0} else None
        p = max(tests[n].p for n, _ in needs)
        return Criterion(name, favours, favours is not None and p < SIGNIFICANT, p)

    found = criterion("model", ("model", -1), ("data", +1)), criterion("data", ("model", +1), ("data", -1))
    return (*found, criterion("pipeline", ("loss", -1))) if "loss" in tests else found


def _rank(
    fits: dict[str, Predictor | None], pairs: Sequence[Pair], budget: float
) -> tuple[tuple[str, ...] | None, str]:
    """(names from the lowest loss, the sentence); (None, why not) where a table has no law."""
    losses = {name: made.optimum(budget).loss.value for name, made in fits.items() if made}
    if len(losses) < len(fits):
        return None, f"No ranking: {', '.join(name for name in fits if name not in losses)} gave no law."
    order = tuple(sorted(losses, key=losses.__getitem__))
    adjusted = _holm({frozenset((p.a, p.b)): p.loss_p for p in pairs if p.loss_p is not None})
    text = f"From the lowest loss at {compact(budget)} FLOPs: {order[0]} ({losses[order[0]]:.4g})"
    for better, worse in itertools.pairwise(order):
        p = adjusted[frozenset((better, worse))]
        says = f"{'behind' if p < SIGNIFICANT else 'not distinguished'}, p = {p:.2g}"
        text += f", {worse} ({losses[worse]:.4g}; {says})"
    return order, f"{text}. These p are corrected for {len(pairs)} comparisons (Holm)."


def _holm(ps: Mapping[Any, float]) -> dict[Any, float]:
    """Holm's step-down correction (1979): ascending p times the number of hypotheses left, never falling."""
    keys = sorted(ps, key=ps.__getitem__)
    steps = (min(1.0, (len(ps) - k) * ps[key]) for k, key in enumerate(keys))
    return dict(zip(keys, itertools.accumulate(steps, max), strict=True))


def _unlike(tables: dict[str, Table], metric: str) -> list[Finding]:
    """`unlike_losses`: where the tables say that their losses are not of one kind."""
    if any(word in metric.lower() for word in SAMPLED):
        return []
    findings = []
    for key, what in SAME.items():
        said = {name: dict(table.recorded).get(key) for name, table in tables.items()}
        if len(set(said.values()) - {None}) > 1:
            each = "; ".join(f"{name}: {value}" for name, value in said.items() if value)
            cure = "compare a metric on a common set (--metric loss_coco), or of samples (--metric fid)"
            findings.append(finding("unlike_losses", f"the losses were {what} ({each}) and do not compare; {cure}"))
    return findings


def _uneven(grids: dict[str, Table], budget: float) -> list[Finding]:
    """Findings on tables that are hard to compare: far targets, unlike ranges of budgets, unlike counting of FLOPs."""
    largest = [(float(grid.budget_flops.max()), name) for name, grid in grids.items()]
    findings = [
        finding("extrapolation", f"{compact(budget)} FLOPs lie {compact(budget / top)}x beyond the largest budget of "
                f"{name}, {compact(top)}")
        for top, name in largest
        if budget > 10 * top
    ]  # fmt: skip
    (least, far), (most, near) = min(largest, key=FIRST), max(largest, key=FIRST)
    if most > UNEVEN * least:
        text = f"{far} ends at {compact(least)} FLOPs and {near} at {compact(most)}: the loss of {far} is extrapolated"
        text += f" {compact(most / least)}x further, and a law that bends would count against one only"
        findings.append(finding("extrapolation", text, severity="warning"))
    kappa = [(grid.kappa(), name) for name, grid in grids.items()]
    (low, first), (high, other) = min(kappa, key=FIRST), max(kappa, key=FIRST)
    if high > 1.2 * low:
        text = f"C / (N D) is {compact(low)} in {first} and {compact(high)} in {other}; equal FLOPs mean something only"
        findings.append(finding("units_mixed", f"{text} if both count N, D and C alike"))
    return findings


def _tested(test: _Test, form: Callable[[float], str]) -> str:
    """'+2 %, 95 % +1 % to +3 %, p = 0.01'."""
    return f"{form(test.estimate.value)}, 95 % {ends(test.estimate, form, ' to ')}, p = {test.p:.2g}"


def _loss_sentence(
    a: str, b: str, at: str, metric: str, apart: _Test, better: str, relative: bool, multiplier: Estimate | None
) -> str:
    """Every word follows from a number: 'better' only where p is below 0.05."""
    shown = _tested(apart, lambda x: f"{100 * (x - 1):+.2g} %" if relative else f"{x:+.3g}")
    if apart.p < SIGNIFICANT:
        text = f"{b} is {'better' if better == b else 'worse'} than {a} {at}: its {metric} differs by {shown}"
    else:
        text = f"{a} and {b} are not distinguished {at}: the {metric} of {b} differs by {shown}"
        text += f", which points towards {better}, not significant"
    if multiplier is None:
        return f"{text}; {b} reaches that {metric} of {a} at no budget."
    sides = (("lower", multiplier.low), ("upper", multiplier.high))
    span = " to ".join(f"no {side} bound" if end is None else _times(end) for side, end in sides)
    return f"{text}; {b} reaches the same {metric} with {_times(multiplier.value)}x the FLOPs, 95 % {span}."


def _times(x: float) -> str:
    return f"{x:.2f}" if 0.1 <= x < 100 else compact(x)


def _criteria_sentence(tests: dict[str, _Test], criteria: tuple[Criterion, ...], better: str) -> str:
    """better: the table with the better prediction, which an exponent may contradict but not outvote."""
    model, data, *pipeline = criteria
    of = {name: f"difference {_tested(test, '{:+.3g}'.format)}" for name, test in tests.items()}
    both = f"model {of['model']}; data {of['data']}"
    # One difference has two readings, as either the model or the data is what differs.
    text = f"{model.favours} has the smaller model and larger data exponent: of two designs the mark of a more"
    text += f" efficient model, while of two data sets {data.favours} has the mark of better data"
    if model.favours is None:
        text = f"The model and data exponents point to neither ({both})"
    elif model.significant:
        text += f" ({both})"
    else:
        unlike = f"Model and data exponents do not differ significantly ({both})"
        text = f"{unlike}; the estimates point towards this, not significant: {text}"
    for found in pipeline:
        if found.significant:
            text += f". {found.favours} has the smaller loss exponent, the mark of a better pipeline ({of['loss']})"
        else:
            points = f"; points towards {found.favours}, not significant" if found.favours else ""
            text += f". The loss exponents do not differ significantly ({of['loss']}){points}"
        if found.favours and found.favours != better:
            text += ", against the predicted loss, which decides"
    return f"{text}."
