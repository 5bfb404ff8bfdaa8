"""Reading a table of runs from a CSV, an HDF5 file, a study directory, or columns in memory. Every mistake in it is one
line, by place."""

import csv
import io
import itertools
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Iterable, NamedTuple, Protocol, Sequence

import numpy as np

from ..errors import UserError, nearest
from ..quantities import METRICS, ColumnInfo, guess
from ..units import compact, number
from .result import short
from .table import OPTIONAL, REQUIRED, SHARED, Table, check

TEXT = ("run_id", "role")
# What people call the columns elsewhere. Only suggested, never taken: `N` is often in millions.
SYNONYMS = {
    "n_params": "params parameters n num_params model_size size n_parameters model_params",
    "n_tokens": "tokens d num_tokens data n_data train_tokens training_tokens total_tokens",
    "budget_flops": "c flops budget compute training_flops training_flop flop total_flops",
    "loss": "l final_loss val_loss validation_loss train_loss eval_loss",
}
SIZES = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}


class Frame(Protocol):
    """A DataFrame of pandas or polars, as far as a table is read from it."""

    @property
    def columns(self) -> Iterable[Any]: ...

    def __getitem__(self, name: Any) -> Any: ...


Source = str | Path | Table | Mapping[str, Any] | Frame


class _Cells(NamedTuple):
    """A source as it stands: its name in messages, its columns, the line of each row (none where rows have no lines),
    (key, value) texts that came with the rows, and what columns hold where the source says it."""

    name: str
    columns: dict[str, list]
    lines: list[int]
    recorded: list[tuple[str, str]]
    info: dict[str, ColumnInfo]

    def column(self, name: str) -> list:
        if name not in self.columns:
            near = nearest(name, self.columns)
            raise UserError(f"{self.name}: there is no column {name!r}{near}; {_listed(self.columns)}")
        return self.columns[name]

    def n_rows(self, names: Iterable[str]) -> int:
        """The number of rows. Raises UserError where the columns `names` differ in length, or there is no row."""
        lengths = {name: len(self.columns[name]) for name in names}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise UserError(f"{self.name}: columns differ in length: {shown}")
        if not any(lengths.values()):
            raise UserError(f"{self.name}: no rows; a table needs one row per run")
        return next(iter(lengths.values()))


