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
from .numerals import parse

AS_CSV = "save the table as CSV"
NO_TABLE = f"is neither CSV text (UTF-8) nor HDF5, JSON or Parquet; {AS_CSV}"
CONTROL = bytes({*range(32)} - {*b"\t\n\v\f\r"})
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
}
PICKLE = f"is a pickle of Python, which is never opened since it can run code; {AS_CSV}"
BEGINNINGS |= {b"\x80" + bytes([protocol]): PICKLE for protocol in range(2, 6)}
UNPACKED = 2**31  # Bytes of a gzip file that are read at most.
CELLS = 50_000_000  # Rows times columns of a JSON file at most: each object may have keys of its own.
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
    return _read(path, _unpacked(path, content).removesuffix(b"\x1a"))  # DOS marked the end of texts.


def _unpacked(path: Path, content: bytes) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            content = file.read(UNPACKED + 1)
    except (EOFError, OSError, zlib.error):
        raise UserError(f"{path} is a damaged or truncated gzip file; pack it again") from None
    if len(content) > UNPACKED:
        raise UserError(f"{path} holds more than 2 GiB, which is no table of runs")
    return content


def _read(path: Path, content: bytes) -> Cells:
    """The cells of a file's content, whatever its form."""
    what = next((what for begins, what in BEGINNINGS.items() if content.startswith(begins)), "")
    if what or content.startswith(b"PK\x03\x04"):
        raise UserError(f"{path} {what or _archive(content)}")
    if content.startswith(b"PAR1"):
        return _read_parquet(path, content)
    try:
        text, encoding = _decoded(content)
    except UnicodeError:
        text, encoding = "\0", ""
    if len(text.encode().translate(None, CONTROL)) < len(text.encode()):
        raise UserError(f"{path} {NO_TABLE}")
    cells = _read_json(path, text) if text.lstrip().startswith(("[", "{")) else _read_csv(path, text)
    if {"Wall time", "Step", "Value"} <= cells.columns.keys():
        raise UserError(f"{path} is a scalar of TensorBoard, {ONE_RUN}")
    if any(name.endswith("__MIN") for name in cells.columns):
        raise UserError(f"{path} is a chart of W&B (steps, with a column per run), not its table of runs; export that")
    said = [("text", f"read as {encoding}")] if encoding else []
    return cells._replace(recorded=(*cells.recorded, *said))


def _archive(content: bytes) -> str:
    """What a zip archive is: workbooks, checkpoints and arrays are such."""
    try:
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "is neither CSV nor HDF5 but a damaged zip archive"
    kinds = {".npy": "an npz file of numpy", "data.pkl": "a checkpoint of PyTorch"}
    kinds |= dict.fromkeys(("xl/workbook.xml", "content.xml"), "a workbook of a spreadsheet")
    kind = next((kind for end, kind in kinds.items() for name in names if name.endswith(end)), "")
    return f"is {kind}, which is not opened; {AS_CSV}" if kind else "is a zip archive; unpack it first"


