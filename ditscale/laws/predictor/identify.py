"""Whether the design of a table's runs determines what is asked of them, and the cheapest runs that mend it."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from ...units import compact
from ..findings import Finding, finding, run_to_add
from ..table import Table
from .design import Widths, widths
from .predictor import Predictor, predictor
from .runs import group_labels

ONE_RATIO, TWO_RATIOS = 1.3, 1.15  # of D / N: runs within this factor of one, or of two, lie on it
LADDER = 8.0  # readings of one training within this factor in D / N
LEAST_RUNS, LEAST_SIZES = 6, 3
MOST_RUNS = 400  # a design of more is thinned


class Asked(NamedTuple):
    """The predictor of a table; None, and `not_identified` or `too_few_runs`, where its answer is to be refused."""

    predictor: Predictor | None
    refused: Finding | None


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
    lacks = found.lacks
    if design.ladder and "N*" not in lacks:
        lacks = ("N*", *lacks)
    if not lacks:
        return None
    what = " and ".join(lacks)
    cure = " and ".join(design.mended(target)) or "two more budgets, each 3x the one before, with sizes as these"
    text = f"the runs do not determine {what} at {compact(target)} FLOPs: {design.why(lacks)}; add {cure}"
    return finding("not_identified", text, value=found.place)


class _Design:
    """The runs of a table as a design. frontier: (ln C, ln N*, slope); readings: whether runs of one size are taken as
    readings of one training where the table does not say."""

    def __init__(self, table: Table, frontier: tuple[float, float, float], readings: bool) -> None:
        rows = np.linspace(0, len(table) - 1, min(len(table), MOST_RUNS)).astype(int)
        self.log_c, self.log_n = np.log(table.budget_flops)[rows], np.log(table.n_params)[rows]
        self.ratio = np.log(table.n_tokens / table.n_params)
        self.at, self.slope = frontier[:2], float(np.clip(frontier[2], 0.2, 0.8))
        self.kappa, self.isoflop = table.kappa(), table.is_isoflop()
        labels = np.zeros(len(table), dtype=int)
        slices = table.slices()
        for i, (_, members) in enumerate(slices):
            labels[members] = i
        self.budgets = len(slices)
        # In how many slices the smallest, or the largest, size is the best.
        best = [(rows[np.argmin(table.loss[rows])], rows) for _, rows in slices]
        ends = {
            side: sum(table.n_params[b] == pick(table.n_params[rows]) for b, rows in best)
            for side, pick in (("above", np.min), ("below", np.max))
        }
        self.side = next((side for side, count in ends.items() if self.isoflop and count > len(slices) / 2), "")
        self.slices = labels[rows] if self.isoflop else None
        groups = group_labels(table, labels)
        shared = groups.get("trajectory", groups.get("size") if readings else None)
        self.trajectory = None if shared is None else shared[rows]

    def widths(self, target: float, more: tuple[tuple[float, float], ...] = ()) -> Widths:
        """With further runs (ln C, ln N), each a training and a slice of its own."""
        log_c = np.append(self.log_c, [c for c, _ in more])
        log_n = np.append(self.log_n, [n for _, n in more])

        def grown(labels: np.ndarray | None) -> np.ndarray | None:
            return None if labels is None else np.append(labels, labels.max() + 1 + np.arange(len(more)))

        return widths(
            log_c, log_n, math.log(target), trajectory=grown(self.trajectory), slices=grown(self.slices),
            optimum=self.at, slope=self.slope,
        )  # fmt: skip

    @property
    def ladder(self) -> bool:
        """Whether few trainings are read along the way, all in a narrow band of D / N."""
        if self.isoflop or self.trajectory is None:
            return False
        return bool(np.ptp(self.ratio) < math.log(LADDER))

    def why(self, lacks: tuple[str, ...]) -> str:
        """The reason in words, the plainest that fits."""
        spans = np.ptp(self.ratio)
        halves = self.ratio > self.ratio.mean()
        if spans < math.log(ONE_RATIO):
            return f"all lie along one ratio D / N, {math.exp(self.ratio.mean()):.3g}"
        if max(np.ptp(self.ratio[halves]), np.ptp(self.ratio[~halves])) < math.log(TWO_RATIOS):
            two = sorted((math.exp(self.ratio[~halves].mean()), math.exp(self.ratio[halves].mean())))
            return f"all lie along two ratios D / N, {two[0]:.3g} and {two[1]:.3g}"
        if self.ladder:
            trainings = len(np.unique(self.trajectory)) if self.trajectory is not None else 0
            return f"they are readings of {trainings} trainings, within {math.exp(spans):.2g}x in D / N"
        if self.budgets < 3 and self.isoflop:
            return f"they lie at {'one budget' if self.budgets == 1 else 'two budgets'}"
        if "N*" in lacks and (side := self.side):
            return f"nearly all sizes lie {side} the optimum"
        return "their sizes and budgets vary too little"

    def mended(self, target: float) -> list[str]:
        """The two cheapest runs that determine it, in words; none where no two do."""
        low, high = float(self.log_c.min()), float(self.log_c.max())
        c, n = self.at
        budgets = [low, low - math.log(10), low + math.log(3), high, high + math.log(3)]
        candidates = [(b, n + self.slope * (b - c) + off) for b in budgets for off in (-1.8, -1.0, 0.0, 1.0, 1.8)]
        pairs = sorted(itertools.combinations(candidates, 2), key=lambda pair: np.logaddexp(pair[0][0], pair[1][0]))
        for pair in pairs:
            if not self.widths(target, pair).lacks:
                return [run_to_add(math.exp(size), math.exp(budget), self.kappa) for budget, size in pair]
        return []
