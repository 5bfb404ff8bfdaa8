"""Verbs that fit laws to studies and tables, forecast by them, and compare them."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import units
from ...errors import UserError, command
from ...naming import StudyPaths
from ..verb import Argument, Options, Report, flag, option, positional, verb

if TYPE_CHECKING:
    from ...laws import Table

TABLE = positional(
    "table", "DIR|TABLE", "study directory, or a table of runs (CSV, JSON, Parquet, HDF5)", complete="file"
)
METRIC = option("--metric", "COLUMN", "column to fit, or a metric of `evaluate`: vlb, likelihood, fid", default="loss")
COLUMNS = option(
    "--columns",
    "OURS=THEIRS,...",
    "rename columns, as in n_params=size or n_params=size_M*1e6; may be repeated",
    count="*",
)
RESAMPLING = (
    option("--bootstrap", "N", "bootstrap replicates for the intervals; 0 for none", default="1000"),
    option("--seed", "N", "random seed for the bootstrap", default="0"),
)
TABLES = (".csv", ".tsv", ".txt", ".h5", ".hdf5", ".json", ".jsonl", ".parquet", ".gz")
OBJECTIVES = ("huber", "ls", "ls_log")
OBJECTIVE = option("--objective", "NAME", "loss function for the surface fit", "huber", choices=OBJECTIVES)


def _reading(of: str = "") -> tuple[Argument, ...]:
    """Options on how tables are read. of: how an argument names the table that it concerns."""
    only = option("--only", f"{of}COLUMN=VALUE", "rows to read: those with this value; may be repeated", count="*")
    why = "run to leave out, listed with the reason; may be repeated"
    kappa = option("--kappa", "NUMBER", "C / (N D): computes a missing one of N, D and C, and D* from N*")
    higher = flag("--higher-is-better", "higher values of the metric are better (known of some metrics by their name)")
    return COLUMNS, only, option("--exclude", f"{of}RUN=REASON", why, count="*"), kappa, higher


@verb(
    "Fit scaling laws to a study or a table. A table has columns n_params, n_tokens, budget_flops and loss.",
    TABLE,
    option("--target", "FLOPS", "budget to predict at; may be repeated", count="*"),
    OBJECTIVE, *RESAMPLING, METRIC, *_reading(),
    examples=[
        "python -m ditscale.laws.synthetic chinchilla --out runs.csv", "ditscale fit runs.csv --target 1.5e21",
        "ditscale fit mystudy",
    ],
)  # fmt: skip
def fit(options: Options) -> Report:
    from ...decision.decide import keep_predictors
    from ...laws import fit
    from ...pipeline import write_json

    for target in options.target:
        units.number(target, "--target", above=0)
    how = {name: getattr(options, name) for name in ("objective", "kappa")} | _bootstrap(options)
    laws = fit(read(options.table, options), targets=tuple(options.target), **how)
    study = Path(options.table).is_dir()
    value = laws.to_dict() if study or options.json else {}  # Of 100,000 runs this takes seconds.
    if study:
        write_json(StudyPaths(options.table).laws_of(laws.metric), value)
        keep_predictors(options.table, laws.metric)
    return Report(laws.summary(), value, 0 if laws.given else 3)


@verb(
    "Answer what-if questions by the law of a study or a table.",
    TABLE,
    option("--budget", "FLOPS", "budget to ask at"),
    option("--reach", "VALUE", "value of the metric; the budget that reaches it"),
    option("--n-params", "N", "given size: the best rest, and its cost compared with the optimum"),
    option("--n-tokens", "D", "given number of tokens, likewise"),
    option("--ratio", "D/N", "given ratio of tokens to parameters, likewise"),
    option("--images", "N", "given number of unique images, likewise"),
    option("--tokens-per-image", "N", "tokens of an image, where the table has no n_images"),
    option("--repeats", "PASSES", "passes after which a repeated image is worth 1/e of a new one", default="100"),
    option("--also", "COLUMN", "another metric to predict at N*; may be repeated", count="*"),
    option("--counting", "COLUMN", "column that counts N or D otherwise, to compare laws; may be repeated", count="*"),
    flag("--spread", "also show N* and L* under 64 ways to analyse the table"),
    METRIC, *_reading(),
    examples=[
        "ditscale predict runs.csv --budget 1.5e21", "ditscale predict runs.csv --reach 2.0",
        "ditscale predict runs.csv --budget 1.5e21 --n-params 5e9 --spread",
    ],
)  # fmt: skip
def predict(options: Options) -> Report:
    from ...laws import predict

    asked = ("reach", "n_params", "n_tokens", "ratio", "images", "tokens_per_image", "repeats", "spread")
    how = {name: getattr(options, name) for name in asked}
    how |= {"metrics": options.also, "countings": options.counting, "kappa": _kappa(options)}
    table = read(options.table, options, also=tuple(dict.fromkeys((*options.also, *options.counting))))
    found = predict(table, options.budget, **how)
    return Report(found.summary(), found.to_dict(), 0 if found.given else 3)


@verb(
    "Decide what to train: size, data, recipe, cost, and how far to trust it. Of a study, writes report/decide.html.",
    TABLE,
    option("--budget", "FLOPS", "budget to spend"),
    option("--gpu-hours", "HOURS", "GPU-hours of the study's cluster to spend (core-hours where it has no GPUs)"),
    option("--deadline", "DAYS", "days on that cluster: to use up, or beside another question to meet"),
    option("--target-loss", "VALUE", "loss to reach (or the value of --metric)"),
    option("--target-fid", "VALUE", "FID to reach"),
    option("--n-params", "N", "size to train: at its best budget, or beside a budget"),
    option("--unique-images", "N", "images that there are: seen once at their best budget, or beside a budget"),
    option("--study", "DIR", "study whose design, recipe and cluster are meant, for a table", complete="directory"),
    option("--tokens-per-image", "N", "tokens of an image, where the table has no n_images"),
    option("--repeats", "PASSES", "passes after which a repeated image is worth 1/e of a new one", default="100"),
    option("--also", "COLUMN", "another metric to predict at N*; may be repeated (default: a study's)", count="*"),
    option("--out", "FILE", "file for the page (default: report/decide.html of a study)", complete="file"),
    METRIC, *_reading(),
    examples=[
        "ditscale decide runs.csv --budget 1.5e21", "ditscale decide mystudy --gpu-hours 512 --deadline 7",
        "ditscale decide mystudy --target-loss 0.2",
    ],
)  # fmt: skip
def decide(options: Options) -> Report:
    from ...decision.decide import ASKED, decide, measured
    from ...report.decision_page import write_decision

    asked = {name: getattr(options, name) for name in (*ASKED, "tokens_per_image", "repeats")}
    kappa = None if options.kappa is None else units.number(options.kappa, "--kappa", above=0)
    fid = "fid" if options.target_fid is not None and options.metric != "fid" else ""
    also = tuple(dict.fromkeys((*options.also, *measured(options.table, fid, options.metric))))
    root = options.table if Path(options.table).is_dir() else None
    table = read(options.table, options, also=also)
    found = decide(table, study=options.study or root, own=root is not None, kappa=kappa, **asked)
    page = options.out or (StudyPaths(root).report / "decide.html" if root else None)
    if page:
        write_decision(found, table, page)
    return Report(found.summary() + (f"\npage: {page}" if page else ""), found.to_dict())


@verb(
    "Seal a forecast for a budget beyond the grid. For a study, also plans the probe that tests it.",
    TABLE,
    option("--budget", "FLOPS", "budget of the run to forecast (default: a study's probe_budget)"),
    option("--out", "FILE", "file for a table's forecast (default: forecast.json beside the table)", complete="file"),
    METRIC, *_reading(),
    examples=["ditscale forecast runs.csv --budget 1.5e21", "ditscale forecast mystudy"],
)  # fmt: skip
def forecast(options: Options) -> Report:
    from ...laws import forecast, seal
    from ...pipeline import seal_forecast
    from ...plan.grid import is_independent
    from ...plan.study import read_study

    budget = None if options.budget is None else units.number(options.budget, "--budget", above=0)
    if is_table(options.table):
        if budget is None:
            again = command("forecast", options.table, "--budget", "1.5e21")
            raise UserError(f"forecast: name the budget of the run to forecast, as in {again}")
        file = Path(options.out or Path(options.table).with_name("forecast.json"))
        sealed = seal(file, forecast(read(options.table, options), budget, kappa=_kappa(options)))
        size = f"N = {units.count(sealed.n_params.value)}, D = {units.count(sealed.n_tokens.value)} tokens"
        advice = f"train it at {size}, add its row (role probe) to the table, then {command('verdict', options.table)}"
    else:
        of_tables_only(options, "metric", "out")
        sealed, probe = seal_forecast(options.table, budget)
        advice = f"the probe is planned: {probe.run_id}; {command('launch', options.table)} trains it"
        ratio = probe.n_params / sealed.n_params.value
        if not 0.8 <= ratio <= 1.25:
            advice += f"; its N = {units.count(probe.n_params)}, the nearest that the study's recipe trains at this"
            advice += f" budget, is {ratio:.2g}x the forecast's N*, so its loss may lie above the forecast"
        if not is_independent(read_study(options.table), probe):
            advice += "; an earlier version planned it: it begins as the grid run of its size and seed would, with the"
            advice += " same noise and order of images, so it is no independent run"
    return Report(f"{sealed.summary()}\n{advice}", sealed.to_dict())


@verb(
    "Compare the sealed forecast with the measured probe, or with --early with the curve of one that still trains.",
    TABLE,
    flag("--early", "predict the final loss of a probe that still trains, and raise alarms (exit code 1)"),
    option("--forecast", "FILE", "forecast of a table (default: forecast.json beside the table)", complete="file"),
    option("--run", "RUN", "run_id of the probe, where the table does not tell it by role or budget"),
    *_reading(), examples=["ditscale verdict mystudy", "ditscale verdict mystudy --early"],
)  # fmt: skip
def verdict(options: Options) -> Report:
    from ...laws import load_forecast, verdict
    from ...pipeline import give_early_verdict, give_verdict

    if options.early:
        if is_table(options.table):
            study_first = f"{options.table} is a table; name a study directory"
            raise UserError(f"verdict: --early reads training curves, and {study_first}")
        of_tables_only(options, "forecast", "run")
        early = give_early_verdict(options.table)
        return Report(early.summary(), early.to_dict(), early.exit_code)
    if is_table(options.table):
        sealed = load_forecast(Path(options.forecast or Path(options.table).with_name("forecast.json")))
        result = verdict(sealed, read(options.table, options, sealed.metric), options.run)
    else:
        of_tables_only(options, "forecast", "run")
        result = give_verdict(options.table)
    return Report(result.summary(), result.to_dict())


@verb(
    "Keep and show the record of forecasts and verdicts. Says how many held against what their intervals promise.",
    positional("file", "FILE", "file of the record, one JSON object a line, made to be committed", complete="file"),
    positional(
        "sources", "[NAME=]SOURCE", "study, forecast.json or verdict.json to add; adding one again changes nothing",
        count="*", complete="file",
    ),
    examples=[
        "ditscale ledger ledger.jsonl mystudy", "ditscale ledger ledger.jsonl mine=forecast.json",
        "ditscale ledger ledger.jsonl",
    ],
)  # fmt: skip
def ledger(options: Options) -> Report:
    from ...laws import ledger

    named = named_paths(list(dict.fromkeys(options.sources)), "ledger", "a study, as in cross=mystudy")
    record = ledger(
        options.file,
        *(path for name, path in named.items() if name == path),
        **{name: path for name, path in named.items() if name != path},
    )
    return Report(record.summary(), record.to_dict())


@verb(
    "Compare two or more studies or tables, or two metrics. Compares their laws, as of designs or data sets.",
    positional("tables", "[NAME=]DIR|TABLE", "studies or tables, with names of yours", count="+", complete="file"),
    option("--against", "COLUMN", "second metric, of one table: its gap to the first, as of loss_coco from loss"),
    option("--target", "FLOPS", "budget to compare losses at (default: twice the largest budget)"),
    METRIC, *_reading("[NAME:]"),
    examples=["ditscale compare runs.csv same=runs.csv", "ditscale compare a=study-a b=study-b"],
)  # fmt: skip
def compare(options: Options) -> Report:
    from ...laws import compare, fit_gap

    named = named_paths(options.tables, "compare", "a table, as in cross=cross.csv")
    if options.against:
        if len(named) > 1:
            raise UserError("compare: --against compares two metrics of one table; name one table")
        (name,) = named
        table = read(named[name], options, also=(options.against,), name=name, named=named)
        gap = fit_gap(table, *table.columns)  # `also` named the one column there is.
        return Report(gap.summary(), gap.to_dict())
    if len(named) < 2:
        raise UserError("compare: name at least two studies or tables, or one and --against COLUMN")
    tables = {name: read(path, options, name=name, named=named) for name, path in named.items()}
    if options.target is not None:
        target = units.number(options.target, "--target", above=0)
    else:
        target = 2 * max(table.largest for table in tables.values())
    comparison = compare(tables, target, kappa=_kappa(options))
    return Report(comparison.summary(), comparison.to_dict(), 0 if any(pair.law for pair in comparison.pairs) else 3)


@verb(
    "Fit the learning-rate law of a sweep. Prints how far from its best rate each size runs, and settings to paste.",
    positional(
        "table", "DIR|TABLE", "study with rates, or a table of n_params, n_tokens, lr and loss (empty: diverged)",
        complete="file",
    ),
    COLUMNS, examples=["ditscale rates mystudy"],
)  # fmt: skip
def rates(options: Options) -> Report:
    from ...laws import fit_rates, read_trials
    from ...pipeline import fit_sweep

    if Path(options.table).is_dir():
        if options.columns:
            raise UserError(f"--columns is for tables; {options.table} is a study directory")
        law = fit_sweep(options.table)
    else:
        law = fit_rates(read_trials(options.table, columns_of(options))[0], source=options.table)
    return Report(law.summary(), law.to_dict(), 0 if law.ok else 3)


def _bootstrap(options: Options) -> dict[str, Any]:
    replicates = units.whole(options.bootstrap, "--bootstrap", low=0, high=100_000)
    if 0 < replicates < 40:  # A 95 % interval takes 40 replicates or more.
        raise UserError(f"--bootstrap: {replicates} is too small for 95 % intervals; at least 40, or 0 for none")
    return {"bootstrap": replicates, "seed": units.whole(options.seed, "--seed", low=0)}


def _kappa(options: Options) -> float | None:
    return None if options.kappa is None else units.number(options.kappa, "--kappa", above=0)


def read(
    path: str, options: Options, metric: str = "", also: tuple[str, ...] = (), name: str = "",
    named: Collection[str] = (),
) -> "Table":  # fmt: skip
    """The table of a path, read as the options say. name: which of several tables `named` it is."""
    from ...laws import read_table

    exclude = _pairs("--exclude", options.exclude, "run-17=diverged", name, named)
    if len(named) > 1 and any(_table_of(text, named) is None for text in options.exclude):
        raise UserError(f"--exclude: say of which table each run is, as in {name}:run-17=diverged")
    only = _pairs("--only", options.only, "experiment=second", name, named)
    better = "higher" if options.higher_is_better else ""
    how = {"only": only, "kappa": options.kappa, "better": better, "also": also}
    try:
        return read_table(path, metric or options.metric, exclude, columns=columns_of(options), **how)
    except UserError as error:  # Of several tables, the options to paste name theirs.
        of = f"{name}:" if len(named) > 1 else ""
        raise UserError(re.sub("(--(?:only|exclude) )", rf"\1{of}", str(error)), error.status) from None


def columns_of(options: Options) -> dict[str, str]:
    """{our name: the table's name} of --columns."""
    # A comma may be part of the table's name: only one before another "ours=" separates.
    parts = [part for text in options.columns for part in re.split(r",(?=\s*[\w:]+=)", text)]
    return _pairs("--columns", parts, "n_params=size,n_tokens=tokens (our name, then the table's)")


def _table_of(text: str, named: Collection[str]) -> str | None:
    """The table that TABLE:KEY=VALUE concerns; None when it names none."""
    return next((name for name in named if text.startswith(f"{name}:")), None)


def _pairs(option: str, texts: list[str], example: str, name: str = "", named: Collection[str] = ()) -> dict[str, str]:
    """{KEY: VALUE} of [TABLE:]KEY=VALUE, without those that concern other tables. A run's name may have a = in it."""
    pairs, split = {}, str.rpartition if option == "--exclude" else str.partition
    for text in texts:
        table = _table_of(text, named)
        key, _, value = split(text[len(table) + 1 if table else 0 :], "=")
        if not (key.strip() and value.strip()):
            raise UserError(f"{option} {text}: write it as in {option} {example}")
        if "=" not in key:  # Else the reader of the table knows where the run's name ends.
            key, value = key.strip(), value.strip()
        if table in (None, name):
            pairs[key] = value
    return pairs


def named_paths(words: list[str], verb: str, example: str) -> dict[str, str]:
    """{name: path} of words PATH or NAME=PATH; a path that is given twice gets a number."""
    named: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            name = path = word
        if not name or not path:
            raise UserError(f"{verb}: {word!r}: write a path, or a name, = and {example}")
        if name in named and name != path:
            raise UserError(f"{verb}: the name {name!r} is given twice")
        while name in named:
            name = f"{path} ({len(named) + 1})"
        named[name] = path
    return named


def is_table(path: str) -> bool:
    """Whether a path is a table rather than a study directory; the ending decides where nothing is there."""
    at = Path(path)
    return at.is_file() or not at.is_dir() and at.suffix in TABLES


def of_tables_only(options: Options, *names: str) -> None:
    """Raise UserError for an option that has no meaning for a study, since the study's settings say it."""
    usual = {"metric": "loss", "columns": [], "exclude": [], "only": [], "higher_is_better": False}
    for name in (*names, "columns", "kappa", "exclude", "only", "higher_is_better"):
        if getattr(options, name) != usual.get(name):
            raise UserError(
                f"--{name.replace('_', '-')} is for tables; {options.table} is a study directory, or is not there"
            )
