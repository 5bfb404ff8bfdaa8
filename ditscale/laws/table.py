"""A table of runs: what every fit starts from, read from a CSV, an HDF5 file or a study directory."""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError, nearest
from ..units import compact, number

REQUIRED = ("n_params", "n_tokens", "budget_flops")
OPTIONAL = ("n_images", "achieved_flops", "loss_se")
# What people call the columns elsewhere. Only suggested, never taken: `N` in millions or `C` in petaFLOP-days is
# common.
SYNONYMS = {
    "n_params": ("params", "parameters", "n", "num_params", "model_size", "size", "n_parameters"),
    "n_tokens": ("tokens", "d", "num_tokens", "data", "n_data", "train_tokens", "training_tokens"),
    "budget_flops": ("c", "flops", "budget", "compute", "training_flops", "training_flop", "flop", "total_flops"),
    "loss": ("l", "final_loss", "val_loss", "validation_loss", "train_loss", "eval_loss"),
}
# Budgets within this ratio are one slice: integer step counts make the achieved FLOPs of a slice differ by a few per
# cent.
SAME_BUDGET = 1.15


@dataclass(frozen=True)
class Table:
    """Runs as columns, each an array of shape (n_runs,).

    run_id: names; n_params: N; n_tokens: D; budget_flops: C, the budget each run was planned for; loss: the metric that
    is fitted (its name is `metric`); role: "grid" or "probe". Optional columns are None when the source lacks them.
    `source` is where the rows came from and `exclusions` the (run_id, reason) pairs taken out by `without`.
    """

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

    @classmethod
    def of(cls, n_params, n_tokens, budget_flops, loss, run_id=None, role=None, **more) -> Table:
        """A table from arrays; run_id is made up (row-1, row-2, ...) and role is "grid" when not given."""
        columns = [np.asarray(c, dtype=float) for c in (n_params, n_tokens, budget_flops, loss)]
        count = len(columns[0])
        run_id = np.array([f"row-{i + 1}" for i in range(count)] if run_id is None else run_id, dtype=object)
        role = np.array(["grid"] * count if role is None else role, dtype=object)
        for name in OPTIONAL:
            if more.get(name) is not None:
                more[name] = np.asarray(more[name], dtype=float)
        table = cls(run_id, *columns, role, **more)
        check(table, [f"row {i + 1}" for i in range(count)])
        return table

    def __len__(self) -> int:
        return len(self.run_id)

    def take(self, rows) -> Table:
        """The rows picked by an index or mask array, in that order."""
        picked = {
            f.name: getattr(self, f.name)[rows]
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), np.ndarray)
        }
        return dataclasses.replace(self, **picked)

    def without(self, run_ids, reason: str) -> Table:
        """The table less the named runs; each is listed, with the reason, in `exclusions` and in every result."""
        run_ids = [run_ids] if isinstance(run_ids, str) else list(run_ids)
        for name in run_ids:
            if name not in self.run_id:
                raise UserError(
                    f"{self.source or 'table'}: there is no run {name!r} to exclude{nearest(name, self.run_id)}"
                )
        kept = self.take(~np.isin(self.run_id, run_ids))
        return dataclasses.replace(kept, exclusions=self.exclusions + tuple((name, reason) for name in run_ids))

    def grid(self) -> Table:
        """The rows that may enter a fit: everything but held-out probes."""
        return self.take(self.role != "probe")

    def slices(self) -> list[tuple[float, np.ndarray]]:
        """[(budget_flops, row indices)], rising. Budgets within 15 % of the slice's smallest are one slice."""
        order = np.argsort(self.budget_flops, kind="stable")
        groups: list[list[int]] = []
        for i in order:
            if groups and self.budget_flops[i] <= SAME_BUDGET * self.budget_flops[groups[-1][0]]:
                groups[-1].append(int(i))
            else:
                groups.append([int(i)])
        return [(float(np.median(self.budget_flops[g])), np.array(g)) for g in groups]

    def is_isoflop(self) -> bool:
        """Whether the budgets come in slices, rather than as a continuum that `slices` merely cuts into pieces.

        A piece of a continuum spans most of the 15 %; a slice spans the few per cent by which runs miss their budget.
        """
        spans = [np.ptp(np.log(self.budget_flops[rows])) for _, rows in self.slices() if len(rows) > 1]
        return not spans or float(np.median(spans)) <= np.log(1.06)

    def kappa(self) -> float:
        """C / (N D), the median over runs; 6 where the budget counts 6 N D."""
        return float(np.median(self.budget_flops / (self.n_params * self.n_tokens)))

    def rows(self) -> list[dict]:
        """The rows as plain dicts (run_id, role, n_params, n_tokens, budget_flops, loss), in the table's order."""
        names = (*REQUIRED, "loss")
        return [
            {"run_id": str(self.run_id[i]), "role": str(self.role[i])} | {n: float(getattr(self, n)[i]) for n in names}
            for i in range(len(self))
        ]


