"""Reading a table of runs from a file, a study directory, or columns in memory. Every mistake in it is one line."""

import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, nearest
from ..quantities import METRICS, guess
from ..units import count, number
from .names import QUANTITIES, guess_columns
from .numerals import complaint, fault, first_repeat, floats, lacks
from .source import COUNTED, Cells, Frame, listed, opened
from .table import OPTIONAL, REQUIRED, SHARED, Table, check

TEXT = ("run_id", "role")
Source = str | Path | Table | Mapping[str, Any] | Frame


def read_table(
    source: Source, metric: str = "loss", exclude: Mapping[str, str] | None = None, *,
    columns: Mapping[str, str] | None = None, kappa: float | str | None = None, also: Iterable[str] = (),
    only: Mapping[str, str] | None = None, better: str = "",
) -> Table:  # fmt: skip
    """Read a table of runs from a file (CSV, JSON, Parquet, HDF5), a study directory (its study.h5), a mapping of
    columns or a DataFrame. A `Table` is returned as it is.

    metric: the column that is fitted; a metric of `ditscale evaluate`, or that of a data set ("likelihood_coco"),
    stands for its column. exclude {run_id: reason}: rows left out before they are checked, listed in
    `Table.exclusions`. columns {our name: the source's name}, such as {"n_params": "Model Size"}, or with a factor,
    "params_M*1e6". kappa: a lacking one of n_params (N), n_tokens (D) and budget_flops (C) is computed from C = kappa N
    D. also: further numeric columns for `Table.columns`, whose cells may be nan or empty. only {the source's name:
    value}: the rows with that value alone. better: "higher" where a higher metric is better and its name does not say
    so. Rows of role "rate", a learning-rate sweep, are never read.

    Columns of `table.SHARED` say what runs share. A run_id that stands at several D is one training that was read
    there: its rows become run@D, of one trajectory. Cells may have suffixes (16.12M, 3 billion). `Table.recorded` has
    the lines `# key: value` above the header of a CSV, the attributes of an HDF5 file, and what was done to columns.

    Raises UserError naming the source, the row (the line as an editor counts it, or the run) and the column of every
    cell that is no number.

        ds.read_table("runs.csv", "fid", columns={"n_params": "size"})
    """
    if isinstance(source, Table):
        return source
    columns, exclude, only = dict(columns or {}), dict(exclude or {}), dict(only or {})
    if metric in (*REQUIRED, *TEXT):
        raise UserError(f"metric: {metric} says what a run was, not how good it is; name a column such as loss")
    cells = opened(source)
    metric, *also = (_column(name, cells, columns) for name in (metric, *also))
    names, factors = _names(cells, (*REQUIRED, metric, *also), (*TEXT, *OPTIONAL, *SHARED), columns, kappa)
    n_rows = cells.n_rows(names.values())
    texts = {"run_id": [f"row-{i + 1}" for i in range(n_rows)], "role": ["grid"] * n_rows}
    texts |= {ours: list(map(str, cells.columns[names[ours]])) for ours in (*TEXT, *SHARED) if ours in names}
    keep, said = _kept(cells, texts["run_id"], texts["role"], exclude, only)
    rows = {name: [values[i] for i in keep] for name, values in cells.columns.items() if len(values) == n_rows}
    run_id, role = (np.array([texts[name][i] for i in keep], dtype=object) for name in TEXT)

    def where(i: int) -> str:
        return f"row {cells.lines[keep[i]]}" if cells.lines else f"run {run_id[i]}"

    # Without run ids, two rows may share (N, D, C): seeds do. The same row twice would count one run double.
    if "run_id" not in names and (again := first_repeat(map(str, zip(*rows.values(), strict=True)))):
        both = " and ".join(map(where, again))
        raise UserError(f"{cells.name}: the same row appears twice ({both}); keep one of them")
    said += [(f"column {ours}", f"{columns[ours]!r} in the file") for ours in names if columns.get(ours, ours) != ours]
    raw = {ours: rows[theirs] for ours, theirs in names.items() if ours in also or ours not in (*TEXT, *SHARED)}
    numeric = _numbers(raw, factors, kappa, said)
    shared = {name: np.array([texts[name][i] for i in keep]) for name in SHARED if name in names}
    if (trained := _trainings(run_id, numeric["n_params"], numeric["n_tokens"])) is not None:
        shared["trajectory"], run_id = run_id, trained
    given: dict[str, Any] = {name: numeric.get(name) for name in (*REQUIRED, *OPTIONAL)}
    table = Table(
        run_id, loss=numeric[metric], role=role, **given, metric=metric, source=cells.name, better=better,
        exclusions=tuple(exclude.items()), columns={name: numeric[name] for name in also}, shared=shared,
        recorded=(*cells.recorded, *said),
        info={name: cells.info[names[name]] for name in (metric, *also) if names[name] in cells.info},
    )  # fmt: skip
    if metric == "loss" and np.mean(table.loss < 0) > 0.5:
        signed = "which no loss is; a metric of either sign has another name: add --metric nll --columns"
        raise UserError(f"{cells.name}: column loss is negative, {signed} {shlex.quote(f'nll={names[metric]}')}")
    check(table, where, raw, rows)
    return table


