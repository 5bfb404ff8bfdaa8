"""Files and objects that hold a table. A file is told by its content, not by its name."""

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import UserError, nearest
from ..quantities import ColumnInfo
from ..result import short
from .numerals import first_repeat, parse

AS_CSV = "save the table as CSV"
NO_TABLE = f"is neither CSV text (UTF-8) nor HDF5, JSON or Parquet; {AS_CSV}"
PICKLE = f"is a pickle of Python, which is never opened since it can run code; {AS_CSV}"
HDF5 = b"\x89HDF\r\n\x1a\n"
# How files begin that are no table to read, and what they are.
BEGINNINGS = {
    b"\xd0\xcf\x11\xe0": f"is a workbook of Excel; {AS_CSV} there",
    b"ARROW1": f"is an Arrow (Feather) file; {AS_CSV}",
    b"\x93NUMPY": f"is a numpy array, whose columns have no names; {AS_CSV}",
    b"BZh": "is packed by bzip2; unpack it first (bunzip2)",
    b"\xfd7zXZ": "is packed by xz; unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "is packed by zstd; unpack it first (unzstd)",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; run `git lfs pull`",
    b"<": f"is a web page or XML; download the file itself, or {AS_CSV}",
    HDF5: "is a packed HDF5 file; unpack it first",
} | {b"\x80" + bytes([protocol]): PICKLE for protocol in range(2, 6)}
# What a zip archive is that has a file whose name ends so.
ARCHIVES = {".npy": "an npz file of numpy", "data.pkl": "a checkpoint of PyTorch"}
ARCHIVES |= dict.fromkeys(("xl/workbook.xml", "content.xml"), "a workbook of a spreadsheet")
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
CONTROL = bytes({*range(32)} - {*b"\t\n\v\f\r"})
UNPACKED = 2**31  # Bytes of a gzip file that are read at most.
CELLS = 50_000_000  # Rows times columns of a JSON file at most: each object may have keys of its own.
COUNTED = range(1, CELLS + 1)  # Lines of rows in files that are no text.
ONE_RUN = "which is the curve of a run; a table of runs has a row per run: n_params, n_tokens, budget_flops, loss"


class Frame(Protocol):
    """A DataFrame of pandas or polars, as far as a table is read from it."""

    @property
    def columns(self) -> Iterable[Any]: ...

    def __getitem__(self, name: Any) -> Any: ...


class Cells(NamedTuple):
    """A source as it stands: its name in messages, its columns, the line of each row (none where rows have no lines),
    (key, value) texts that came with the rows, and what columns hold where the source says it."""

    name: str
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int] = ()
    recorded: Sequence[tuple[str, str]] = ()
    info: Mapping[str, ColumnInfo] = {}

    def column(self, name: str) -> Sequence[Any]:
        if name not in self.columns:
            near = nearest(name, self.columns)
            raise UserError(f"{self.name}: there is no column {name!r}{near}; {listed(self.columns)}")
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


def listed(there: Collection[str]) -> str:
    shown = ", ".join(map(short, itertools.islice(there, 20)))
    return f"the columns are: {shown or 'none'}{', ...' if len(there) > 20 else ''}"


def opened(source: Any) -> Cells:
    """The columns of a file, or of a mapping or DataFrame in memory. Raises UserError where it is no table."""
    if not isinstance(source, (str, Path)):
        return _in_memory(source)
    path = Path(source)
    try:
        if path.is_dir() and not (path / "study.h5").exists():
            raise UserError(f"{path} has no study.h5; run `ditscale collect {path}` first")
        path = path / "study.h5" if path.is_dir() else path
        if not path.exists():
            raise UserError(f"{path}: no such file; give a CSV, an HDF5 file or a study directory")
        with open(path, "rb") as file:
            if file.read(8) == HDF5:
                return _read_hdf5(path)
            file.seek(0)
            content = file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(UNPACKED + 1)
        except (EOFError, OSError, zlib.error):
            raise UserError(f"{path} is a damaged or truncated gzip file; pack it again") from None
        if len(content) > UNPACKED:
            raise UserError(f"{path} holds more than 2 GiB, which is no table of runs")
    return _read(path, content.removesuffix(b"\x1a"))  # DOS marked the end of texts.