def read_table(path, metric: str = "loss", exclude=None) -> Table:
    """Read a table of runs from a CSV file, an HDF5 file or a study directory (its study.h5).

    `metric` names the column that is fitted. `exclude` maps run_id -> reason; those rows are left out before they are
    checked, and are listed in `Table.exclusions`. Raises UserError naming the file, the row (the line as an editor
    counts it, or the run) and the column.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "study.h5").exists():
            raise UserError(f"{path} has no study.h5; run `ditscale collect {path}` first")
        path = path / "study.h5"
    if not path.exists():
        raise UserError(f"{path}: no such file; give a CSV, an HDF5 file or a study directory")
    with open(path, "rb") as handle:
        head = handle.read(8)
    columns, where = _read_hdf5(path, metric) if head == b"\x89HDF\r\n\x1a\n" else _read_csv(path, metric)
    return _build(path, metric, columns, where, dict(exclude or {}))


def _build(path, metric, columns, where, exclude) -> Table:
    count = len(where)
    if not count:
        raise UserError(f"{path}: no rows; a table needs one row per run")
    made_up = "run_id" not in columns
    run_id = np.array([f"row-{i + 1}" for i in range(count)] if made_up else columns["run_id"], dtype=object)
    role = np.array(columns.get("role", ["grid"] * count), dtype=object)
    for i, value in enumerate(role):
        if value not in ("grid", "probe"):
            raise UserError(f"{path}, {where[i]}, column role: {value!r} is not known; write grid or probe")
    for name in exclude:
        if name not in run_id:
            raise UserError(f"{path}: there is no run {name!r} to exclude{nearest(name, run_id)}")
    keep = [i for i in range(count) if run_id[i] not in exclude]
    if not keep:
        raise UserError(f"{path}: every run is excluded")
    seen: dict[tuple, str] = {}
    for i in keep:
        # Two rows may share (N, D, C): seeds do. They may not be the same row twice, which would count a run double.
        key = tuple(str(columns[c][i]) for c in columns) if made_up else (run_id[i],)
        if key in seen:
            what = "the same row" if made_up else f"run_id {run_id[i]!r}"
            raise UserError(f"{path}: {what} appears twice ({seen[key]} and {where[i]}); keep one of them")
        seen[key] = where[i]
    numeric = {}
    for name in (*REQUIRED, metric, *OPTIONAL):
        if name in columns:
            numeric[name] = np.array([_cell(columns[name][i], f"{path}, {where[i]}, column {name}") for i in keep])
    table = Table(
        run_id[keep],
        *(numeric[name] for name in REQUIRED),
        loss=numeric[metric],
        role=role[keep],
        **{name: numeric[name] for name in OPTIONAL if name in numeric},
        metric=metric,
        source=str(path),
        exclusions=tuple(exclude.items()),
    )
    check(table, [where[i] for i in keep])
    return table


def check(table: Table, where) -> None:
    """Raise UserError for a value no fit can use; `where` names each row. Optional columns may hold NaN."""
    columns = {name: getattr(table, name) for name in REQUIRED} | {table.metric: table.loss}
    if not len(table):
        raise UserError(f"{table.source or 'table'}: no rows; a table needs one row per run")
    for name, column in columns.items():
        if len(column) != len(table):
            raise UserError(
                f"{table.source or 'table'}: column {name} has {len(column)} values, run_id has {len(table)}"
            )
        # A probe that has not been run yet has no loss, and must not stop the fit of the grid.
        bad = ~(np.isfinite(column) & (column > 0)) & ((table.role != "probe") | (name in REQUIRED))
        if bad.any():
            i = int(np.argmax(bad))
            what = f"{column[i]:g} is not finite" if not np.isfinite(column[i]) else f"{column[i]:g} is not positive"
            raise UserError(
                f"{table.source or 'table'}, {where[i]}, column {name}: {what}; "
                f"mend it or exclude run {table.run_id[i]!r}"
            )


def _cell(value, what: str) -> float:
    """A number from its text. nan and inf pass here so that `check` can say which run to exclude."""
    if isinstance(value, str) and value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return float(value)
    if isinstance(value, str) and not value.strip():
        raise UserError(f"{what}: the cell is empty; write a number")
    if isinstance(value, str):
        return number(value.strip(), what)
    return float(value)


def _need(names, metric: str, path) -> None:
    """Raise UserError for the first missing column, suggesting the name that was probably meant."""
    for name in (*REQUIRED, metric):
        if name in names:
            continue
        known = SYNONYMS.get(name, ())
        meant = next((n for n in names if n.strip().lower().replace(" ", "_") in (name, *known)), None)
        hint = f"; rename column {meant!r} to {name!r}" if meant else nearest(name, names)
        raise UserError(f"{path}: there is no column {name!r}{hint}; the columns are: {', '.join(names) or 'none'}")


def _read_csv(path, metric):
    """({column: [text]}, ["row 2", ...]) of a CSV with a header line; lines count from 1 as in an editor."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is neither CSV text nor HDF5") from None
    if not header:
        raise UserError(
            f"{path} is empty; the first line must name the columns n_params,n_tokens,budget_flops,{metric}"
        )
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"{path}, row 1: column {twice!r} appears twice; rename one")
    _need(header, metric, path)
    for line, row in lines:
        if len(row) != len(header):
            raise UserError(f"{path}, row {line}: {len(row)} cells, but the header has {len(header)} columns")
    columns = {name: [row[i].strip() for _, row in lines] for i, name in enumerate(header)}
    return columns, [f"row {line}" for line, _ in lines]