def read_table(
    source: Source, metric: str = "loss", exclude: Mapping[str, str] | None = None, *,
    columns: Mapping[str, str] | None = None, kappa: float | str | None = None, also: Iterable[str] = (),
    only: Mapping[str, str] | None = None, better: str = "",
) -> Table:  # fmt: skip
    """Read a table of runs from a CSV or HDF5 file, a study directory (its study.h5), a mapping of columns or a
    DataFrame. A `Table` is returned as it is.

    metric: the column that is fitted; a metric of `ditscale evaluate`, or that of a data set ("likelihood_coco"),
    stands for its column. exclude {run_id: reason}: rows left out before they are checked, and listed in
    `Table.exclusions`. columns {our name: the source's name}, such as {"n_params": "Model Size"}. kappa: where one of
    n_params (N), n_tokens (D) and budget_flops (C) is lacking, compute it from C = kappa N D. also: further numeric
    columns, kept in `Table.columns`; their cells may be nan or empty. only {the source's name: value}: read the rows
    with that value alone. better: "higher" where a higher metric is better, if its name does not say so. Columns of
    `table.SHARED` are kept in `Table.shared`. Rows of role "rate", a learning-rate sweep, are never read.

    A CSV is UTF-8 text separated by commas, semicolons or tabs, with a header line; lines `# key: value` above it are
    kept in `Table.recorded`, and so are the attributes of an HDF5 file. Raises UserError naming the source, the row
    (the line as an editor counts it, or the run) and the column.

        ds.read_table("runs.csv", "fid", columns={"n_params": "size"})
    """
    if isinstance(source, Table):
        return source
    columns, exclude, only = dict(columns or {}), dict(exclude or {}), dict(only or {})
    if metric in (*REQUIRED, *TEXT):
        raise UserError(f"metric: {metric} says what a run was, not how good it is; name a column such as loss")
    cells = _opened(source)
    metric, *also = (_column(name, cells, columns) for name in (metric, *also))
    names = _names(cells, (*REQUIRED, metric, *also), (*TEXT, *OPTIONAL), columns, kappa)
    count = cells.n_rows(names.values())
    ids = cells.columns[names["run_id"]] if "run_id" in names else [f"row-{i + 1}" for i in range(count)]
    run_id = np.array(list(map(str, ids)), dtype=object)
    role = np.array(cells.columns[names["role"]] if "role" in names else ["grid"] * count, dtype=object)
    where = [f"row {line}" for line in cells.lines] or [f"run {name}" for name in run_id]
    keep, said = _kept(cells, run_id, role, exclude, only)
    if "run_id" not in names:
        _refuse_same_rows(cells, where, keep)
    # A probe that has not been run has no metric yet, and further columns may lack a value.
    may_lack = {metric: role == "probe"} | dict.fromkeys(REQUIRED, np.zeros(count, dtype=bool))
    blank, numbers = np.ones(count, dtype=bool), {o: t for o, t in names.items() if o not in TEXT}
    numeric = {o: _floats(cells, t, keep, may_lack.get(o, blank), where) for o, t in numbers.items()}
    renamed = [(f"column {ours}", f"{theirs!r} in the file") for ours, theirs in names.items() if ours != theirs]
    computed = _complete(numeric, kappa)
    table = Table(
        run_id[keep], numeric["n_params"], numeric["n_tokens"], numeric["budget_flops"], numeric[metric], role[keep],
        numeric.get("loss_se"), numeric.get("n_images"), numeric.get("achieved_flops"), metric, cells.name,
        exclusions=tuple(exclude.items()), columns={name: numeric[name] for name in also},
        recorded=(*cells.recorded, *renamed, *computed, *said),
        info={name: cells.info[names[name]] for name in (metric, *also) if names[name] in cells.info}, better=better,
        shared={name: np.array(cells.columns[name])[keep] for name in SHARED if name in cells.columns},
    )  # fmt: skip
    check(table, [where[i] for i in keep])
    return table


def read_columns(
    source: Source, needed: Sequence[str], optional: Sequence[str], columns: Mapping[str, str] | None = None
) -> tuple[str, dict[str, list], list[str]]:
    """(the source's name, {our name: values}, [where each row is]) of a table's columns: run_id and role as text, all
    others as floats. columns {our name: the source's name}; `needed` ones must be there. Of the metric, loss, an empty
    cell is nan. Raises UserError as `read_table` does."""
    cells = _opened(source)
    names = _names(cells, needed, optional, dict(columns or {}), None, computable=False)
    count = cells.n_rows(names.values())
    where = [f"row {line}" for line in cells.lines or range(1, count + 1)]
    values = {}
    for ours, theirs in names.items():
        numbers = ours not in TEXT and _floats(cells, theirs, range(count), [ours == "loss"] * count, where).tolist()
        values[ours] = numbers or list(map(str, cells.columns[theirs]))
    return cells.name, values, where


