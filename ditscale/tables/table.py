"""A table of runs: what every fit starts from. `read.py` reads one from a file."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError, nearest
from ..quantities import ColumnInfo, guess
from ..result import Result
from ..units import compact
from .numerals import Fault, complaint, fault, first_repeat, lacks

REQUIRED = ("n_params", "n_tokens", "budget_flops")
OPTIONAL = ("loss_se", "n_images", "achieved_flops")
# What runs are for: the slices, the surface alone (levers), or the test of a forecast.
ROLES = ("grid", "lever", "probe")
# What runs may share, by label: one training that is read several times, the seed of a run, that of its data.
SHARED = ("trajectory", "seed", "data_seed")
# Budgets within this ratio are one slice: integer step counts make the achieved FLOPs of a slice differ by a few per
# cent.
SAME_BUDGET = 1.15
MOST_RUNS, CELLS = 3000, 1000  # of a table that the approaches see as it is; else of the rows they see


@dataclass(frozen=True)
class Point(Result):
    """One row of a table."""

    run_id: str
    role: str
    n_params: float
    n_tokens: float
    budget_flops: float
    loss: float


@dataclass(frozen=True)
class Exclusion(Result):
    """A run that was left out by name, and why."""

    run_id: str
    reason: str


@dataclass(frozen=True)
class Table:
    """Runs as columns, each an array of shape (n_runs,).

    n_params: N; n_tokens: D; budget_flops: C, the budget each run was planned for; loss: the metric that is fitted, of
    the name `metric`; role: of ROLES. Optional columns are None when the source lacks them; `columns` holds
    further ones by name. `source` is where the rows came from, `exclusions` the (run_id, reason) pairs taken out by
    `without`, `recorded` the (key, value) texts that came with the rows, and `info` what columns hold, as far as the
    source says it. `shared` {name of SHARED: labels}: runs of one label share it. `better`: "higher", "lower" or ""."""

    run_id: np.ndarray
    n_params: np.ndarray
    n_tokens: np.ndarray
    budget_flops: np.ndarray
    loss: np.ndarray
    role: np.ndarray
    loss_se: np.ndarray | None = None
    n_images: np.ndarray | None = None
    achieved_flops: np.ndarray | None = None
    metric: str = "loss"
    source: str = ""
    exclusions: tuple[tuple[str, str], ...] = ()
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    recorded: tuple[tuple[str, str], ...] = ()
    info: dict[str, ColumnInfo] = field(default_factory=dict)
    shared: dict[str, np.ndarray] = field(default_factory=dict)
    better: str = ""

    @property
    def higher_is_better(self) -> bool:
        """As it was said or, where nothing was, as the metric's name lets one guess."""
        return self.better == "higher" if self.better else self.info_of(self.metric).higher_is_better

    @property
    def sign(self) -> float:
        """What makes the metric one of which lower is better: -1 where higher is."""
        return -1.0 if self.higher_is_better else 1.0

    def of_metric(self, column: str, better: str = "") -> Self:
        """The table of another metric, one of `columns`."""
        return dataclasses.replace(self, metric=column, loss=self.column(column), loss_se=None, better=better)

    def falling(self) -> Self:
        """The table itself or, where higher is better, that of the metric's negative."""
        if not self.higher_is_better:
            return self
        info = self.info | {self.metric: ColumnInfo(f"negative {self.metric.replace('_', ' ')}")}
        return dataclasses.replace(self, loss=-self.loss, better="lower", info=info)

    def info_of(self, column: str) -> ColumnInfo:
        """What a column holds, as its source says it; where it does not, as its name lets one guess."""
        return self.info.get(column) or guess(column)

    @classmethod
    def of(
        cls, n_params: ArrayLike, n_tokens: ArrayLike, budget_flops: ArrayLike, loss: ArrayLike,
        run_id: ArrayLike | None = None, role: ArrayLike | None = None, **more: Any,
    ) -> Self:  # fmt: skip
        """A table from arrays or lists; run_id is made up (row-1, row-2, ...) and role is "grid" when not given. Raises
        UserError when a column is not one number a run, or columns differ in length."""
        n, d, c = map(_floats, REQUIRED, (n_params, n_tokens, budget_flops))
        measured = _floats(more.get("metric", "loss"), loss)
        ids = np.array([f"row-{i + 1}" for i in range(len(n))] if run_id is None else run_id, dtype=object)
        roles = np.array(["grid"] * len(n) if role is None else role, dtype=object)
        more |= {name: _floats(name, more[name]) for name in OPTIONAL if more.get(name) is not None}
        more["columns"] = {name: _floats(name, values) for name, values in more.get("columns", {}).items()}
        more["shared"] = {name: np.asarray(labels) for name, labels in more.get("shared", {}).items()}
        table = cls(ids, n, d, c, measured, roles, **more)
        check(table)
        return table

    def __len__(self) -> int:
        return len(self.run_id)

    @property
    def where(self) -> str:
        """What messages call the table."""
        return self.source or "table"

    def column(self, name: str) -> np.ndarray:
        """One of `columns`. Raises UserError where the table was read without it."""
        if name not in self.columns:
            raise UserError(f"{self.where}: it was read without {name!r}; read_table(..., also=({name!r},))")
        return self.columns[name]

    def take(self, rows: Any) -> Self:
        """The rows picked by an index or mask array, in that order."""
        picked = {name: part[rows] for name, part in vars(self).items() if isinstance(part, np.ndarray)}
        columns, shared = ({n: c[rows] for n, c in part.items()} for part in (self.columns, self.shared))
        return dataclasses.replace(self, **picked, columns=columns, shared=shared)

    def without(self, run_ids: str | Iterable[str], reason: str) -> Self:
        """The table less the named runs; each is listed, with the reason, in `exclusions` and in every result."""
        names = [run_ids] if isinstance(run_ids, str) else list(run_ids)
        for name in names:
            if name not in self.run_id:
                raise UserError(f"{self.where}: there is no run {name!r} to exclude{nearest(name, self.run_id)}")
        kept = self.take(~np.isin(self.run_id, names))
        return dataclasses.replace(kept, exclusions=self.exclusions + tuple((name, reason) for name in names))

    def without_largest(self, n: int) -> Self:
        """The rows below the n largest budgets that have a slice."""
        first = self.slices(levers=False)[-n][0]
        return self.take(np.concatenate([rows for budget, rows in self.slices() if budget < first]))

    @property
    def rehearsal(self) -> str:
        """Where the losses come from, if they were rehearsed (`ditscale rehearse`); "" for runs that were trained."""
        return dict(self.recorded).get("rehearsal", "")

    def grid(self, needed_by: str = "") -> Self:
        """The rows that may enter a fit: everything but held-out probes. Raises UserError where there are none and
        needed_by, as in "a fit", says what is then impossible."""
        grid = self.take(self.role != "probe")
        if needed_by and not len(grid):
            raise UserError(f"{self.where}: every run is a probe; {needed_by} needs grid runs")
        return grid

    def slices(self, levers: bool = True) -> list[tuple[float, np.ndarray]]:
        """[(budget_flops, row indices)], rising. Budgets within 15 % of the slice's smallest are one slice. levers:
        whether these are among the rows; parabolas and their checks go without."""
        order = np.argsort(self.budget_flops, kind="stable")
        budgets, starts = self.budget_flops[order], [0]
        while (end := int(np.searchsorted(budgets, SAME_BUDGET * budgets[starts[-1]], "right"))) < len(order):
            starts.append(end)
        found = [(float(np.median(self.budget_flops[rows])), rows) for rows in np.split(order, starts[1:])]
        own = [(budget, rows if levers else rows[self.role[rows] != "lever"]) for budget, rows in found]
        return [(budget, rows) for budget, rows in own if len(rows)]

    def is_isoflop(self) -> bool:
        """Whether the budgets come in slices, rather than as a continuum that `slices` merely cuts into pieces. A piece
        of a continuum spans most of the 15 %; a slice spans the few per cent by which runs miss their budget."""
        spans = [np.ptp(np.log(self.budget_flops[rows])) for _, rows in self.slices() if len(rows) > 1]
        return not spans or float(np.median(spans)) <= np.log(1.06)

    @property
    def largest(self) -> float:
        """The largest budget."""
        return float(self.budget_flops.max())

    @property
    def unit(self) -> float:
        """The median size of the metric, in which fits work: the square of a loss may be beyond any float."""
        return float(np.median(np.abs(self.loss))) or 1.0

    def kappa(self) -> float:
        """C / (N D), the median over runs; 6 where the budget counts 6 N D. C is what was spent, where known."""
        spent = self.budget_flops if self.achieved_flops is None else self.achieved_flops
        spent = np.where(np.isfinite(spent) & (spent > 0), spent, self.budget_flops)
        return float(np.median(spent / (self.n_params * self.n_tokens)))

    def points(self) -> tuple[Point, ...]:
        """The rows one by one, in the table's order."""
        numbers = (getattr(self, name).tolist() for name in (*REQUIRED, "loss"))
        return tuple(map(Point, map(str, self.run_id), map(str, self.role), *numbers))


