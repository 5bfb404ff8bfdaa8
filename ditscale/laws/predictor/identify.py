"""Whether the design of a table's runs determines what is asked of them, and the cheapest runs that mend it: from the
95 % widths that the design alone implies, before a loss is measured.

The additive surface hides what a design lacks behind its constraint: runs along one ratio D / N look harmless there
(arXiv 2605.08541). In the relaxed form, whose frontier, curvature and slopes are each fitted by itself, they do not."""

import itertools
import math
from typing import NamedTuple

import numpy as np

from ...units import compact
from ..findings import Finding, finding, run_to_add
from ..table import Table, slice_labels
from . import form
from .member import one_thread
from .predictor import Predictor, predictor
from .runs import group_labels

ONE_RATIO, TWO_RATIOS = 1.3, 1.15  # of D / N: runs within this factor of one, or of two, lie on it
LADDER = 8.0  # readings of one training within this factor in D / N
LEAST_RUNS, LEAST_SIZES = 6, 3
MOST_RUNS = 400  # a design of more is thinned
# What trained models typically have: the scatter of a run, of what a slice shares, and of a single reading. Readings
# of one trajectory share the part COMMON of a run's variance, the rest dies off over DISTANCE in ln C, and each
# trajectory bends by itself: by BEND for every factor e in C (docs/measured/nested.md).
NOISE, SHARED, READING = 3e-3, 1e-3, 3e-4
BEND = 0.003
COMMON, DISTANCE = 0.6, 0.7
# (alpha, beta) of surfaces in the literature and around; the floor, and what is above it at the middle of the design.
NOMINAL = ((0.35, 0.35), (0.34, 0.28), (0.18, 0.45), (0.5, 0.2), (0.30, 0.29))
FLOOR, ABOVE = 0.6, 0.1
# Standard deviations of priors that say next to nothing of the frontier: here nothing ties it to the surface.
LOOSE = {
    form.N0: 30.0, form.A: 0.3, form.K: 30.0, form.G: 0.5, form.C: 30.0, form.D: 0.5, form.LOG_P: 1.2, form.LOG_Q: 1.2,
}  # fmt: skip
# A law that no design of trained runs should be asked for: ln(high / low) of N* and L*.
WIDEST_PLACE, WIDEST_LOSS = math.log(10), 0.12


class Widths(NamedTuple):
    """ln(high / low) of the 95 % intervals of N* and of L* that a design implies, medians over `NOMINAL`."""

    place: float
    loss: float

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the design does not determine: of "N*" and "L*"."""
        return ("N*",) * (self.place > WIDEST_PLACE) + ("L*",) * (self.loss > WIDEST_LOSS)


def widths(
    log_c: np.ndarray, log_n: np.ndarray, target: float, optimum: tuple[float, float], slope: float,
    trajectory: np.ndarray | None = None, slices: np.ndarray | None = None,
) -> Widths:  # fmt: skip
    """Of runs at ln C and ln N (n,), asked at `target` (ln C). optimum (ln C, ln N*): a point of the frontier, and its
    slope; trajectory (n,): labels of readings of one training, None where every run is its own; slices (n,): labels of
    runs of one budget."""
    from scipy import linalg

    middle = float(np.mean(log_c))
    x, t = log_c - middle, target - middle
    z = log_n - (optimum[1] - slope * (optimum[0] - middle))
    covariance = np.eye(len(x)) * (READING**2 + (NOISE**2 if trajectory is None else 0))
    if trajectory is not None:
        along = COMMON + (1 - COMMON) * np.exp(-np.abs(x[:, None] - x) / DISTANCE)
        off = x - (np.bincount(trajectory, x) / np.bincount(trajectory))[trajectory]
        covariance += (NOISE**2 * along + BEND**2 * np.outer(off, off)) * (trajectory[:, None] == trajectory)
    if slices is not None:
        covariance += SHARED**2 * (slices[:, None] == slices)
    factor = linalg.cho_factor(covariance)
    free, floor, each = list(LOOSE), np.array([FLOOR]), []
    # The floor may lie anywhere between nothing and the lowest loss.
    prior = np.diag(1 / np.append(list(LOOSE.values()), FLOOR) ** 2)
    for p, q in NOMINAL:
        g, k = p * q / (p + q), math.log(ABOVE)
        full = np.array([[0.0, slope, 0.0, k, g, k, g, math.log(p), math.log(q)]])
        values = form.evaluate(full, floor, x, z)
        derivatives = np.column_stack([values.jacobian[0][:, free], np.ones(len(x))]) / values.f[0][:, None]
        spread = np.linalg.inv(derivatives.T @ linalg.cho_solve(factor, derivatives) + prior)
        (best,), (by_loss,) = form.frontier(full, floor, t)
        (by_place,) = form.place(full, t, float(x.max()))[1]
        ask = np.array([np.append(by_place[free], 0), np.append(by_loss[free], 1) / best])
        each.append(3.92 * np.sqrt(np.einsum("qp,pr,qr->q", ask, spread, ask)))
    return Widths(*np.median(each, axis=0).tolist())


class Asked(NamedTuple):
    """The predictor of a table; None, and `not_identified` or `too_few_runs`, where its answer is to be refused."""

    predictor: Predictor | None
    refused: Finding | None


@one_thread()
def ask(table: Table, target: float, kappa: float | None = None) -> Asked:
    """Fit the predictor to `table`, and see whether its runs determine N* and L* at `target`, a budget in FLOPs."""
    sizes, budgets = (len(np.unique(np.round(np.log(c), 6))) for c in (table.n_params, table.budget_flops))
    if len(table) < LEAST_RUNS or sizes < LEAST_SIZES:
        text = f"{len(table)} runs of {sizes} sizes at {budgets} budgets determine no law; 4 sizes at 3 budgets each do"
        return Asked(None, finding("too_few_runs", text, map(str, table.run_id), value=len(table)))
    made = predictor(table, kappa=kappa)
    refused = undetermined(table, made, target)
    return Asked(None if refused else made, refused)


def undetermined(table: Table, made: Predictor, target: float) -> Finding | None:
    """`not_identified` where the runs' design does not determine N* or L* at `target`, whatever their losses are."""
    design = _Design(table, made.frontier_line(), made.share_sizes)
    found = design.widths(target)
    lacks = ("N*", *found.lacks) if design.ladder and "N*" not in found.lacks else found.lacks
    if not lacks:
        return None
    cure = " and ".join(design.mended(target)) or "two more budgets, each 3x the one before, with sizes as these"
    lost = f"the runs do not determine {' and '.join(lacks)} at {compact(target)} FLOPs"
    return finding("not_identified", f"{lost}: {design.why(lacks)}; add {cure}", value=found.place)