def _trainings(run_id: np.ndarray, n_params: np.ndarray, n_tokens: np.ndarray) -> np.ndarray | None:
    """Names of rows that are readings of trainings, run@D; None unless a run_id repeats, at one N and at other D."""
    if not first_repeat(run_id) or np.isnan(n_params).any() or not np.isfinite(n_tokens).all():
        return None
    named = np.array([f"{name}@{count(d)}" for name, d in zip(run_id, n_tokens, strict=True)], dtype=object)
    alike = len({*zip(run_id, n_params, strict=True)}) == len({*run_id})
    return named if alike and not first_repeat(named) else None


def read_columns(
    source: Source, needed: Sequence[str], optional: Sequence[str], columns: Mapping[str, str] | None = None
) -> tuple[str, dict[str, list], list[str]]:
    """(the source's name, {our name: values}, [where each row is]) of a table's columns: run_id and role as text, all
    others as floats. columns {our name: the source's name}; `needed` ones must be there. Of the metric, loss, a cell
    without a number is nan. Raises UserError as `read_table` does."""
    cells = opened(source)
    names, factors = _names(cells, needed, optional, dict(columns or {}), None)
    n_rows = cells.n_rows(names.values())
    where = [f"row {line}" for line in (cells.lines or COUNTED)[:n_rows]]
    found = {ours: list(cells.columns[theirs]) for ours, theirs in names.items()}
    numeric = _numbers({ours: values for ours, values in found.items() if ours not in TEXT}, factors, None, [])
    faults = [
        # `rates` leaves no run out by name.
        (wrong := fault(i, ours, found[ours][i], False))._replace(cure=wrong.cure or "write a number")
        for ours, numbers in numeric.items()
        for i in map(int, np.flatnonzero(np.isnan(numbers)))
        if ours != "loss" or not lacks(found[ours][i], True)
    ]
    if faults:
        raise complaint(cells.name, faults, where.__getitem__, range(n_rows), {})
    found = {ours: numeric[ours].tolist() if ours in numeric else list(map(str, found[ours])) for ours in names}
    return cells.name, found, where


def _kept(
    cells: Cells, run_id: Sequence[str], role: Sequence[str], exclude: dict[str, str], only: dict[str, str]
) -> tuple[list[int], list[tuple[str, str]]]:
    """(the rows that are read, what must be recorded of those that are not); puts right where runs of `exclude` end."""
    chosen = list(range(len(run_id)))
    for name, value in only.items():
        column = list(map(str, cells.column(name)))
        chosen = [i for i in chosen if column[i] == str(value)]
        if not chosen:
            values = sorted(set(column))
            missing = f"no row has {name} = {value!r}{nearest(value, values)}; its values are: {', '.join(values[:8])}"
            raise UserError(f"{cells.name}: {missing}{', ...' if len(values) > 8 else ''}")
    there = {run_id[i] for i in chosen}
    for name in [name for name in exclude if name not in there]:
        # On the command line, run and reason may both have a = in them.
        whole = f"{name}={exclude.pop(name)}"
        splits = [(whole[: at.start()].rstrip(), whole[at.end() :].strip()) for at in re.finditer("=", whole)]
        if not (known := [split for split in splits if split[0] in there]):
            raise UserError(f"{cells.name}: there is no run {name!r} to exclude{nearest(name, there)}")
        exclude.update(known[-1:])
    left = [i for i in chosen if run_id[i] not in exclude]
    if not left:
        raise UserError(f"{cells.name}: every run is excluded")
    keep = [i for i in left if role[i] != "rate"]
    if not keep:
        raise UserError(f"{cells.name}: holds a sweep of learning rates and no other run; `ditscale rates` fits it")
    said = [("rows", f"{column} = {value}: {len(chosen)} of {len(run_id)}") for column, value in only.items()]
    if swept := len(left) - len(keep):
        said.append(("rows", f"{swept} of role rate, a learning-rate sweep, left to `ditscale rates`"))
    return keep, said