def _read(path: Path, content: bytes) -> Cells:
    """The cells of a file's content, whatever its form."""
    what = next((what for begins, what in BEGINNINGS.items() if content.startswith(begins)), "")
    if content.startswith(b"PK\x03\x04"):
        what = "is a zip archive; unpack it first"
        try:
            names = zipfile.ZipFile(io.BytesIO(content)).namelist()
            held = (kind for end, kind in ARCHIVES.items() for name in names if name.endswith(end))
            what = next((f"is {kind}, which is not opened; {AS_CSV}" for kind in held), what)
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            what = "is neither CSV nor HDF5 but a damaged zip archive"
    if what:
        raise UserError(f"{path} {what}")
    if content.startswith(b"PAR1"):
        return _read_parquet(path, content)
    text, encoding = _decoded(path, content)
    cells = _read_json(path, text) if text.lstrip().startswith(("[", "{")) else _read_csv(path, text)
    if {"Wall time", "Step", "Value"} <= cells.columns.keys():
        raise UserError(f"{path} is a scalar of TensorBoard, {ONE_RUN}")
    if any(name.endswith("__MIN") for name in cells.columns):
        raise UserError(f"{path} is a chart of W&B (steps, with a column per run), not its table of runs; export that")
    said = [("text", "read as Windows-1252, as it is not UTF-8")] if encoding == "cp1252" else []
    return cells._replace(recorded=(*cells.recorded, *said))


