"""The command `ditscale`. Each verb imports what it needs, so the light ones answer at once and never load torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .errors import UserError

EPILOG = """Settings are Hydra overrides: a group's choice (study=mini, design=crossattention) or any key of study.yaml
(recipe.batch_size=32). `ditscale study DIR study=mini` does everything, and the same command again goes on where it stopped."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. A user's mistake is one line on stderr, without a traceback."""
    options = _parser().parse_args(argv)
    try:
        return options.verb(options) or 0
    except UserError as error:
        print(f"ditscale: error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("ditscale: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ditscale", description="Scaling laws for Diffusion Transformers.", epilog=EPILOG)
    verbs = parser.add_subparsers(dest="command", metavar="VERB", required=True)

    def verb(name: str, function, text: str):
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=function)
        return sub

    def settings(sub):
        sub.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, as in study=mini")
        sub.add_argument("--configs", type=Path, metavar="DIR", help="a directory of your own configuration groups")

    sub = verb("plan", plan, "Plan a study: budgets x sizes to runs. Prints the table; writes study.yaml and each run.yaml.")
    sub.add_argument("dir", nargs="?", metavar="DIR", help="the study directory; may be left out with --dry-run")
    sub.add_argument("--dry-run", action="store_true", help="print only, write nothing")
    settings(sub)

    sub = verb("launch", launch, "Train the study's runs that are missing, several at once.")
    sub.add_argument("dir", metavar="DIR")

    sub = verb("status", status, "One row a run: state, progress, loss, speed, time left.")
    sub.add_argument("dir", metavar="DIR")
    sub.add_argument("--watch", action="store_true", help="repeat every two seconds until all runs are done")
    sub.add_argument("--json", action="store_true")

    sub = verb("run", run, "Train one run from its directory; the only thing a job executes.")
    sub.add_argument("run_dir", metavar="RUN_DIR")

    sub = verb("evaluate", evaluate, "Measure a finished run and draw samples.")
    sub.add_argument("run_dir", metavar="RUN_DIR")
    sub.add_argument("--samples", default="16", metavar="N", help="images to draw (16)")
    sub.add_argument("--steps", default="32", metavar="N", help="steps of the Heun sampler (32)")

    sub = verb("collect", collect, "Read every run's record into study.h5 and study.csv; list what is left out and why.")
    sub.add_argument("dir", metavar="DIR")

    sub = verb("fit", fit, "Fit the scaling laws of a study, or of a CSV or HDF5 table (n_params, n_tokens, budget_flops, loss).")
    sub.add_argument("table", metavar="DIR|TABLE")
    sub.add_argument("--json", action="store_true", help="print the whole result as one JSON object")
    sub.add_argument("--metric", default="loss", metavar="COLUMN", help="the column to fit (loss)")
    sub.add_argument("--target", action="append", default=[], metavar="FLOPS", help="predict at this budget; may be repeated")
    sub.add_argument("--objective", default="huber", choices=("huber", "ls"), help="of the surface fit (huber)")
    sub.add_argument("--bootstrap", default="1000", metavar="N", help="resamples for the intervals (1000)")
    sub.add_argument("--seed", default="0", help="of the resampling (0)")

    sub = verb("forecast", forecast, "Seal a forecast for a budget beyond the grid, and plan the probe that tests it.")
    sub.add_argument("dir", metavar="DIR")
    sub.add_argument("--budget", metavar="FLOPS", help="the study's probe_budget when left out")

    sub = verb("verdict", verdict, "Hold the sealed forecast against the measured probe.")
    sub.add_argument("dir", metavar="DIR")
    sub.add_argument("--json", action="store_true")

    sub = verb("compare", compare, "Compare the laws of two or more studies or tables (designs, data sets).")
    sub.add_argument("tables", nargs="+", metavar="DIR|TABLE")
    sub.add_argument("--target", metavar="FLOPS", help="compare predicted losses here (twice the largest budget)")
    sub.add_argument("--json", action="store_true")

    sub = verb("report", report, "Write report/index.html and its figures.")
    sub.add_argument("dir", metavar="DIR")

    sub = verb("study", study, "The whole study: plan, launch, collect, fit, forecast, probe, verdict, report.")
    sub.add_argument("dir", metavar="DIR")
    settings(sub)
    return parser


