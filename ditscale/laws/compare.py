"""`compare`: designs or data sets at one budget, by what extrapolates: loss and equal-loss FLOPs.

Exponents are shown but decide little: designs whose exponents differ by 0.03 are told apart by their losses at 250
times the largest budget long before they are by the exponents."""

import itertools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable, NamedTuple

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
from .notebook import Shown
from .predictor.predictor import Predictor, difference, multiplier
from .text import cells, columns, ends

SIGNIFICANT, SUGGESTIVE = 0.05, 0.5  # p from which a difference is significant, or is said to point anywhere
EXPONENTS = ("model", "data", "loss")
UNEVEN = 3.0  # Largest budgets further apart than this: one prediction rests on much more extrapolation.
# Keys of `Table.recorded` that the tables must agree on for their losses to mean the same.
SAME = {"evaluation": "measured on different held-out data", "latents": "measured through different latents"}
SAMPLED = ("fid", "kid", "clip")  # metrics of samples compare whatever the loss was measured on
Names = tuple[str, ...] | None
RULE = (
    "p is two-sided: twice the probability, under the two tables' independent predictions, that the difference has the "
    "other sign; the smallest is 1 / 400. Below 0.05 a difference is called significant."
)


@dataclass(frozen=True)
class Criterion(Result):
    """A reading of exponents (arXiv 2410.08184, section 5). name: "model" (a better one has the smaller model and the
    larger data exponent), "data" (the opposite) or "pipeline" (the smaller loss exponent). favours: the table that the
    estimates point to, if any; significant: whether each exponent it needs differs significantly; p: the largest."""

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
    """Every table, and each pair in the order given, at target_budget_flops. losses, exponents: of each table, None
    without a law; ranking: the names from the lowest predicted loss, None when not all have a law."""

    LAYOUT = 1
    COMPUTED = ("rule",)

    target_budget_flops: float
    metric: str
    exponents: dict[str, dict[str, Estimate] | None]
    losses: dict[str, Estimate | None]
    pairs: tuple[Pair, ...]
    ranking: Names
    ranking_sentence: str
    findings: tuple[Finding, ...]

    rule = RULE

    def heading(self) -> str:
        return f"{self.metric} at {compact(self.target_budget_flops)} FLOPs of {len(self.losses)} tables"

    def main(self) -> dict[str, Estimate]:
        return {name: e for name, e in self.losses.items() if e is not None}

    def summary(self) -> str:
        flat = itertools.chain.from_iterable
        called = {"loss": self.metric if "loss" not in self.metric else "loss"}
        rows = [["", *flat((f"{called.get(e, e)} exponent", "95 %") for e in EXPONENTS), self.metric, "95 %"]]
        for name, exponents in self.exponents.items():
            known, none = ({}, "refused") if exponents is None else (exponents, "-")
            shown = [*(known.get(f"{e}_exponent") for e in EXPONENTS), self.losses[name]]
            rows.append([name, *flat(cells(e, none=none) for e in shown)])
        lines = [f"Compared at {compact(self.target_budget_flops)} FLOPs", *columns(rows), ""]
        lines += [*(pair.sentence for pair in self.pairs), *filter(None, [self.ranking_sentence])]
        return "\n".join([*lines, *listed(self.findings), "", RULE])


class _Test(NamedTuple):
    """A difference, or a ratio, and the p-value of there being none."""

    estimate: Estimate
    p: float

    def said(self, form: Callable[[float], str] = "{:+.3g}".format) -> str:
        return f"{form(self.estimate.value)}, 95 % {ends(self.estimate, form, ' to ')}, p = {self.p:.2g}"