def _read_hdf5(path, metric):
    """({column: [value]}, ["run ...", ...]) of 1-D datasets at the root or in the group `points`."""
    import h5py

    try:
        # Someone may be collecting on another machine of a shared file system; we only read.
        with h5py.File(path, "r", locking=False) as file:
            group = file["points"] if "points" in file else file
            names = [n for n in group if isinstance(group[n], h5py.Dataset) and group[n].ndim == 1]
            _need(names, metric, path)
            wanted = [n for n in ("run_id", "role", *REQUIRED, metric, *OPTIONAL) if n in names]
            columns = {n: [v.decode() if isinstance(v, bytes) else v for v in group[n][()].tolist()] for n in wanted}
    except OSError:
        raise UserError(f"{path} is a damaged or truncated HDF5 file; run `ditscale collect` again") from None
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{path}: columns differ in length: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    count = next(iter(lengths.values()))
    ids = columns.get("run_id")
    return columns, [f"run {ids[i]}" if ids else f"row {i + 1}" for i in range(count)]


def describe(table: Table) -> str:
    """'21 runs at 3 budgets (1e11 to 9e11 FLOPs)'."""
    budgets = [budget for budget, _ in table.slices()]
    span = f"{compact(budgets[0])} to {compact(budgets[-1])}" if len(budgets) > 1 else compact(budgets[0])
    return f"{len(table)} runs at {len(budgets)} budget{'s' if len(budgets) > 1 else ''} ({span} FLOPs)"