# ------------------------------------------------------------------------------------------------------------- verbs


def plan(options):
    from .config import compose
    from .plan.grid import plan_grid, table

    if options.dir and "=" in options.dir:  # `ditscale plan study=paper --dry-run`
        options.settings.insert(0, options.dir)
        options.dir = None
    if options.dry_run:
        print(table(plan_grid(compose(options.settings, options.configs))))
        print("dry run: nothing was written")
        return
    if options.dir is None:
        raise UserError("plan: name the study directory, as in `ditscale plan DIR study=mini`, or add --dry-run")
    from .pipeline import plan_study

    _, planned = plan_study(options.dir, options.settings, options.configs)
    print(table(planned))
    print(f"planned in {options.dir}; `ditscale launch {options.dir}` trains it")


def launch(options):
    from .pipeline import launch_study

    return launch_study(options.dir)


def status(options):
    import time

    from .launch.status import DONE, study_status, table
    from .naming import StudyPaths
    from .plan.study import read_study

    read_study(options.dir)
    while True:
        found = study_status(StudyPaths(options.dir))
        if options.json:
            keys = ("state", "images", "loss", "images_per_s", "eta_s", "host", "reason")
            print(json.dumps([{"run_id": s.run.run_id, "n_images": s.run.n_images} | {k: getattr(s, k) for k in keys} for s in found]))
        else:
            print(("\x1b[H\x1b[2J" if options.watch and sys.stdout.isatty() else "") + table(found), flush=True)
        if not options.watch or all(s.state in DONE for s in found):
            return
        time.sleep(2)


def run(options):
    from .train.loop import Stopped, train

    try:
        print(train(options.run_dir))
    except Stopped as reason:
        print(reason)
        return 130


def evaluate(options):
    from . import units
    from .evaluate.run import evaluate as measure

    n = units.whole(options.samples, "--samples", low=1, high=10000)
    print(measure(options.run_dir, n, units.whole(options.steps, "--steps", low=1, high=10000)).summary())


def collect(options):
    from .store.collect import collect as gather

    print(gather(options.dir).summary())


def fit(options):
    from . import units
    from .laws import fit as fit_table
    from .laws import read_table

    n = units.whole(options.bootstrap, "--bootstrap", low=0, high=100_000)
    targets = tuple(options.target)
    for target in targets:
        units.number(target, "--target", above=0)
    table = read_table(options.table, options.metric)
    laws = fit_table(table, objective=options.objective, bootstrap=n, seed=units.whole(options.seed, "--seed", low=0), targets=targets)
    found = laws.to_dict()
    if Path(options.table).is_dir():
        from .pipeline import write_json

        write_json(Path(options.table) / "laws.json", found)
    print(json.dumps(found) if options.json else laws.summary())
    return 0 if laws.given else 3


def forecast(options):
    from . import units
    from .pipeline import seal_forecast

    budget = units.number(options.budget, "--budget", above=0) if options.budget else None
    sealed, probe = seal_forecast(options.dir, budget)
    print(sealed.summary())
    print(f"the probe is planned: {probe.run_id}; `ditscale launch {options.dir}` trains it")


def verdict(options):
    from .pipeline import give_verdict

    given = give_verdict(options.dir)
    print(json.dumps(given.to_dict()) if options.json else given.summary())


def compare(options):
    from . import units
    from .laws import compare as compare_tables
    from .laws import read_table

    if len(options.tables) < 2:
        raise UserError("compare: name at least two studies or tables")
    tables = {name: read_table(name, "loss") for name in options.tables}
    if options.target:
        target = units.number(options.target, "--target", above=0)
    else:
        target = 2 * max(float(t.budget_flops.max()) for t in tables.values())
    found = compare_tables(tables, target)
    print(json.dumps(found.to_dict()) if options.json else found.summary())


def report(options):
    from .report.page import write_report

    print(write_report(options.dir))


def study(options):
    from .pipeline import whole_study

    return whole_study(options.dir, options.settings, options.configs)


if __name__ == "__main__":
    sys.exit(main())