class _Design:
    """The runs of a table as a design. frontier: (ln C, ln N*, slope); readings: whether runs of one size are taken as
    readings of one training where the table does not say."""

    def __init__(self, table: Table, frontier: tuple[float, float, float], readings: bool) -> None:
        rows = np.linspace(0, len(table) - 1, min(len(table), MOST_RUNS)).astype(int)
        self.log_c, self.log_n = np.log(table.budget_flops)[rows], np.log(table.n_params)[rows]
        self.ratio = np.log(table.n_tokens / table.n_params)
        self.at, self.slope = frontier[:2], float(np.clip(frontier[2], 0.2, 0.8))
        self.kappa, self.isoflop = table.kappa(), table.is_isoflop()
        slices, labels = table.slices(), slice_labels(table)
        self.budgets = len(slices)
        # In how many slices the smallest, or the largest, size is the best.
        sizes = [(table.n_params[members], np.argmin(table.loss[members])) for _, members in slices]
        ends = {side: sum(n[i] == pick(n) for n, i in sizes) for side, pick in (("above", np.min), ("below", np.max))}
        self.side = next((side for side, count in ends.items() if self.isoflop and count > len(slices) / 2), "")
        self.slices = labels[rows] if self.isoflop else None
        groups = group_labels(table, labels)
        shared = groups.get("trajectory", groups.get("size") if readings else None)
        self.trajectory = None if shared is None else shared[rows]

    def widths(self, target: float, more: tuple[tuple[float, float], ...] = ()) -> Widths:
        """With further runs (ln C, ln N), each a training and a slice of its own."""
        log_c, log_n = np.vstack([np.stack([self.log_c, self.log_n], axis=1), *more]).T

        known = {"trajectory": self.trajectory, "slices": self.slices}
        new = np.arange(1, len(more) + 1)
        labels = {name: np.append(own, own.max() + new) for name, own in known.items() if own is not None}
        return widths(log_c, log_n, math.log(target), self.at, self.slope, **labels)

    @property
    def ladder(self) -> bool:
        """Whether few trainings are read along the way, all in a narrow band of D / N."""
        return not self.isoflop and self.trajectory is not None and bool(np.ptp(self.ratio) < math.log(LADDER))

    def why(self, lacks: tuple[str, ...]) -> str:
        """The reason in words, the plainest that fits."""
        spans, middle = np.ptp(self.ratio), self.ratio.mean()
        if spans < math.log(ONE_RATIO):
            return f"all lie along one ratio D / N, {math.exp(middle):.3g}"
        halves = self.ratio[self.ratio <= middle], self.ratio[self.ratio > middle]
        if max(map(np.ptp, halves)) < math.log(TWO_RATIOS):
            return "all lie along two ratios D / N, " + " and ".join(f"{math.exp(half.mean()):.3g}" for half in halves)
        if self.ladder and self.trajectory is not None:
            trainings = len(np.unique(self.trajectory))
            return f"they are readings of {trainings} trainings, within {math.exp(spans):.2g}x in D / N"
        if self.budgets < 3 and self.isoflop:
            return f"they lie at {'one budget' if self.budgets == 1 else 'two budgets'}"
        if "N*" in lacks and (side := self.side):
            return f"nearly all sizes lie {side} the optimum"
        return "their sizes and budgets vary too little"

    def mended(self, target: float) -> list[str]:
        """The two cheapest runs that determine it, in words; none where no two do."""
        low, high, (c, n) = float(self.log_c.min()), float(self.log_c.max()), self.at
        budgets = [low, low - math.log(10), low + math.log(3), high, high + math.log(3)]
        candidates = [(b, n + self.slope * (b - c) + off) for b in budgets for off in (-1.8, -1.0, 0.0, 1.0, 1.8)]
        pairs = sorted(itertools.combinations(candidates, 2), key=lambda pair: np.logaddexp(pair[0][0], pair[1][0]))
        for pair in pairs:
            if not self.widths(target, pair).lacks:
                return [run_to_add(math.exp(size), math.exp(budget), self.kappa) for budget, size in pair]
        return []
