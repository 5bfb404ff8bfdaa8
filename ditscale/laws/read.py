"""Reading a table of runs from a CSV, an HDF5 file or a study directory. Every mistake in it is one line, by place."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np

from ..errors import UserError, nearest
from ..units import compact, number
from .table import OPTIONAL, REQUIRED, Table, check

TEXT = ("run_id", "role")
# What people call the columns elsewhere. Only suggested, never taken: `N` in millions or `C` in petaFLOP-days is
# common.
SYNONYMS = {
    "n_params": ("params", "parameters", "n", "num_params", "model_size", "size", "n_parameters", "model_params"),
    "n_tokens": ("tokens", "d", "num_tokens", "data", "n_data", "train_tokens", "training_tokens", "total_tokens"),
    "budget_flops": ("c", "flops", "budget", "compute", "training_flops", "training_flop", "flop", "total_flops"),
    "loss": ("l", "final_loss", "val_loss", "validation_loss", "train_loss", "eval_loss"),
}
# What `ditscale evaluate` calls a metric, and the column that `ditscale collect` puts it in.
MEASURED = {"val_loss": "loss", "likelihood": "nll"}
SIZES = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}


def read_table(path, metric: str = "loss", exclude=None, *, columns=None, kappa=None, also=(), only=None) -> Table:
    """Read a table of runs from a CSV file, an HDF5 file or a study directory (its study.h5).

    metric: the column that is fitted; a metric of `ditscale evaluate`, or that of a data set ("likelihood_coco"),
    stands for its column. exclude {run_id: reason}: rows left out before they are checked, and listed in
    `Table.exclusions`. Rows of role "rate", a learning-rate sweep, are never read: a slice holds each size at the
    recipe's rate alone. columns {our name: the file's name}: for a file with other names, such as {"n_params": "Model
    Size"}. kappa: where the file lacks one of n_params (N), n_tokens (D) and budget_flops (C), compute it from C =
    kappa N D. also: further numeric columns, kept in `Table.columns`; their cells may be nan or empty. only {the file's
    name: value}: read the rows with that value alone, as of one experiment in a table of many.

    A CSV is UTF-8 text separated by commas, semicolons or tabs, with a header line; lines `# key: value` above it are
    kept in `Table.recorded`, and so are the attributes of an HDF5 file. Raises UserError naming the file, the row (the
    line as an editor counts it, or the run) and the column.
    """
    path, exclude, also = _existing(path), dict(exclude or {}), tuple(also)
    if metric in (*REQUIRED, *TEXT):
        raise UserError(f"metric: {metric} says what a run was, not how good it is; name a column such as loss")
    with _opened(path) as handle:
        head = handle.read(8)
    found, lines, recorded = (_read_hdf5 if head == b"\x89HDF\r\n\x1a\n" else _read_csv)(path)
    metric, *also = (_column(name, found, dict(columns or {})) for name in (metric, *also))
    names = _names(path, tuple(found), metric, dict(columns or {}), kappa, also)
    cells = {ours: found[theirs] for ours, theirs in names.items()}
    lengths = {names[ours]: len(column) for ours, column in cells.items()}
    count = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        raise UserError(f"{path}: columns differ in length: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    if not count:
        raise UserError(f"{path}: no rows; a table needs one row per run")
    run_id = np.array([str(r) for r in cells.get("run_id", [f"row-{i + 1}" for i in range(count)])], dtype=object)
    where = [f"row {line}" for line in lines] if lines else [f"run {name}" for name in run_id]
    chosen = _chosen(path, found, dict(only or {}), count)
    listed = {run_id[i] for i in chosen}
    for name in exclude:
        if name not in listed:
            raise UserError(f"{path}: there is no run {name!r} to exclude{nearest(name, listed)}")
    keep = [i for i in chosen if run_id[i] not in exclude]
    if not keep:
        raise UserError(f"{path}: every run is excluded")
    role = np.array(cells.get("role", ["grid"] * count), dtype=object)
    swept = [i for i in keep if role[i] == "rate"]
    keep = [i for i in keep if role[i] != "rate"]
    if not keep:
        raise UserError(f"{path}: holds a sweep of learning rates and no other run; `ditscale rates` fits it")
    if "run_id" not in cells:
        _refuse_same_rows(path, found, where, keep)
    numeric = {}
    for ours, column in cells.items():
        if ours not in TEXT:
            # A probe that has not been run has no metric yet, and further columns may lack a value.
            blank = role == "probe" if ours == metric else np.full(count, ours not in REQUIRED)
            numeric[ours] = _floats(column, keep, blank, where, path, names[ours])
    recorded += [(f"column {ours}", f"{theirs!r} in the file") for ours, theirs in names.items() if ours != theirs]
    recorded += _complete(numeric, kappa)
    recorded += [("rows", f"{column} = {value}: {len(chosen)} of {count}") for column, value in (only or {}).items()]
    recorded += (
        [("rows", f"{len(swept)} of role rate, a learning-rate sweep, left to `ditscale rates`")] if swept else []
    )
    table = Table(
        run_id[keep],
        *(numeric[name] for name in REQUIRED),
        loss=numeric[metric],
        role=role[keep],
        **{name: numeric[name] for name in OPTIONAL if name in numeric},
        metric=metric,
        source=str(path),
        exclusions=tuple(exclude.items()),
        columns={name: numeric[name] for name in also},
        recorded=tuple(recorded),
    )
    check(table, [where[i] for i in keep])
    return table


def read_columns(path, needed, optional, columns=None) -> tuple[dict[str, list], list[str]]:
    """({our name: values}, [where each row is]) of a table's columns: run_id and role as text, all others as floats.

    columns {our name: the file's name}; `needed` ones must be there. Of the metric, loss, an empty cell is nan. Raises
    UserError as `read_table` does.
    """
    path, columns = _existing(path), dict(columns or {})
    with _opened(path) as handle:
        head = handle.read(8)
    found, lines, _ = (_read_hdf5 if head == b"\x89HDF\r\n\x1a\n" else _read_csv)(path)
    for ours, theirs in columns.items():
        if ours not in (*needed, *optional):
            raise UserError(f"columns: {ours!r} is not a name of ours; they are: {', '.join((*needed, *optional))}")
        if theirs not in found:
            raise UserError(f"{path}: there is no column {theirs!r}{nearest(theirs, found)}; {_listed(tuple(found))}")
    names = {n: columns.get(n, n) for n in (*needed, *optional) if columns.get(n, n) in found}
    missing = [n for n in needed if n not in names]
    if missing:
        raise UserError(f"{path}: {_missing(missing, tuple(found), names, kappa=False)}; {_listed(tuple(found))}")
    count = len(found[names[needed[0]]])
    if not count:
        raise UserError(f"{path}: no rows; a table needs one row per run")
    where = [f"row {line}" for line in lines] if lines else [f"row {i + 1}" for i in range(count)]
    keep = range(count)
    return {
        ours: [str(v) for v in found[theirs]] if ours in TEXT
        else _floats(found[theirs], keep, [ours == "loss"] * count, where, path, theirs).tolist()
        for ours, theirs in names.items()
    }, where  # fmt: skip


def _chosen(path, found: dict, only: dict, count: int) -> list[int]:
    """The rows that have every value of `only`. Raises UserError, with the values there are, when none has."""
    rows = list(range(count))
    for column, value in only.items():
        if column not in found:
            raise UserError(f"{path}: there is no column {column!r}{nearest(column, found)}; {_listed(tuple(found))}")
        rows = [i for i in rows if str(found[column][i]) == str(value)]
        if not rows:
            values = sorted({str(v) for v in found[column]})
            raise UserError(
                f"{path}: no row has {column} = {value!r}{nearest(value, values)}; its values are: "
                f"{', '.join(values[:8])}{', ...' if len(values) > 8 else ''}"
            )
    return rows


def _existing(path) -> Path:
    path = Path(path)
    if path.is_dir():
        if not (path / "study.h5").exists():
            raise UserError(f"{path} has no study.h5; run `ditscale collect {path}` first")
        return path / "study.h5"
    if not path.exists():
        raise UserError(f"{path}: no such file; give a CSV, an HDF5 file or a study directory")
    return path


def _opened(path: Path, mode: str = "rb", **how):
    try:
        return open(path, mode, **how)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


# -------------------------------------------------------------------------------------------------------- column names


def _names(path, there: tuple[str, ...], metric: str, columns: dict, kappa, also) -> dict[str, str]:
    """{our name: the file's name} of every column that is used. Raises UserError, with a way out, for a missing one."""
    known = (*TEXT, *REQUIRED, *OPTIONAL, metric, *also)
    for ours, theirs in columns.items():
        if ours not in known:
            raise UserError(
                f"columns: {ours!r} is not a name of ours{nearest(ours, known)}; they are: {', '.join(known)}"
            )
        if theirs not in there:
            raise UserError(f"{path}: there is no column {theirs!r}{nearest(theirs, there)}; {_listed(there)}")
    names = {ours: columns.get(ours, ours) for ours in known if columns.get(ours, ours) in there}
    missing = [name for name in (*REQUIRED, metric, *also) if name not in names]
    if kappa is not None:
        number(kappa, "kappa", above=0)
        able = [name for name in missing if name in REQUIRED]
        if len(able) == 1:
            missing.remove(able[0])
    if missing:
        raise UserError(f"{path}: {_missing(missing, there, names)}; {_listed(there)}")
    return names


def _column(metric: str, there: dict, columns: dict[str, str]) -> str:
    """The metric's column, where the table has none of its name."""
    if metric in there or metric in columns:
        return metric
    meant = (
        column + metric.removeprefix(name)
        for name, column in MEASURED.items()
        if metric == name or metric.startswith((f"{name}_", f"{name}:"))
    )
    return next((column for column in meant if column in there), metric)


def _missing(missing: list[str], there: tuple[str, ...], names: dict[str, str], kappa: bool = True) -> str:
    """What is missing, the columns that were probably meant, and how to say so."""
    text = f"there is no column {', '.join(map(repr, missing))}"
    free = [name for name in there if name not in names.values()]
    plain = {re.sub(r"[\s\-]+", "_", name.strip().lower()): name for name in reversed(free)}
    meant = {}
    for name in missing:
        close = nearest(name, plain).split("'")[1:2]
        choice = next((plain[n] for n in (name, *SYNONYMS.get(name, ()), *close) if n in plain), None)
        if choice is not None:
            meant[name] = choice
    if meant:
        mapping = ",".join(f"{ours}={theirs}" for ours, theirs in meant.items())
        mapping = f"'{mapping}'" if " " in mapping else mapping
        are = "are" if len(meant) > 1 else "is"
        text += f"; if {', '.join(map(repr, meant.values()))} {are} meant, rename or add --columns {mapping}"
    lost = [name for name in missing if name in REQUIRED and name not in meant]
    if len(lost) == 1 and kappa:
        text += f"; --kappa 6 computes {lost[0]} from C = 6 N D"
    return text


def _listed(there: tuple[str, ...]) -> str:
    shown = [name if len(name) <= 40 else f"{name[:37]}..." for name in there[:20]]
    return f"the columns are: {', '.join(shown) or 'none'}{', ...' if len(there) > 20 else ''}"


# --------------------------------------------------------------------------------------------------------------- cells


def _floats(column, keep, blank, where, path, name: str) -> np.ndarray:
    """The kept cells of a column as floats, at once; only when one is no number, cell by cell to say which.

    blank (n,): where an empty cell is nan.
    """
    kept = ["nan" if blank[i] and column[i] == "" else column[i] for i in keep]
    try:
        return np.array(kept, dtype=float)
    except (TypeError, ValueError):
        return np.array(
            [_cell(value, f"{path}, {where[i]}, column {name}") for i, value in zip(keep, kept, strict=True)]
        )


def _cell(value, what: str) -> float:
    """One number from its text; UserError with the text that would be one. nan passes: `check` says what to do."""
    if isinstance(value, str) and not value.strip():
        raise UserError(f"{what}: the cell is empty; write a number")
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    text = str(value) if len(str(value)) <= 40 else f"{str(value)[:37]}..."
    sized = re.fullmatch(r"\s*([\d.]+)\s*([kKmMgGbBtT])\s*", text)
    if sized and sized[1].count(".") < 2 and sized[1] != ".":
        raise UserError(f"{what}: {text!r} is not a number; write {compact(float(sized[1]) * SIZES[sized[2].lower()])}")
    if re.fullmatch(r"[\d.,'\s+\-]+", text) and any(c.isdigit() for c in text):
        raise UserError(f"{what}: {text!r} is not a number; write it without separators and with a decimal point")
    return number(text, what)


def _complete(numeric: dict[str, np.ndarray], kappa) -> list[tuple[str, str]]:
    """Add the missing one of N, D and C to `numeric`; what was done, to be recorded."""
    lacking = next((name for name in REQUIRED if name not in numeric), None)
    if lacking is None:
        return []
    kappa = float(kappa)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if lacking == "budget_flops":
            numeric[lacking], how = kappa * numeric["n_params"] * numeric["n_tokens"], f"{kappa:g} n_params n_tokens"
        else:
            other = "n_tokens" if lacking == "n_params" else "n_params"
            numeric[lacking] = numeric["budget_flops"] / kappa / numeric[other]
            how = f"budget_flops / ({kappa:g} {other})"
    return [(lacking, f"computed as {how}")]


def _refuse_same_rows(path, found: dict, where, keep) -> None:
    """Without run ids, two rows may share (N, D, C): seeds do. The same row twice would count one run double."""
    seen: dict[tuple, str] = {}
    for i, row in zip(keep, zip(*([column[i] for i in keep] for column in found.values()), strict=True), strict=True):
        if row in seen:
            raise UserError(f"{path}: the same row appears twice ({seen[row]} and {where[i]}); keep one of them")
        seen[row] = where[i]


# --------------------------------------------------------------------------------------------------------------- files


def _read_csv(path):
    """({column: [text]}, [line number], [(key, value)]) of a CSV; lines count from 1 as in an editor."""
    try:
        with _opened(path, "r", newline="", encoding="utf-8-sig") as handle:
            text = handle.read()
        if "\0" in text:
            raise UnicodeError
        lines = list(io.StringIO(text, newline=""))
        skipped, recorded = 0, []
        while skipped < len(lines) and (not lines[skipped].strip() or lines[skipped].lstrip().startswith("#")):
            key, _, value = lines[skipped].strip().lstrip("# ").partition(":")
            recorded += [(key.strip(), value.strip())] if value.strip() else []
            skipped += 1
        first = lines[skipped] if skipped < len(lines) else ""
        separator = "," if "," in first else max(";\t", key=first.count)
        reader = csv.reader(lines[skipped:], delimiter=separator)
        header = [name.strip() for name in next(reader, [])]
        rows, before = [], reader.line_num
        for row in reader:
            if reader.line_num > before + 1:
                # A quote that is never closed would make one run of many rows, silently.
                raise UserError(
                    f"{path}, row {skipped + before + 1}: a quoted cell goes on over the next line; close the quote"
                )
            before = reader.line_num
            if any(map(str.strip, row)):
                rows.append((skipped + before, row))
    except (UnicodeError, csv.Error):
        raise UserError(f"{path} is neither CSV text (UTF-8) nor HDF5") from None
    if not any(header):
        raise UserError(f"{path} is empty; its first line must name the columns, as in {','.join(REQUIRED)},loss")
    if sum(map(_is_number, header)) > 2:
        raise UserError(
            f"{path}, row {skipped + 1}: numbers where the header is expected; the first line must name the columns, "
            f"as in {','.join(REQUIRED)},loss"
        )
    while header and not header[-1] and not any("".join(row[len(header) - 1 :]).strip() for _, row in rows):
        header.pop()  # a comma at the end of every line
    for i, name in enumerate(header):
        if not name:
            header[i] = f"column {i + 1}"
        elif name in header[:i]:
            raise UserError(f"{path}, row {skipped + 1}: column {name!r} appears twice; rename one")
    width = len(header)
    for line, row in rows:
        if row[0].lstrip().startswith("#"):
            raise UserError(f"{path}, row {line}: comments stand above the header only; delete the row or the #")
        if len(row) < width or any(map(str.strip, row[width:])):
            hint = "; numbers take no thousands separators" if len(row) > width else ""
            raise UserError(f"{path}, row {line}: {len(row)} cells, but the header has {width} columns{hint}")
    columns = [list(map(str.strip, column)) for column in zip(*(row[:width] for _, row in rows), strict=True)]
    return dict(zip(header, columns or [[]] * width, strict=True)), [line for line, _ in rows], recorded


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_hdf5(path):
    """({column: [value]}, None, [(key, value)]) of 1-D datasets at the root or in the group `points`."""
    import h5py

    try:
        # Someone may be collecting on another machine of a shared file system; we only read.
        with h5py.File(path, "r", locking=False) as file:
            group = file["points"] if isinstance(file.get("points"), h5py.Group) else file
            columns = {
                name: [v.decode() if isinstance(v, bytes) else v for v in group[name][()].tolist()]
                for name in group
                if isinstance(group[name], h5py.Dataset) and group[name].ndim == 1
            }
            # `study` is the whole of study.yaml; what a reader of the laws wants of it stands beside it.
            recorded = [(k, " ".join(str(v).split())) for k, v in file.attrs.items() if k not in ("layout", "study")]
    except (OSError, RuntimeError, KeyError, ValueError):
        raise UserError(f"{path} is a damaged or truncated HDF5 file; run `ditscale collect` again") from None
    return columns, None, recorded