def _kept(
    cells: _Cells, run_id: np.ndarray, role: np.ndarray, exclude: dict[str, str], only: dict[str, str]
) -> tuple[list[int], list[tuple[str, str]]]:
    """The rows that are read, and what must be recorded of those that are not. Raises UserError where there are none,
    with the values there are when none has that of `only`."""
    chosen = list(range(len(run_id)))
    for name, value in only.items():
        column = list(map(str, cells.column(name)))
        chosen = [i for i in chosen if column[i] == str(value)]
        if not chosen:
            values = sorted(set(column))
            missing = f"no row has {name} = {value!r}{nearest(value, values)}; its values are: {', '.join(values[:8])}"
            raise UserError(f"{cells.name}: {missing}{', ...' if len(values) > 8 else ''}")
    listed = {run_id[i] for i in chosen}
    for name in exclude:
        if name not in listed:
            raise UserError(f"{cells.name}: there is no run {name!r} to exclude{nearest(name, listed)}")
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
    cells: _Cells, needed: Sequence[str], optional: Sequence[str], columns: dict[str, str],
    kappa: float | str | None, computable: bool = True,
) -> dict[str, str]:  # fmt: skip
    """{our name: the source's name} of every column that is used. Raises UserError, with a way out, for a missing
    one; computable: whether one of N, D and C may be computed from the others."""
    known = (*optional, *needed)
    for ours, theirs in columns.items():
        if ours not in known:
            hint = f"{nearest(ours, known)}; they are: {', '.join(known)}"
            raise UserError(f"columns: {ours!r} is not a name of ours{hint}")
        cells.column(theirs)
    names = {ours: columns.get(ours, ours) for ours in known if columns.get(ours, ours) in cells.columns}
    missing = [name for name in needed if name not in names]
    if kappa is not None:
        number(kappa, "kappa", above=0)
        able = [name for name in missing if name in REQUIRED]
        missing = [name for name in missing if able != [name]]
    if missing:
        lost = _missing(missing, [*cells.columns], names, computable)
        raise UserError(f"{cells.name}: {lost}; {_listed(cells.columns)}")
    return names


def _column(metric: str, cells: _Cells, columns: dict[str, str]) -> str:
    """The metric's column, where the table has none of its name: `evaluate --metrics likelihood` fills nll."""
    if metric in cells.columns or metric in columns:
        return metric
    of = {name: (cells.info.get(name) or guess(name)).metric for name in cells.columns}
    pairs = itertools.product(of, METRICS.items())
    long = ((name, of[name], word) for name, (word, column) in pairs if column == of[name])
    return next((name for name, short, word in long if metric == word + name.removeprefix(short)), metric)


def _missing(missing: list[str], there: list[str], names: dict[str, str], computable: bool) -> str:
    """What is missing, the columns that were probably meant, and how to say so."""
    text = f"there is no column {', '.join(map(repr, missing))}"
    free = [name for name in reversed(there) if name not in names.values()]
    plain = {re.sub(r"[\s\-]+", "_", name.strip().lower()): name for name in free}
    meant: dict[str, str] = {}
    for name in missing:
        close = nearest(name, plain).split("'")[1:2]
        choices = [plain[n] for n in (name, *SYNONYMS.get(name, "").split(), *close) if n in plain]
        meant |= {name: choices[0]} if choices else {}
    if meant:
        mapping = ",".join(f"{ours}={theirs}" for ours, theirs in meant.items())
        mapping = f"'{mapping}'" if " " in mapping else mapping
        are = "are" if len(meant) > 1 else "is"
        text += f"; if {', '.join(map(repr, meant.values()))} {are} meant, rename or add --columns {mapping}"
    lost = [name for name in missing if name in REQUIRED and name not in meant]
    if len(lost) == 1 and computable:
        text += f"; --kappa 6 computes {lost[0]} from C = 6 N D"
    return text


def _listed(there: Collection[str]) -> str:
    shown = ", ".join(map(short, itertools.islice(there, 20)))
    return f"the columns are: {shown or 'none'}{', ...' if len(there) > 20 else ''}"


def _floats(
    cells: _Cells, name: str, keep: Sequence[int], blank: Sequence[bool] | np.ndarray, where: list[str]
) -> np.ndarray:
    """The kept cells of a column as floats; where one is no number, cell by cell. blank (n,): an empty cell is nan."""
    column = cells.columns[name]
    kept = ["nan" if blank[i] and column[i] in ("", None) else column[i] for i in keep]
    try:
        return np.array(kept, dtype=float)
    except (TypeError, ValueError):
        at = [f"{cells.name}, {where[i]}, column {name}" for i in keep]
        return np.array([_cell(value, what) for value, what in zip(kept, at, strict=True)])


