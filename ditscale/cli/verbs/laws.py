"""Verbs that fit laws to studies and tables, forecast by them, and compare them."""

from pathlib import Path
from typing import Any

from ... import units
from ...errors import UserError, command
from ...naming import StudyPaths
from ..tables import columns_of, is_table, named_tables, of_tables_only, read
from ..verb import Argument, Options, Report, option, positional, verb

TABLE = positional("table", "DIR|TABLE", "study directory, or a CSV or HDF5 table of runs", complete="file")
METRIC = option("--metric", "COLUMN", "column to fit, or a metric of `evaluate`: vlb, likelihood, fid", default="loss")
COLUMNS = option("--columns", "OURS=THEIRS,...", "rename columns, as in n_params=size; may be repeated", count="*")
RESAMPLING = (
    option("--bootstrap", "N", "bootstrap replicates for the intervals; 0 for none", default="1000"),
    option("--seed", "N", "random seed for the bootstrap", default="0"),
)
OBJECTIVES = ("huber", "ls", "ls_log")
OBJECTIVE = option("--objective", "NAME", "loss function for the surface fit", "huber", choices=OBJECTIVES)


def _reading(of: str = "") -> tuple[Argument, ...]:
    """Options on how tables are read. of: how an argument names the table that it concerns."""
    return (
        COLUMNS,
        option("--only", f"{of}COLUMN=VALUE", "rows to read: those with this value; may be repeated", count="*"),
        option("--exclude", f"{of}RUN=REASON", "run to leave out, listed with the reason; may be repeated", count="*"),
        option("--kappa", "NUMBER", "C / (N D): computes a missing one of N, D and C; `fit` also fixes it"),
    )


@verb(
    "Fit scaling laws to a study or a table. A table has columns n_params, n_tokens, budget_flops and loss.",
    TABLE,
    option("--target", "FLOPS", "budget to predict at; may be repeated", count="*"),
    OBJECTIVE,
    *RESAMPLING,
    METRIC,
    *_reading(),
    examples=[
        "python -m ditscale.laws.synthetic chinchilla --out runs.csv",
        "ditscale fit runs.csv --target 1.5e21",
        "ditscale fit mystudy",
    ],
)
def fit(options: Options) -> Report:
    from ...laws import fit
    from ...pipeline import write_json

    for target in options.target:
        units.number(target, "--target", above=0)
    laws = fit(
        read(options.table, options),
        targets=tuple(options.target),
        **{name: getattr(options, name) for name in ("objective", "kappa")},
        **_bootstrap(options),
    )
    value = laws.to_dict()
    if Path(options.table).is_dir():
        write_json(StudyPaths(options.table).laws_of(laws.metric), value)
    return Report(laws.summary(), value, 0 if laws.given else 3)


@verb(
    "Seal a forecast for a budget beyond the grid. For a study, also plans the probe that tests it.",
    TABLE,
    option("--budget", "FLOPS", "budget of the run to forecast (default: a study's probe_budget)"),
    option("--out", "FILE", "file for a table's forecast (default: forecast.json beside the table)", complete="file"),
    METRIC,
    *_reading(),
    examples=["ditscale forecast runs.csv --budget 1.5e21", "ditscale forecast mystudy"],
)
def forecast(options: Options) -> Report:
    from ...laws import forecast, seal
    from ...pipeline import seal_forecast

    budget = units.number(options.budget, "--budget", above=0) if options.budget else None
    if is_table(options.table):
        if budget is None:
            again = command("forecast", options.table, "--budget", "1.5e21")
            raise UserError(f"forecast: name the budget of the run to forecast, as in {again}")
        file = Path(options.out or Path(options.table).with_name("forecast.json"))
        sealed = seal(file, forecast(read(options.table, options), budget))
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
    return Report(f"{sealed.summary()}\n{advice}", sealed.to_dict())


@verb(
    "Compare the sealed forecast with the measured probe.",
    TABLE,
    option("--forecast", "FILE", "forecast of a table (default: forecast.json beside the table)", complete="file"),
    option("--run", "RUN", "run_id of the probe, where the table does not tell it by role or budget"),
    *_reading(),
    examples=["ditscale verdict mystudy"],
)
def verdict(options: Options) -> Report:
    from ...laws import load_forecast, verdict
    from ...pipeline import give_verdict

    if is_table(options.table):
        sealed = load_forecast(Path(options.forecast or Path(options.table).with_name("forecast.json")))
        result = verdict(sealed, read(options.table, options, sealed.metric), options.run)
    else:
        of_tables_only(options, "forecast", "run")
        result = give_verdict(options.table)
    return Report(result.summary(), result.to_dict())


@verb(
    "Compare two or more studies or tables, or two metrics. Compares their laws, as of designs or data sets.",
    positional("tables", "[NAME=]DIR|TABLE", "studies or tables, with names of yours", count="+", complete="file"),
    option("--against", "COLUMN", "second metric, of one table: its gap to the first, as of loss_coco from loss"),
    option("--target", "FLOPS", "budget to compare losses at (default: twice the largest budget)"),
    METRIC,
    *_reading("[NAME:]"),
    examples=["ditscale compare runs.csv same=runs.csv", "ditscale compare a=study-a b=study-b"],
)
def compare(options: Options) -> Report:
    from ...laws import compare, fit_gap

    named = named_tables(options.tables)
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
    if options.target:
        target = units.number(options.target, "--target", above=0)
    else:
        target = 2 * max(float(t.budget_flops.max()) for t in tables.values())
    comparison = compare(tables, target)
    return Report(comparison.summary(), comparison.to_dict(), 0 if any(pair.law for pair in comparison.pairs) else 3)


@verb(
    "Fit the learning-rate law of a sweep. Prints how far from its best rate each size runs, and settings to paste.",
    positional(
        "table", "DIR|TABLE", "study with rates, or a table of n_params, n_tokens, lr and loss (empty: diverged)",
        complete="file",
    ),
    COLUMNS,
    *RESAMPLING,
    examples=["ditscale rates mystudy"],
)  # fmt: skip
def rates(options: Options) -> Report:
    from ...laws import fit_rates, read_trials
    from ...pipeline import fit_sweep

    how = _bootstrap(options)
    if Path(options.table).is_dir():
        if options.columns:
            raise UserError(f"--columns is for tables; {options.table} is a study directory")
        law = fit_sweep(options.table, **how)
    else:
        law = fit_rates(read_trials(options.table, columns_of(options))[0], source=options.table, **how)
    return Report(law.summary(), law.to_dict(), 0 if law.ok else 3)


def _bootstrap(options: Options) -> dict[str, Any]:
    replicates = units.whole(options.bootstrap, "--bootstrap", low=0, high=100_000)
    if 0 < replicates < 40:  # A 95 % interval takes 40 replicates or more.
        raise UserError(f"--bootstrap: {replicates} is too small for 95 % intervals; at least 40, or 0 for none")
    return {"bootstrap": replicates, "seed": units.whole(options.seed, "--seed", low=0)}