def compare(
    tables: Mapping[str, Source], target: float | str, *, bootstrap: int = 200, seed: int = 0,
    kappa: float | None = None,
) -> Comparison:  # fmt: skip
    """Compare tables {name: whatever `read_table` reads} at a target budget in FLOPs. Its findings are the warnings
    of `fit` on each table, which bootstrap, seed and kappa are for, and what the tables do not have in common.

    Raises UserError on fewer than 2 tables, and on tables of different metrics, or of which some were rehearsed.

        ds.compare({"cross": "cross.csv", "in-context": "in.csv"}, "1e21").summary()
    """
    if not isinstance(tables, Mapping) or len(tables) < 2:
        raise UserError("compare needs two or more tables, each with a name of its own")
    read = {name: read_table(source) for name, source in tables.items()}
    first = next(iter(read.values()))
    if any(table.metric != first.metric for table in read.values()):
        shown = ", ".join(f"{name} {table.metric}" for name, table in read.items())
        raise UserError(f"compare: the tables were read for different metrics ({shown}); read the same one")
    rehearsed = ", ".join(name for name, table in read.items() if table.rehearsal)
    if rehearsed and not all(table.rehearsal for table in read.values()):
        raise UserError(f"compare: {rehearsed} was rehearsed, not trained, so it compares with nothing trained")
    budget, findings = number(target, "target", above=0), list[Finding]()
    fits: dict[str, Predictor | None] = {}
    for name, table in read.items():
        laws = fit(table, bootstrap=bootstrap, seed=seed, targets=budget, kappa=kappa)
        own = (f for f in laws.findings if f.severity != "info" and f.code != "rehearsal")
        findings += [replace(f, message=f"{name}: {f.message}") for f in own]
        # A table has a law where its runs determine both N* and L* at the budget.
        said = next(iter(laws.predictions.values())).answer
        fits[name] = laws.fits.predictor if laws.fits and said and said.loss and said.n_params else None
    findings += check_rehearsal(first) + _unlike(read, first.metric) + _uneven(read, budget)
    pairs = tuple(_pair(a, b, fits, budget, first.metric) for a, b in itertools.combinations(read, 2))
    exponents = {
        name: {f"{e}_exponent": law.exponent(e, budget) for e in law.exponents} if law else None
        for name, law in fits.items()
    }
    losses = {name: law.optimum(budget).loss if law else None for name, law in fits.items()}
    ranking, sentence = _rank(losses, pairs, budget) if len(read) > 2 else (None, "")
    return Comparison(budget, first.metric, exponents, losses, pairs, ranking, sentence, tuple(findings))


def _pair(a: str, b: str, fits: dict[str, Predictor | None], budget: float, metric: str) -> Pair:
    one, other = fits[a], fits[b]
    if one is None or other is None:
        lost = " and ".join(name for name in (a, b) if fits[name] is None)
        return Pair(a, b, f"{a} and {b} cannot be compared: the runs of {lost} do not determine a law.")
    slopes = {e: [law.slope(budget, e).spread_out() for law in (one, other)] for e in one.exponents}
    tests = {e: _Test(*difference(*both)) for e, both in slopes.items()}
    log, (apart, p) = one.runs.log, difference(one.comparable(budget), other.comparable(budget))
    better = b if apart.value < 0 else a
    apart = apart.exp() if log else apart
    apart = apart.negative() if one.runs.sign < 0 else apart
    reached, criteria = multiplier(one, other, budget), _criteria(a, b, tests)
    shown = _Test(apart, p).said(lambda x: f"{100 * (x - 1):+.2g} %" if log else f"{x:+.3g}")
    # Every word follows from a number: "better" only where p is below 0.05.
    says, points = f"{b} is {'better' if better == b else 'worse'} than {a}", ""
    if p >= SIGNIFICANT:
        says = f"{a} and {b} are not distinguished"
        points = f", which points towards {better}, not significant" * (p < SUGGESTIVE)
    sentence = f"{says} at {compact(budget)} FLOPs: the {metric} of {b} differs by {shown}{points}"
    if reached is None:
        sentence += f"; {b} reaches that {metric} of {a} at no budget."
    else:
        span = ends(reached, _times, " to ", "no bound") or "no bound to no bound"
        sentence += f"; {b} reaches the same {metric} with {_times(reached.value)}x the FLOPs, 95 % {span}."
    sentence += f" {_criteria_sentence(tests, criteria, better, metric)}"
    fields: dict[str, Any] = {"loss_ratio" if log else "metric_difference": apart}
    for e, test in tests.items():
        fields |= {f"{e}_exponent_difference": test.estimate, f"{e}_exponent_p": test.p}
    return Pair(a, b, sentence, "mixture", "mixture", loss_p=p, flop_multiplier=reached, criteria=criteria, **fields)


def _criteria(a: str, b: str, tests: dict[str, _Test]) -> tuple[Criterion, ...]:
    def criterion(name: str, *needs: tuple[str, int]) -> Criterion:
        """needs: (exponent, sign of b minus a that favours b)."""
        points = {float(np.sign(sign * tests[e].estimate.value)) for e, sign in needs}
        favours = b if points == {1.0} else a if points == {-1.0} else None
        p = max(tests[e].p for e, _ in needs)
        return Criterion(name, favours, favours is not None and p < SIGNIFICANT, p)

    found = criterion("model", ("model", -1), ("data", +1)), criterion("data", ("model", +1), ("data", -1))
    return (*found, criterion("pipeline", ("loss", -1))) if "loss" in tests else found