def _cell(value: Any, what: str) -> float:
    """One number from its text; UserError with the text that would be one. nan passes: `check` says what to do."""
    if isinstance(value, str) and not value.strip():
        raise UserError(f"{what}: the cell is empty; write a number")
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    text = short(str(value))
    sized = re.fullmatch(r"\s*([\d.]+)\s*([kKmMgGbBtT])\s*", text)
    if sized and sized[1].count(".") < 2 and sized[1] != ".":
        raise UserError(f"{what}: {text!r} is not a number; write {compact(float(sized[1]) * SIZES[sized[2].lower()])}")
    if re.fullmatch(r"[\d.,'\s+\-]+", text) and any(c.isdigit() for c in text):
        raise UserError(f"{what}: {text!r} is not a number; write it without separators and with a decimal point")
    return number(text, what)


def _complete(numeric: dict[str, np.ndarray], kappa: Any) -> list[tuple[str, str]]:
    """Add the missing one of N, D and C to `numeric`; what was done, to be recorded."""
    lacking = next((name for name in REQUIRED if name not in numeric), None)
    if lacking is None:
        return []
    kappa, other = float(kappa), "n_tokens" if lacking == "n_params" else "n_params"
    how = f"{kappa:g} n_params n_tokens" if lacking == "budget_flops" else f"budget_flops / ({kappa:g} {other})"
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if lacking == "budget_flops":
            numeric[lacking] = kappa * numeric["n_params"] * numeric["n_tokens"]
        else:
            numeric[lacking] = numeric["budget_flops"] / kappa / numeric[other]
    return [(lacking, f"computed as {how}")]


def _refuse_same_rows(cells: _Cells, where: list[str], keep: list[int]) -> None:
    """Without run ids, two rows may share (N, D, C): seeds do. The same row twice would count one run double."""
    seen: dict[tuple, str] = {}
    for i in keep:
        if (row := tuple(column[i] for column in cells.columns.values())) in seen:
            raise UserError(f"{cells.name}: the same row appears twice ({seen[row]} and {where[i]}); keep one of them")
        seen[row] = where[i]


def _opened(source: Source) -> _Cells:
    """The columns of a file, or of a mapping or DataFrame in memory."""
    if not isinstance(source, (str, Path)):
        return _in_memory(source)
    path = Path(source)
    if path.is_dir() and not (path / "study.h5").exists():
        raise UserError(f"{path} has no study.h5; run `ditscale collect {path}` first")
    path = path / "study.h5" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path}: no such file; give a CSV, an HDF5 file or a study directory")
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            return _read_hdf5(path) if head == b"\x89HDF\r\n\x1a\n" else _read_csv(path, head + file.read())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _in_memory(source: Any) -> _Cells:
    named = source.keys() if isinstance(source, Mapping) else getattr(source, "columns", None)
    if named is None or isinstance(source, Table):
        what = type(source).__name__
        raise UserError(f"table: cannot be read from a {what}; give a path, a mapping of columns or a DataFrame")
    columns = {}
    for name in named:
        try:
            values = np.asarray(source[name])
        except ValueError:  # Lists of unlike lengths.
            values = np.zeros(())
        if values.ndim != 1:
            raise UserError(f"table: column {name} is not one value for each run")
        # pandas writes a missing cell of some types as NA, which cannot even be compared.
        columns[str(name)] = [None if type(v).__name__ == "NAType" else v for v in values.tolist()]
    return _Cells("table", columns, [], [], {})