def slice_labels(table: Table) -> np.ndarray:
    """Which slice each run is of, (n,)."""
    labels = np.zeros(len(table), dtype=int)
    for i, (_, rows) in enumerate(table.slices()):
        labels[rows] = i
    return labels


def neighbours(groups: np.ndarray, x: np.ndarray, most: int, least: int = 8) -> np.ndarray:
    """Labels (n,) of about `most` cells of neighbouring runs: within each of `groups` (n,), labels, as many runs in the
    order of x (n,) in every cell. A group has at least `least` cells, or a cell for each of its runs."""
    order, sizes = np.lexsort((x, groups)), np.bincount(groups)
    rank = np.empty(len(x), dtype=int)
    rank[order] = np.arange(len(x)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    cells = np.minimum(np.maximum(sizes * most // len(x), least), sizes)
    return (np.cumsum(cells) - cells)[groups] + rank * cells[groups] // sizes[groups]


def condensed(table: Table) -> Table:
    """The table itself or, of more than MOST_RUNS runs, about CELLS rows: neighbours in a slice become their mean (of
    the logs of what is positive), under the name of one of them. What is fitted to them is smooth over a cell."""
    if len(table) <= MOST_RUNS:
        return table
    groups, cells = 2 * slice_labels(table) + (table.role == "lever"), CELLS
    if not table.is_isoflop():
        # Means over a whole piece of a continuum would look like a slice, so each is cut in three.
        groups, cells = neighbours(groups, table.budget_flops, 0, 3), 3 * CELLS
    labels = neighbours(groups, table.n_params, cells)
    _, first, total = np.unique(labels, return_index=True, return_counts=True)
    means: dict[str, Any] = {}
    for name in (*REQUIRED, "loss", "achieved_flops"):
        if (values := getattr(table, name)) is not None:
            positive = (values > 0).all()
            mean = np.bincount(labels, np.log(values) if positive else values) / total
            means[name] = np.exp(mean) if positive else mean
    return dataclasses.replace(table.take(first), **means, loss_se=None, columns={}, shared={})


def check(
    table: Table, where: Callable[[int], str] = lambda i: f"row {i + 1}",
    raw: Mapping[str, Sequence[Any]] | None = None, beside: Mapping[str, Sequence[Any]] | None = None,
) -> None:  # fmt: skip
    """Raise UserError for the values that no fit can use, all at once. Optional columns may hold NaN. N, D and C must
    be positive, and so must a loss or a FID. Any other metric may have either sign, as a log-likelihood has.

    where(i) names a row. raw {our name: the cells as they stand} of columns that were read; beside {column: cells}: the
    whole source, of which a column may say which runs are good."""
    source, count, ids = table.where, len(table), table.run_id
    if not count:
        raise UserError(f"{source}: no rows; a table needs one row per run")
    needed = {name: getattr(table, name) for name in REQUIRED} | {table.metric: table.loss}
    optional = {n: values for n in OPTIONAL if (values := getattr(table, n)) is not None} | table.columns
    for name, column in {"role": table.role, **needed, **optional, **table.shared}.items():
        if len(column) != count:
            raise UserError(f"{source}: column {name} has {len(column)} values, run_id has {count}")
    if (strange := ~np.isin(table.role.astype(str), ROLES)).any():
        i = int(np.argmax(strange))
        raise UserError(
            f"{source}, {where(i)}, column role: {table.role[i]!r} is not known; write grid, lever or probe"
        )
    if again := first_repeat(ids):
        both = " and ".join(map(where, again))
        raise UserError(f"{source}: run_id {ids[again[1]]!r} appears twice ({both}); keep one of them")
    faults: list[Fault] = []
    for name, column in {**optional, **needed}.items():
        cells, metric = (raw or {}).get(name, column.tolist()), name == table.metric
        signed = metric and not table.info_of(name).positive
        bad = ~np.isfinite(column) | (not signed) & (column <= 0) if name in needed else np.isnan(column)
        known = {f.row for f in faults} if raw and name not in raw else set()  # What it was computed from lacks.
        for i in map(int, np.flatnonzero(bad)):
            # A probe that has not been run yet has no loss, and must not stop the fit of the grid.
            may_lack = name not in needed or metric and table.role[i] == "probe"
            if i not in known and not (may_lack and (lacks(cells[i]) or not isinstance(cells[i], str))):
                faults.append(fault(i, name, cells[i], metric))
    if faults:
        raise complaint(source, faults, where, ids, beside or {})


def _floats(name: str, values: ArrayLike) -> np.ndarray:
    try:
        column = np.asarray(values, dtype=float)
        wrong = f" has shape {column.shape}" * (column.ndim != 1)
    except (TypeError, ValueError) as error:
        wrong = f": {error}"
    if wrong:
        raise UserError(f"table: column {name}{wrong}; give one number for each run")
    return column


def describe(n_runs: int, budgets: Sequence[float]) -> str:
    """'21 runs at 3 budgets (1e11 to 9e11 FLOPs)'."""
    span = " to ".join(compact(budget) for budget in dict.fromkeys((*budgets[:1], *budgets[-1:])))
    return f"{n_runs} runs at {len(budgets)} budget{'s' if len(budgets) != 1 else ''} ({span} FLOPs)"