def _rank(losses: dict[str, Estimate | None], pairs: tuple[Pair, ...], budget: float) -> tuple[Names, str]:
    """(names from the lowest loss, the sentence); (None, why not) where a table has no law."""
    known = {name: loss.value for name, loss in losses.items() if loss}
    if len(known) < len(losses):
        return None, f"No ranking: {', '.join(name for name in losses if name not in known)} gave no law."
    order = tuple(sorted(known, key=known.__getitem__))
    adjusted = _holm({frozenset((pair.a, pair.b)): pair.loss_p for pair in pairs if pair.loss_p is not None})
    text = f"From the lowest loss at {compact(budget)} FLOPs: {order[0]} ({known[order[0]]:.4g})"
    for better, worse in itertools.pairwise(order):
        p = adjusted[frozenset((better, worse))]
        text += f", {worse} ({known[worse]:.4g}; {'behind' if p < SIGNIFICANT else 'not distinguished'}, p = {p:.2g})"
    return order, f"{text}. These p are corrected for {len(pairs)} comparisons (Holm)."


def _holm(ps: Mapping[Any, float]) -> dict[Any, float]:
    """Holm's step-down correction (1979): ascending p times the number of hypotheses left, never falling."""
    keys = sorted(ps, key=ps.__getitem__)
    steps = (min(1.0, (len(ps) - k) * ps[key]) for k, key in enumerate(keys))
    return dict(zip(keys, itertools.accumulate(steps, max), strict=True))


def _unlike(tables: dict[str, Table], metric: str) -> list[Finding]:
    """`unlike_losses`: where the tables say that their losses are not of one kind."""
    findings = []
    for key, what in SAME.items():
        said = {name: value for name, table in tables.items() if (value := dict(table.recorded).get(key)) is not None}
        if len(set(said.values())) > 1 and not any(word in metric.lower() for word in SAMPLED):
            each = "; ".join(f"{name}: {value}" for name, value in said.items() if value)
            cure = "compare a metric on a common set (--metric loss_coco), or of samples (--metric fid)"
            findings.append(finding("unlike_losses", f"the losses were {what} ({each}) and do not compare; {cure}"))
    return findings


def _uneven(tables: dict[str, Table], budget: float) -> list[Finding]:
    """Findings on tables that are hard to compare: far targets, unlike ranges of budgets, unlike counting of FLOPs."""
    largest = {name: table.grid().largest for name, table in tables.items()}
    findings = []
    for name, top in largest.items():
        if budget > 10 * top:
            text = f"{compact(budget)} FLOPs lie {compact(budget / top)}x beyond the largest budget of {name}"
            findings.append(finding("extrapolation", f"{text}, {compact(top)}"))
    (far, least), *_, (near, most) = sorted(largest.items(), key=operator.itemgetter(1))
    if most > UNEVEN * least:
        text = f"{far} ends at {compact(least)} FLOPs and {near} at {compact(most)}: the loss of {far} is extrapolated"
        text += f" {compact(most / least)}x further, and a law that bends would count against one only"
        findings.append(finding("extrapolation", text, severity="warning"))
    kappas = {name: table.grid().kappa() for name, table in tables.items()}
    (one, low), *_, (other, high) = sorted(kappas.items(), key=operator.itemgetter(1))
    if high > 1.2 * low:
        text = f"C / (N D) is {compact(low)} in {one} and {compact(high)} in {other}; equal FLOPs mean something only"
        findings.append(finding("units_mixed", f"{text} if both count N, D and C alike"))
    return findings


def _times(x: float) -> str:
    return f"{x:.2f}" if 0.1 <= x < 100 else compact(x)


def _criteria_sentence(tests: dict[str, _Test], criteria: tuple[Criterion, ...], better: str, metric: str) -> str:
    """better: the table with the better prediction, which an exponent may contradict but not outvote."""
    model, data, *pipeline = criteria
    loss = metric if "loss" not in metric else "loss"
    of = {name: f"(difference {test.said()})" for name, test in tests.items()}
    text = f"Model {of['model']} and data exponents {of['data']} "
    if model.favours is None:
        text += "point to neither"
    else:
        # One difference has two readings, as either the model or the data is what differs.
        text += "differ" if model.significant else "do not differ significantly, and point towards this"
        text += f": {model.favours} has the smaller model and larger data exponent: of two designs the mark of a more"
        text += f" efficient model, while of two data sets {data.favours} has the mark of better data"
    for found in pipeline:
        if found.significant:
            text += f". {found.favours} has the smaller {loss} exponent {of['loss']}, the mark of a better pipeline"
        else:
            text += f". The {loss} exponents {of['loss']} do not differ significantly"
            text += f"; they point towards {found.favours}, not significant" if found.favours else ""
        if found.favours and found.favours != better:
            text += f", against the predicted {loss}, which decides"
    return f"{text}."
