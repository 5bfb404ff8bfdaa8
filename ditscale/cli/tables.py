"""Tables that a command line names, and how it says they are to be read."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError


def read(path: str, options, metric: str | None = None, also=(), name: str = "", named=()):
    """The table of a path, read as the options say; `name` is which of the tables `named` it is, where there are
    several."""
    from ..laws import read_table

    columns = columns_of(options)
    exclude = _pairs("--exclude", options.exclude, "run-17=diverged", name, named)
    if len(named) > 1 and any(_of(text, named) is None for text in options.exclude):
        raise UserError(f"--exclude: say of which table each run is, as in {name}:run-17=diverged")
    only = _pairs("--only", options.only, "experiment=second", name, named)
    return read_table(
        path, metric or options.metric, exclude, columns=columns, kappa=options.kappa, also=also, only=only
    )


def columns_of(options) -> dict[str, str]:
    """{our name: the table's name} of --columns."""
    columns = {}
    for part in ",".join(options.columns).split(",") if options.columns else ():
        ours, equals, theirs = part.partition("=")
        if not (ours.strip() and equals and theirs.strip()):
            raise UserError(
                f"--columns {part}: write our name, =, and the table's name, as in n_params=size,n_tokens=tokens"
            )
        columns[ours.strip()] = theirs.strip()
    return columns


def _of(text: str, named) -> str | None:
    """The table that TABLE:KEY=VALUE is about; None when it names none."""
    return next((name for name in named if text.startswith(f"{name}:")), None)


def _pairs(option: str, texts: list[str], example: str, name: str, named) -> dict[str, str]:
    """{KEY: VALUE} of [TABLE:]KEY=VALUE, those about other tables left out."""
    out = {}
    for text in texts:
        of = _of(text, named)
        key, _, value = text[len(of) + 1 if of else 0 :].partition("=")
        if not (key.strip() and value.strip()):
            raise UserError(f"{option} {text}: write it as in {option} {example}")
        if of in (None, name):
            out[key.strip()] = value.strip()
    return out


def named_tables(words: list[str]) -> dict[str, str]:
    """{name: path} of words PATH or NAME=PATH; a path that is given twice gets a number."""
    out = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            name = path = word
        if not name or not path:
            raise UserError(f"compare: {word!r}: write a table, or a name, = and a table, as in cross=cross.csv")
        if name in out and name != path:
            raise UserError(f"compare: the name {name!r} is given twice")
        while name in out:
            name = f"{path} ({len(out) + 1})"
        out[name] = path
    return out


def is_table(path: str) -> bool:
    """Whether a path is a table rather than a study directory; one that is not there goes by its ending."""
    return (
        Path(path).is_file()
        or not Path(path).is_dir()
        and Path(path).suffix in (".csv", ".tsv", ".txt", ".h5", ".hdf5")
    )


def beside(table: str, given: Path | None) -> Path:
    return given or Path(table).with_name("forecast.json")


def of_tables_only(options, *names: str):
    """Raise UserError where an option was given that has no meaning for a study, whose settings say it."""
    usual = {"metric": "loss", "columns": [], "exclude": [], "only": []}
    for name in (*names, "columns", "kappa", "exclude", "only"):
        if getattr(options, name) != usual.get(name):
            raise UserError(f"--{name} is for tables; {options.table} is a study directory, or is not there")