def _read_csv(path: Path, content: bytes) -> _Cells:
    """The cells of a CSV as text; lines count from 1 as in an editor."""
    try:
        text = content.decode("utf-8-sig")
        if "\0" in text:
            raise UnicodeError
        lines = list(io.StringIO(text, newline=""))
        said = list(itertools.takewhile(lambda line: not line.strip() or line.lstrip().startswith("#"), lines))
        skipped = len(said)
        first = lines[skipped] if skipped < len(lines) else ""
        separator = "," if "," in first else max(";\t", key=first.count)
        header, rows = _rows(path, csv.reader(lines[skipped:], delimiter=separator), skipped)
    except (UnicodeError, csv.Error):
        raise UserError(f"{path} is neither CSV text (UTF-8) nor HDF5") from None
    header = _header(path, header, rows, skipped + 1)
    width = len(header)
    for line, row in rows:
        if row[0].lstrip().startswith("#"):
            raise UserError(f"{path}, row {line}: comments stand above the header only; delete the row or the #")
        if len(row) < width or any(map(str.strip, row[width:])):
            hint = "; numbers take no thousands separators" if len(row) > width else ""
            raise UserError(f"{path}, row {line}: {len(row)} cells, but the header has {width} columns{hint}")
    columns = [list(map(str.strip, column)) for column in zip(*(row[:width] for _, row in rows), strict=True)]
    named = dict(zip(header, columns or [[]] * width, strict=True))
    pairs = (line.strip().lstrip("# ").partition(":") for line in said)
    recorded = [(key.strip(), value.strip()) for key, _, value in pairs if value.strip()]
    return _Cells(str(path), named, [line for line, _ in rows], recorded, {})


def _rows(path: Path, reader: Any, skipped: int) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """(header, [(line, cells)]) of what is not blank."""
    header = [name.strip() for name in next(reader, [])]
    rows, before = [], reader.line_num
    for row in reader:
        if reader.line_num > before + 1:
            # A quote that is never closed would make one run of many rows, silently.
            here = f"{path}, row {skipped + before + 1}"
            raise UserError(f"{here}: a quoted cell continues on the next line; close the quote")
        before = reader.line_num
        if any(map(str.strip, row)):
            rows.append((skipped + before, row))
    return header, rows


def _header(path: Path, header: list[str], rows: list[tuple[int, list[str]]], line: int) -> list[str]:
    """The names of the columns. Raises UserError where they are no names."""
    names = f"line must name the columns, as in {','.join(REQUIRED)},loss"
    if not any(header):
        raise UserError(f"{path} is empty; its first {names}")
    if sum(map(_is_number, header)) > 2:
        raise UserError(f"{path}, row {line}: numbers where the header is expected; the first {names}")
    while header and not header[-1] and not any("".join(row[len(header) - 1 :]).strip() for _, row in rows):
        header.pop()  # A comma at the end of every line.
    for i, name in enumerate(header):
        if name and name in header[:i]:
            raise UserError(f"{path}, row {line}: column {name!r} appears twice; rename one")
    return [name or f"column {i + 1}" for i, name in enumerate(header)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_hdf5(path: Path) -> _Cells:
    """The 1-D datasets at the root of an HDF5 file or in its group `points`."""
    import h5py

    columns, info = {}, {}
    try:
        # Someone may be collecting on another machine of a shared file system; we only read.
        with h5py.File(path, "r", locking=False) as file:
            group = file["points"] if isinstance(file.get("points"), h5py.Group) else file
            for name, column in group.items():
                if isinstance(column, h5py.Dataset) and column.ndim == 1:
                    columns[name] = [v.decode() if isinstance(v, bytes) else v for v in column[()].tolist()]
                    if said := ColumnInfo.of(column.attrs):
                        info[name] = said
            # `study` is the whole of study.yaml; what a reader of the laws wants of it stands beside it.
            recorded = [(k, " ".join(str(v).split())) for k, v in file.attrs.items() if k not in ("layout", "study")]
    except (OSError, RuntimeError, KeyError, ValueError):
        raise UserError(f"{path} is a damaged or truncated HDF5 file; run `ditscale collect` again") from None
    return _Cells(str(path), columns, [], recorded, info)