def _decoded(content: bytes) -> tuple[str, str]:
    """(text, its encoding where that had to be guessed). Raises UnicodeError."""
    for encoding, marks in {
        "utf-8-sig": (codecs.BOM_UTF8,), "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
        "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    }.items():  # fmt: skip
        if content.startswith(marks):
            return content.decode(encoding), ""
    if b"\0" in content[:1000]:  # Each letter of a header is two bytes of UTF-16, one of them zero.
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be"), ""
    try:
        return content.decode("utf-8"), ""
    except UnicodeError:
        return content.decode("cp1252"), "Windows-1252, as it is not UTF-8"


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
    skipped, named = len(said), None
    if skipped < len(lines) and (named := re.fullmatch(r'"?sep=(.)"?\s*', lines[skipped])):
        skipped += 1  # A line that Excel writes.
    first = re.sub('"[^"]*"', "", lines[skipped]) if skipped < len(lines) else ""
    separator = named[1] if named else max(",;\t|", key=first.count) if re.search("[,;\t|]", first) else " "
    if separator == "|" and first.lstrip().startswith("|"):  # Markdown
        lines = [line.strip().removeprefix("|").removesuffix("|") + "\n" for line in lines]
    if re.fullmatch(r"[\s|:+-]*--[\s|:+-]*", "".join(lines[skipped + 1 : skipped + 2])):
        lines[skipped + 1] = "\n"  # The rule below a header.
    rows, starts = _rows(path, lines, skipped, separator)
    filled = [i for i, row in enumerate(rows) if i and "".join(row).strip()]
    numbers, rows = [starts[i] for i in filled], [rows[0] if rows else [], *(rows[i] for i in filled)]
    if separator in " \t" and set(map(len, rows[1:])) == {len(rows[0]) + 1} and all(row[-1] for row in rows):
        rows[0] = ["", *rows[0]]  # R and pandas print names of rows, and none above them.
    header = _header(path, rows, skipped + 1)
    columns = [list(map(str.strip, column)) for column in itertools.islice(zip(*rows[1:]), len(header))]
    if {*map(len, rows[1:])} != {len(header)} or any(map(str.startswith, columns[0], itertools.repeat("#"))):
        _refuse_ragged(path, rows, numbers, len(header), separator)
    pairs = (line.strip().lstrip("# ").partition(":") for line in said)
    recorded = [(key.strip(), value.strip()) for key, _, value in pairs if value.strip()]
    return Cells(str(path), dict(zip(header, columns or [[] for _ in header], strict=True)), numbers, recorded)


def _rows(path: Path, lines: Sequence[str], skipped: int, separator: str) -> tuple[list[list[str]], Sequence[int]]:
    """(the cells of each row, its line); skipped: lines above the header. Notes may have several lines, but a quote
    that is never closed would make one run of many rows, silently."""
    how: dict[str, Any] = {"delimiter": separator, "skipinitialspace": True}
    try:
        reader = csv.reader(lines[skipped:], **how)
        rows = list(reader)
    except csv.Error:
        raise UserError(f"{path} {NO_TABLE}") from None
    if reader.line_num == len(rows):
        return rows, range(skipped + 1, skipped + 1 + len(rows))
    rows, starts, reader = [], [skipped + 1], csv.reader(lines[skipped:], strict=True, **how)
    try:
        for row in reader:
            rows.append(row)
            starts.append(skipped + 1 + reader.line_num)
    except csv.Error:
        here = f"{path}, row {starts[-1]}"
        raise UserError(f"{here}: a quoted cell continues on the next line; close the quote") from None
    return rows, starts


def _header(path: Path, rows: Sequence[Sequence[str]], line: int) -> list[str]:
    """The names of the columns, of which the first of the rows holds. Raises UserError where they are no names."""
    header = [name.strip() for name in rows[0]]
    names = "line must name the columns, as in n_params,n_tokens,budget_flops,loss"
    if not any(header):
        raise UserError(f"{path} is empty; its first {names}")
    if sum(parse(name) is not None for name in header) > 2:
        raise UserError(f"{path}, row {line}: numbers where the header is expected; the first {names}")
    while header and not header[-1] and not any("".join(row[len(header) - 1 :]).strip() for row in rows[1:]):
        header.pop()  # A comma at the end of every line.
    for i, name in enumerate(header):
        if name and name in header[:i]:
            raise UserError(f"{path}, row {line}: column {name!r} appears twice; rename one")
    return [name or f"column {i + 1}" for i, name in enumerate(header)]


def _refuse_ragged(
    path: Path, rows: Sequence[Sequence[str]], numbers: Sequence[int], width: int, separator: str
) -> None:
    """Raise UserError for a comment between rows, and for a row of another number of cells than the header's."""
    for line, row in zip(numbers, rows[1:], strict=True):
        if row[0].startswith("#"):
            raise UserError(f"{path}, row {line}: comments stand above the header only; delete the row or the #")
        if len(row) < width or any(map(str.strip, row[width:])):
            hint = "; numbers take no thousands separators" if len(row) > width and separator == "," else ""
            raise UserError(f"{path}, row {line}: {len(row)} cells, but the header has {width} columns{hint}")


def _read_json(path: Path, text: str) -> Cells:
    """A list of objects, objects line by line, or an object of columns, each a list or as pandas writes it."""
    lines: list[int] = []
    try:
        try:
            body = json.loads(text)
        except ValueError as error:
            body, lines = _json_lines(path, text, error)
        columns = _columns_of(path, body)
    except RecursionError:
        raise UserError(f"{path}: its JSON is nested too deeply for a table; write one flat object per run") from None
    return Cells(str(path), columns, lines or range(1, max(map(len, columns.values()), default=0) + 1))


def _json_lines(path: Path, text: str, error: ValueError) -> tuple[list[Any], list[int]]:
    """([value], [line]) of JSON lines. error: why the text as a whole is no JSON."""
    values: list[Any] = []
    lines = [i for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    for i, line in zip(lines, filter(str.strip, text.splitlines()), strict=True):
        try:
            values.append(json.loads(line))
        except ValueError as wrong:
            at, why = (f", row {i}", wrong) if values else ("", error)
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
    return Cells(str(path), columns, range(1, max(map(len, columns.values()), default=0) + 1))


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
