"""Tables that a command line names, and the options that say how to read them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .verb import Options

if TYPE_CHECKING:
    from ..laws import Table


def read(
    path: str, options: Options, metric: str = "", also: tuple[str, ...] = (), name: str = "",
    named: Collection[str] = (),
) -> Table:  # fmt: skip
    """The table of a path, read as the options say. name: which of several tables `named` it is."""
    from ..laws import read_table

    exclude = _pairs("--exclude", options.exclude, "run-17=diverged", name, named)
    if len(named) > 1 and any(_table_of(text, named) is None for text in options.exclude):
        raise UserError(f"--exclude: say of which table each run is, as in {name}:run-17=diverged")
    how = {"only": _pairs("--only", options.only, "experiment=second", name, named), "kappa": options.kappa}
    return read_table(path, metric or options.metric, exclude, columns=columns_of(options), also=also, **how)


def columns_of(options: Options) -> dict[str, str]:
    """{our name: the table's name} of --columns."""
    parts = ",".join(options.columns).split(",") if options.columns else []
    return _pairs("--columns", parts, "n_params=size,n_tokens=tokens (our name, then the table's)")


def _table_of(text: str, named: Collection[str]) -> str | None:
    """The table that TABLE:KEY=VALUE concerns; None when it names none."""
    return next((name for name in named if text.startswith(f"{name}:")), None)


def _pairs(option: str, texts: list[str], example: str, name: str = "", named: Collection[str] = ()) -> dict[str, str]:
    """{KEY: VALUE} of [TABLE:]KEY=VALUE, without those that concern other tables."""
    pairs = {}
    for text in texts:
        table = _table_of(text, named)
        key, _, value = text[len(table) + 1 if table else 0 :].partition("=")
        if not (key.strip() and value.strip()):
            raise UserError(f"{option} {text}: write it as in {option} {example}")
        if table in (None, name):
            pairs[key.strip()] = value.strip()
    return pairs


def named_tables(words: list[str]) -> dict[str, str]:
    """{name: path} of words PATH or NAME=PATH; a path that is given twice gets a number."""
    named: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            name = path = word
        if not name or not path:
            raise UserError(f"compare: {word!r}: write a table, or a name, = and a table, as in cross=cross.csv")
        if name in named and name != path:
            raise UserError(f"compare: the name {name!r} is given twice")
        while name in named:
            name = f"{path} ({len(named) + 1})"
        named[name] = path
    return named


def is_table(path: str) -> bool:
    """Whether a path is a table rather than a study directory; the ending decides where nothing is there."""
    at = Path(path)
    return at.is_file() or not at.is_dir() and at.suffix in (".csv", ".tsv", ".txt", ".h5", ".hdf5")


def of_tables_only(options: Options, *names: str) -> None:
    """Raise UserError for an option that has no meaning for a study, since the study's settings say it."""
    usual = {"metric": "loss", "columns": [], "exclude": [], "only": []}
    for name in (*names, "columns", "kappa", "exclude", "only"):
        if getattr(options, name) != usual.get(name):
            raise UserError(f"--{name} is for tables; {options.table} is a study directory, or is not there")