def _decoded(path: Path, content: bytes) -> tuple[str, str]:
    """(text, its encoding); each letter of a header is two bytes of UTF-16, one of them zero."""
    marked = [name for mark, name in MARKS.items() if content.startswith(mark)][:1]
    if not marked and b"\0" in content[:1000]:
        marked = ["utf-16-le" if content[1:2] == b"\0" else "utf-16-be"]
    for encoding in marked or ("utf-8", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeError:
            continue
        if len(text.encode().translate(None, CONTROL)) == len(text.encode()):
            return text, encoding
    raise UserError(f"{path} {NO_TABLE}")


def _in_memory(source: Any) -> Cells:
    named = source.keys() if isinstance(source, Mapping) else getattr(source, "columns", None)
    if named is None or isinstance(named, Mapping):
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
    return Cells("table", columns)


def _read_csv(path: Path, text: str) -> Cells:
    """The cells of a CSV as text; lines count from 1 as in an editor."""
    lines = list(io.StringIO(text, newline=""))
    said = list(itertools.takewhile(lambda line: not line.strip() or line.lstrip().startswith("#"), lines))
    skipped, named = len(said), re.fullmatch(r'"?sep=(.)"?\s*', "".join(lines[len(said) : len(said) + 1]))
    skipped += bool(named)  # A line that Excel writes.
    first = re.sub('"[^"]*"', "", "".join(lines[skipped : skipped + 1]))
    separator = named[1] if named else max(",;\t|", key=first.count) if re.search("[,;\t|]", first) else " "
    if separator == "|" and first.lstrip().startswith("|"):  # Markdown
        lines = [line.strip().removeprefix("|").removesuffix("|") + "\n" for line in lines]
    if re.fullmatch(r"[\s|:+-]*--[\s|:+-]*", "".join(lines[skipped + 1 : skipped + 2])):
        lines[skipped + 1] = "\n"  # The rule below a header.
    rows, starts = _rows(path, lines, skipped, separator)
    filled = [i for i, row in enumerate(rows) if i and "".join(row).strip()]
    top, numbers, rows = (rows or [[]])[0], [starts[i] for i in filled], [rows[i] for i in filled]
    if separator in " \t" and set(map(len, rows)) == {len(top) + 1} and top[-1] and all(row[-1] for row in rows):
        top = ["", *top]  # R and pandas print names of rows, and none above them.
    header = _header(path, top, rows, skipped + 1)
    for line, row in zip(numbers, rows, strict=True):
        if row[0].startswith("#"):
            raise UserError(f"{path}, row {line}: comments stand above the header only; delete the row or the #")
        if len(row) != len(header) and (len(row) < len(header) or any(map(str.strip, row[len(header) :]))):
            hint = "; numbers take no thousands separators" * (len(row) > len(header) and separator == ",")
            raise UserError(f"{path}, row {line}: {len(row)} cells, but the header has {len(header)} columns{hint}")
    columns = [list(map(str.strip, column)) for column in zip(*rows)] or [[] for _ in header]
    pairs = (line.strip().lstrip("# ").partition(":") for line in said)
    recorded = [(key.strip(), value.strip()) for key, _, value in pairs if value.strip()]
    return Cells(str(path), dict(zip(header, columns, strict=False)), numbers, recorded)


def _rows(path: Path, lines: Sequence[str], skipped: int, separator: str) -> tuple[list[list[str]], list[int]]:
    """(the cells of each row, its line); skipped: lines above the header."""
    # Notes may have several lines. Then every quote must be closed: else one run is made of many rows, silently.
    for strict in (False, True):
        rows, starts = [], [skipped + 1]
        reader = csv.reader(lines[skipped:], delimiter=separator, skipinitialspace=True, strict=strict)
        try:
            for row in reader:
                rows.append(row)
                starts.append(skipped + 1 + reader.line_num)
        except csv.Error:
            quote = f", row {starts[-1]}: a quoted cell continues on the next line; close the quote"
            raise UserError(f"{path}{quote if strict else f' {NO_TABLE}'}") from None
        if reader.line_num == len(rows):
            break
    return rows, starts


def _header(path: Path, top: Sequence[str], rows: Sequence[Sequence[str]], line: int) -> list[str]:
    """The names of the columns, from the row on top."""
    header = [name.strip() for name in top]
    names = "line must name the columns, as in n_params,n_tokens,budget_flops,loss"
    if not any(header):
        raise UserError(f"{path} is empty; its first {names}")
    if sum(parse(name) is not None for name in header) > 2:
        raise UserError(f"{path}, row {line}: numbers where the header is expected; the first {names}")
    while not header[-1] and not any("".join(row[len(header) - 1 :]).strip() for row in rows):
        header.pop()  # A comma at the end of every line.
    named = list(filter(None, header))
    if again := first_repeat(named):
        raise UserError(f"{path}, row {line}: column {named[again[1]]!r} appears twice; rename one")
    return [name or f"column {i + 1}" for i, name in enumerate(header)]


def _read_json(path: Path, text: str) -> Cells:
    """A list of objects, objects line by line, or an object of columns, each a list or as pandas writes it."""
    try:
        body, lines = _json_values(path, text)
        columns = _columns_of(path, body)
    except RecursionError:
        raise UserError(f"{path}: its JSON is nested too deeply for a table; write one flat object per run") from None
    return Cells(str(path), columns, lines or COUNTED)


def _json_values(path: Path, text: str) -> tuple[Any, list[int]]:
    """(the value of a JSON text, []) or, of JSON lines, ([value], [line])."""
    try:
        return json.loads(text), []
    except ValueError as error:
        values, lines, wrong = [], [], error
    try:
        for i, line in enumerate(text.splitlines(), 1):
            if line.strip():
                lines.append(i)
                values.append(json.loads(line))
    except ValueError as error:
        at, why = (f", row {lines[-1]}", error) if values else ("", wrong)
        raise UserError(f"{path}{at}: looks like JSON and is not ({why}); correct it") from None
    return values, lines


def _columns_of(path: Path, body: Any) -> Mapping[str, Sequence[Any]]:
    values = list(body.values()) if isinstance(body, dict) else []
    lists = [value for value in values if _are_objects(value)]
    if values and all(isinstance(value, dict) for value in values):  # {column: {row: cell}}, or {run: {column: cell}}
        inner = dict.fromkeys(key for value in values for key in value)
        if "0" in inner or not all(key.isdigit() for key in body) and not any("loss" in key for key in inner):
            return {name: [column.get(row) for row in inner] for name, column in body.items()}
        body = values
    elif isinstance(body, dict) and body.keys() >= {"columns", "data"} and isinstance(body["data"], list):
        body = [dict(zip(body["columns"], row, strict=False)) for row in body["data"] if isinstance(row, list)]
    elif len(lists) == 1:
        body = lists[0]
    elif values and all(isinstance(value, list) for value in values):
        return body
    elif values:
        body = [body]
    if isinstance(body, list) and body and all(isinstance(row, list) and len(row) == 3 for row in body):
        raise UserError(f"{path} looks like a scalar of TensorBoard, {ONE_RUN}")
    if body != [] and not _are_objects(body):
        raise UserError(f'{path}: this JSON is no table; write one object per run: [{{"n_params": 1e6, ...}}, ...]')
    rows = [dict(_flat(row)) for row in body]
    names = dict.fromkeys(name for row in rows for name in row)
    if len(names) * len(rows) > CELLS:
        raise UserError(f"{path}: {len(rows)} objects with {len(names)} keys between them are no table of runs")
    return {name: [row.get(name) for row in rows] for name in names}


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(row, dict) for row in value)


def _flat(row: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of an object; those of an object within it as config.params."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{under}{key}.")
        else:
            yield under + key, value


def _read_parquet(path: Path, content: bytes) -> Cells:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path} is a Parquet file; `pip install pyarrow` to read it, or {AS_CSV}") from None
    try:
        columns = pyarrow.parquet.read_table(io.BytesIO(content)).to_pydict()
    except (pyarrow.ArrowException, OSError, ValueError):
        raise UserError(f"{path} is a damaged or truncated Parquet file; write it again") from None
    return Cells(str(path), columns, COUNTED)


def _read_hdf5(path: Path) -> Cells:
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
    if not columns and "PYTABLES_FORMAT_VERSION" in dict(recorded):
        raise UserError(f"{path} was written by pandas or PyTables; {AS_CSV}: frame.to_csv('runs.csv', index=False)")
    return Cells(str(path), columns, recorded=recorded, info=info)
