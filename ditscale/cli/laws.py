"""Verbs that fit laws to studies and tables, forecast by them, and hold them against each other."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import UserError
from .arguments import fitting, reading
from .tables import beside, columns_of, is_table, named_tables, of_tables_only, read


def add(verb):
    """The parsers of these verbs; verb(name, function, text) makes one."""
    sub = verb(
        "fit",
        fit,
        "Fit the scaling laws of a study, or of a CSV or HDF5 table (n_params, n_tokens, budget_flops, loss).",
    )
    sub.add_argument("table", metavar="DIR|TABLE")
    sub.add_argument(
        "--target", action="append", default=[], metavar="FLOPS", help="predict at this budget; may be repeated"
    )
    sub.add_argument(
        "--interval", default="percentile", choices=("percentile", "bca"), help="kind of 95 %% interval (percentile)"
    )
    sub.add_argument(
        "--resample",
        default="auto",
        choices=("auto", "pairs", "stratified", "residual"),
        help="what the bootstrap draws (auto)",
    )
    sub.add_argument("--robust", action="store_true", help="parabolas that a diverged run cannot pull")
    fitting(sub, ("huber", "ls", "ls_log"))
    reading(sub)

    sub = verb(
        "forecast",
        forecast,
        "Seal a forecast for a budget beyond the grid; for a study, also plan the probe that tests it.",
    )
    sub.add_argument("table", metavar="DIR|TABLE")
    sub.add_argument("--budget", metavar="FLOPS", help="of the run to forecast; a study's probe_budget when left out")
    sub.add_argument("--out", type=Path, metavar="FILE", help="of a table's forecast (forecast.json beside it)")
    reading(sub)

    sub = verb("verdict", verdict, "Hold the sealed forecast against the measured probe.")
    sub.add_argument("table", metavar="DIR|TABLE")
    sub.add_argument("--forecast", type=Path, metavar="FILE", help="a table's forecast (forecast.json beside it)")
    sub.add_argument(
        "--run", metavar="RUN", help="the probe's run_id, where the table does not say it by role or budget"
    )
    reading(sub, metric=False)

    sub = verb(
        "compare",
        compare,
        "Compare the laws of two or more studies or tables (designs, data sets), or two metrics of one.",
    )
    sub.add_argument("tables", nargs="+", metavar="[NAME=]DIR|TABLE")
    sub.add_argument(
        "--against",
        metavar="COLUMN",
        help="of one table: the offset of this column from the metric, as of loss_coco from loss",
    )
    sub.add_argument("--target", metavar="FLOPS", help="compare predicted losses here (twice the largest budget)")
    fitting(sub, ("huber", "ls", "ls_log"))
    reading(sub, of="[NAME:]")

    sub = verb(
        "rates",
        rates,
        "Fit the learning-rate law from a sweep: how far from its best rate each size runs, and the settings to paste.",
    )
    sub.add_argument(
        "table",
        metavar="DIR|TABLE",
        help="a study with rates, or a table of n_params, n_tokens, lr, loss (empty: diverged)",
    )
    sub.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="OURS=THEIRS,...",
        help="where a table names its columns otherwise",
    )
    sub.add_argument("--bootstrap", default="1000", metavar="N", help="resamples for the intervals (1000)")
    sub.add_argument("--seed", default="0", help="of the resampling (0)")
    sub.add_argument("--json", action="store_true", help="print the whole result as one JSON object")


def fit(options):
    from .. import units
    from ..laws import fit as fit_table

    for target in options.target:
        units.number(target, "--target", above=0)
    laws = fit_table(
        read(options.table, options),
        **_fitting(options),
        targets=tuple(options.target),
        interval=options.interval,
        resample=options.resample,
        robust=options.robust,
        kappa=options.kappa,
    )
    found = laws.to_dict()
    if Path(options.table).is_dir():
        from ..naming import StudyPaths
        from ..pipeline import write_json

        write_json(StudyPaths(options.table).laws_of(laws.metric), found)
    _show(options, laws, found)
    return 0 if laws.given else 3


def forecast(options):
    from .. import units

    budget = units.number(options.budget, "--budget", above=0) if options.budget else None
    if is_table(options.table):
        from ..laws import forecast as forecast_table
        from ..laws import seal

        if budget is None:
            raise UserError(
                f"forecast: name the budget of the run to forecast, as in `ditscale forecast {options.table} --budget "
                "1.5e21`"
            )
        sealed = seal(beside(options.table, options.out), forecast_table(read(options.table, options), budget))
        advice = (
            f"train it at N = {units.count(sealed.n_params.value)}, D = {units.count(sealed.n_tokens.value)} tokens, "
            f"add its row (role probe) to the table, then `ditscale verdict {options.table}`"
        )
    else:
        from ..pipeline import seal_forecast

        of_tables_only(options, "metric", "out")
        sealed, probe = seal_forecast(options.table, budget)
        advice = f"the probe is planned: {probe.run_id}; `ditscale launch {options.table}` trains it"
        ratio = probe.n_params / sealed.n_params.value
        if not 0.8 <= ratio <= 1.25:
            advice += (
                f"; its N = {units.count(probe.n_params)}, the nearest that the study's recipe trains at this budget, "
                f"is {ratio:.2g}x the forecast's N*, so its loss may lie above the forecast"
            )
    _show(options, sealed, sealed.to_dict())
    if not options.json:
        print(advice)


def verdict(options):
    if is_table(options.table):
        from ..laws import load_forecast
        from ..laws import verdict as judge

        sealed = load_forecast(beside(options.table, options.forecast))
        given = judge(sealed, read(options.table, options, sealed.metric), options.run)
    else:
        from ..pipeline import give_verdict

        of_tables_only(options, "forecast", "run")
        given = give_verdict(options.table)
    _show(options, given, given.to_dict())


def compare(options):
    from .. import units
    from ..laws import compare as compare_tables
    from ..laws import fit_gap

    named = named_tables(options.tables)
    if options.against:
        if len(named) > 1:
            raise UserError("compare: --against holds two metrics of one table against each other; name one table")
        (name,) = named
        table = read(named[name], options, also=(options.against,), name=name, named=named)
        found = fit_gap(table, *table.columns)  # the one column of `also`, by its name in the table
        _show(options, found, found.to_dict())
        return
    if len(named) < 2:
        raise UserError("compare: name at least two studies or tables, or one and --against COLUMN")
    tables = {name: read(path, options, name=name, named=named) for name, path in named.items()}
    if options.target:
        target = units.number(options.target, "--target", above=0)
    else:
        target = 2 * max(float(t.budget_flops.max()) for t in tables.values())
    found = compare_tables(tables, target, **_fitting(options))
    _show(options, found, found.to_dict())
    return 0 if any(pair.law for pair in found.pairs) else 3


def rates(options):
    """Exit status 3 when there is no law."""
    from .. import units
    from ..laws import fit_rates, read_trials

    replicates = _replicates(options)
    seed = units.whole(options.seed, "--seed", low=0)
    if Path(options.table).is_dir():
        from ..pipeline import fit_sweep

        if options.columns:
            raise UserError(f"--columns is for tables; {options.table} is a study directory")
        law = fit_sweep(options.table, replicates, seed)
    else:
        law = fit_rates(read_trials(options.table, columns_of(options))[0], replicates, seed, options.table)
    _show(options, law, law.to_dict())
    return 0 if law.ok else 3


def _show(options, result, body: dict):
    """The result as text, or as one JSON object and nothing else."""
    print(json.dumps(body, allow_nan=False) if options.json else result.summary())


def _fitting(options) -> dict:
    from .. import units

    seed = units.whole(options.seed, "--seed", low=0)
    return {"objective": options.objective, "bootstrap": _replicates(options), "seed": seed}


def _replicates(options) -> int:
    from .. import units

    replicates = units.whole(options.bootstrap, "--bootstrap", low=0, high=100_000)
    if 0 < replicates < 40:  # as a forecast asks for: fewer have no 95 % interval
        raise UserError(f"--bootstrap: {replicates} is too small for 95 % intervals; at least 40, or 0 for none")
    return replicates