def _names(
    cells: Cells, needed: Sequence[str], optional: Sequence[str], columns: dict[str, str], kappa: float | str | None
) -> tuple[dict[str, str], dict[str, float]]:
    """({our name: the source's name} of every column that is used, {our name: what its cells are multiplied by})."""
    known = (*optional, *needed)
    names, factors = {name: name for name in known if name in cells.columns}, {}
    for ours, theirs in columns.items():
        if ours not in known:
            hint = f"{nearest(ours, known)}; they are: {', '.join(known)}"
            raise UserError(f"columns: {ours!r} is not a name of ours{hint}")
        scaled = re.fullmatch(r"(.+?)\s*\*\s*([\d.]+(?:[eE][+-]?\d+)?)", theirs)
        if scaled and theirs not in cells.columns:
            theirs, factors[ours] = scaled[1], number(scaled[2], f"columns: the factor of {ours}", above=0)
        cells.column(theirs)
        names[ours] = theirs
    missing = [name for name in needed if name not in names]
    if kappa is not None:
        number(kappa, "kappa", above=0)
        able = [name for name in missing if name in REQUIRED]
        missing = [name for name in missing if able != [name]]
    if missing:
        text = _missing(missing, cells, names, computable={*REQUIRED} <= {*needed})
        raise UserError(f"{cells.name}: {text}; {listed(cells.columns)}")
    return names, factors


def _column(metric: str, cells: Cells, columns: dict[str, str]) -> str:
    """The metric's column, where the table has none of its name: `evaluate --metrics likelihood` fills nll."""
    if metric in cells.columns or metric in columns:
        return metric
    of = {name: (cells.info.get(name) or guess(name)).metric for name in cells.columns}
    pairs = itertools.product(of.items(), METRICS.items())
    long = ((name, word + name.removeprefix(short)) for (name, short), (word, column) in pairs if column == short)
    return next((name for name, spoken in long if spoken == metric), metric)


def _missing(missing: list[str], cells: Cells, names: dict[str, str], computable: bool) -> str:
    """What is missing, the columns that were probably meant, and what to type."""
    free = {name: values for name, values in cells.columns.items() if name not in names.values()}
    meant, doubts = guess_columns([name for name in missing if name in QUANTITIES], free)
    spoken = (repr(name) + ("" if name in QUANTITIES else nearest(name, free)) for name in missing)
    text = f"there is no column {', '.join(spoken)}"
    lost = [name for name in missing if name in REQUIRED and name not in meant]
    computed = computable and len(lost) == 1
    if meant:
        theirs = ", ".join(repr(name.partition("*")[0]) for name in meant.values())
        option = shlex.quote(",".join(map("=".join, meant.items()))) + " --kappa 6" * computed
        are = f"{theirs} {'are' if len(meant) > 1 else 'is'}"
        text += "; ".join([f"; if {are} meant, add --columns {option}", *doubts])
    if computed:
        text += f"; --kappa 6 computes {lost[0]} from C = 6 N D"
    others = [name for name in free if guess(name).metric in METRICS.values() and guess(name).quantity == "value"]
    if "loss" in missing and "loss" not in meant and others:
        text += f"; --metric {shlex.quote(others[0])} fits that column"
    return text


def _numbers(
    raw: Mapping[str, Sequence[Any]], factors: Mapping[str, float], kappa: Any, said: list[tuple[str, str]]
) -> dict[str, np.ndarray]:
    """The columns as floats and, with kappa, the missing one of N, D and C; adds to `said` what was done."""
    numeric = {}
    for ours, values in raw.items():
        numbers, sized = floats(values)
        numeric[ours] = numbers * factors.get(ours, 1.0)
        said += [(f"cells of {ours}", sized)] if sized else []
    lacking = next((name for name in REQUIRED if name not in numeric), None)
    if lacking and kappa is not None:
        kappa, other = float(kappa), "n_tokens" if lacking == "n_params" else "n_params"
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if lacking == "budget_flops":
                how = f"{kappa:g} n_params n_tokens"
                numeric[lacking] = kappa * numeric["n_params"] * numeric["n_tokens"]
            else:
                how = f"budget_flops / ({kappa:g} {other})"
                numeric[lacking] = numeric["budget_flops"] / kappa / numeric[other]
        said.append((lacking, f"computed as {how}"))
    return numeric
