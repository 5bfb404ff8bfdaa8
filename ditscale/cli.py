"""The command `ditscale`. Each verb imports what it needs, so the light ones answer at once and never load torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .errors import UserError

EPILOG = """Settings are Hydra overrides: a group's choice (study=mini, design=crossattention) or any key of study.yaml
(recipe.batch_size=32). `ditscale study DIR study=mini` does everything, and the same command again goes on where it
stopped."""


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


class _Parser(argparse.ArgumentParser):
    """A mistake is one line."""

    def error(self, message):
        self.exit(2, f"ditscale: error: {message}; see: {self.prog} --help\n")


class _Verb(_Parser):
    """Options may stand before, between and after settings."""

    inside = False

    def parse_known_args(self, args=None, namespace=None):
        if self.inside:
            return super().parse_known_args(args, namespace)
        self.inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.inside = False


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ditscale", description="Scaling laws for Diffusion Transformers.", epilog=EPILOG)
    verbs = parser.add_subparsers(dest="command", metavar="VERB", required=True, parser_class=_Verb)

    def verb(name: str, function, text: str):
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=function)
        return sub

    def fitting(sub, objectives):
        sub.add_argument("--objective", default="huber", choices=objectives, help="of the surface fit (huber)")
        sub.add_argument("--bootstrap", default="1000", metavar="N", help="resamples for the intervals (1000)")
        sub.add_argument("--seed", default="0", help="of the resampling (0)")

    def reading(sub, metric=True, of=""):
        if metric:
            sub.add_argument(
                "--metric",
                default="loss",
                metavar="COLUMN",
                help="the column to fit (loss), or a metric of `evaluate`: vlb, likelihood, fid",
            )
        sub.add_argument(
            "--columns",
            action="append",
            default=[],
            metavar="OURS=THEIRS,...",
            help="where a table names its columns otherwise, as in n_params=size",
        )
        sub.add_argument(
            "--only",
            action="append",
            default=[],
            metavar=f"{of}COLUMN=VALUE",
            help="read the rows with this value alone; may be repeated",
        )
        sub.add_argument(
            "--kappa",
            metavar="NUMBER",
            help="C = kappa N D: computes the one of N, D and C that a table lacks; fit also holds the surface to it",
        )
        sub.add_argument(
            "--exclude",
            action="append",
            default=[],
            metavar=f"{of}RUN=REASON",
            help="leave a run out, listed with the reason; may be repeated",
        )
        sub.add_argument("--json", action="store_true", help="print the whole result as one JSON object")

    def settings(sub):
        sub.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, as in study=mini")
        sub.add_argument("--configs", type=Path, metavar="DIR", help="a directory of your own configuration groups")

    sub = verb(
        "plan", plan, "Plan a study: budgets x sizes to runs. Prints the table; writes study.yaml and each run.yaml."
    )
    sub.add_argument("dir", nargs="?", metavar="DIR", help="the study directory; may be left out with --dry-run")
    sub.add_argument("--dry-run", action="store_true", help="print only, write nothing")
    settings(sub)

    sub = verb(
        "launch",
        launch,
        "Train the study's runs that are missing: here, several at once, or as Slurm arrays (cluster=slurm).",
    )
    sub.add_argument("dir", metavar="DIR")
    settings(sub)

    sub = verb("cancel", cancel, "End the study's Slurm jobs, and only those; runs save first.")
    sub.add_argument("dir", metavar="DIR")

    sub = verb("doctor", doctor, "Look for what may go wrong on this cluster, and say what to do about it.")
    sub.add_argument("dir", metavar="DIR", help="a study, or where one is to be")
    sub.add_argument("--job", action="store_true", help="also look at a node, by a job of a minute")
    settings(sub)

    sub = verb("status", status, "One row a run: state, progress, loss, speed, time left.")
    sub.add_argument("dir", metavar="DIR")
    sub.add_argument("--watch", action="store_true", help="repeat every two seconds until all runs are done")
    sub.add_argument("--json", action="store_true")

    sub = verb("run", run, "Train one run from its directory; the only thing a job executes.")
    sub.add_argument("run_dir", metavar="RUN_DIR")

    sub = verb(
        "evaluate",
        evaluate,
        "Measure a finished run, and draw samples: what is there with the same settings is not measured again.",
    )
    sub.add_argument("run_dir", metavar="RUN_DIR")
    sub.add_argument(
        "--metrics",
        metavar="NAME,...",
        help="of val_loss, vlb, likelihood, fid (those of the study's evaluation, or val_loss); the options below are "
        "taken from there too",
    )
    sub.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME",
        help="the run's own data, a label of validation.also, or LABEL=FILE; may be repeated (all but files)",
    )
    sub.add_argument(
        "--ema", metavar="WINDOW", help="of the EMA weights: one that the run kept, or any between (the run's own)"
    )
    sub.add_argument(
        "--n",
        "--images",
        metavar="N",
        help="held-out images (the study's validation.n); torchrun takes --n for its own",
    )
    sub.add_argument("--batch-size", metavar="N", help="images in memory at a time (the study's validation.batch_size)")
    sub.add_argument("--seed", metavar="N", help="of the noise (the study's validation.seed, so that runs share it)")
    sub.add_argument("--t-min", metavar="T", help="the data's end of the variational bound (0.01)")
    sub.add_argument("--trace", metavar="HOW", help="divergence of the likelihood: hutchinson or exact (hutchinson)")
    sub.add_argument("--probes", metavar="N", help="of the trace, for each image (1)")
    sub.add_argument("--tolerance", metavar="X", help="of the likelihood's solver (1e-3)")
    sub.add_argument("--samples", metavar="N", help="images to draw to look at (16)")
    sub.add_argument("--sampler", metavar="NAME", help="heun or euler (heun)")
    sub.add_argument("--steps", metavar="N", help="of the sampler (32)")
    sub.add_argument("--guidance", metavar="G", help="classifier-free, of the sampler; 1 is none (1)")
    sub.add_argument("--extractor", metavar="NAME", help="of FID's features (caption-reader, which is trained here)")
    sub.add_argument("--weights", metavar="FILE", help="of the extractor, where it is not ours")
    sub.add_argument("--decoder", metavar="DIR", help="of latents: their VAE, as diffusers' AutoencoderKL keeps it")
    sub.add_argument("--few", action="store_true", help="an FID of fewer than 2048 images")

    sub = verb(
        "fetch-weights",
        fetch_weights,
        "Download the weights of a feature extractor for FID, on a machine with internet: runs never do.",
    )
    sub.add_argument("extractor", metavar="NAME", help="clip-vit-l-14, inception-v3-compat or vgg16")
    sub.add_argument("--to", type=Path, metavar="FILE", help="(the cache: DITSCALE_CACHE, or ~/.cache/ditscale)")
    sub.add_argument("--url", default="", metavar="URL", help="of a mirror; the hash is checked all the same")

    sub = verb(
        "collect", collect, "Read every run's record into study.h5 and study.csv; list what is left out and why."
    )
    sub.add_argument("dir", metavar="DIR")

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

    sub = verb("report", report, "Write report/index.html and its figures.")
    sub.add_argument("dir", metavar="DIR")

    sub = verb(
        "rehearse",
        rehearse,
        "Go through a whole study with known losses instead of training, and with faults, then account for every run.",
    )
    sub.add_argument(
        "dir",
        metavar="DIR",
        help="a study, or where one is planned by the settings; the rehearsal goes to DIR/rehearsal",
    )
    sub.add_argument(
        "--faults", default="0.2", metavar="SHARE", help="of the runs to kill, stop, requeue or damage (0.2)"
    )
    sub.add_argument(
        "--nodes",
        metavar="N",
        help="nodes to lose, and the controller once, on the cluster of slurm/local alone (1 there)",
    )
    sub.add_argument("--seconds", default="1", metavar="S", help="that the steps of a run take (1)")
    sub.add_argument("--noise", default="0.002", help="log-normal scatter of a loss (0.002)")
    sub.add_argument("--seed", default="0", help="of the noise and of the faults (0)")
    settings(sub)

    sub = verb("study", study, "The whole study: plan, launch, collect, fit, forecast, probe, verdict, report.")
    sub.add_argument("dir", metavar="DIR")
    settings(sub)
    return parser


# ------------------------------------------------------------------------------------------------------------- verbs


def plan(options):
    from .config import compose
    from .plan.grid import table
    from .plan.rates import plan_runs

    if options.dir and "=" in options.dir:  # `ditscale plan study=paper --dry-run`
        options.settings.insert(0, options.dir)
        options.dir = None
    if options.dry_run:
        print(table(plan_runs(compose(options.settings, options.configs))))
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

    cluster = _cluster(options)
    if cluster.name == "local":
        return launch_study(options.dir)
    from .launch.slurm import launch as submit
    from .naming import StudyPaths

    submitted = submit(StudyPaths(options.dir), cluster)
    print(f"`ditscale status {options.dir} --watch` follows the runs")
    if submitted:
        print(
            f"after them: sbatch --dependency=afterany:{':'.join(s.job for s in submitted)} slurm/aggregate.sbatch "
            f"{options.dir}"
        )


def _cluster(options):
    """The study's cluster; settings at launch replace it, for this launch and those that follow."""
    from dataclasses import replace

    from .config import compose
    from .plan.study import read_study, write_study

    study = read_study(options.dir)
    if not options.settings:
        return study.cluster
    names = [word.split("=")[0].lstrip("+~") for word in options.settings]
    if "cluster" not in names or any(name.split(".")[0] != "cluster" for name in names):
        raise UserError(
            "launch: a study is settled when it is planned; only the cluster may change here: cluster=slurm "
            "cluster.partition=NAME ..."
        )
    study = replace(study, cluster=compose(options.settings, options.configs).cluster)
    write_study(options.dir, study)
    return study.cluster


def doctor(options):
    """Exit status 1 when something is bad."""
    from .config import Cluster, compose
    from .launch.doctor import examine, files_of
    from .naming import StudyPaths
    from .plan.study import read_study

    planned = read_study(options.dir) if StudyPaths(options.dir).study.is_file() else None
    composed = compose(options.settings, options.configs) if options.settings else None
    cluster = (composed or planned).cluster if composed or planned else Cluster()
    files = files_of(planned or composed) if planned or composed else []
    found = examine(Path(options.dir), cluster, files, options.job)
    print(*found, sep="\n")
    return int(any(finding.level == "bad" for finding in found))


def cancel(options):
    from .launch.cancel import cancel as end
    from .naming import StudyPaths
    from .plan.study import read_study

    read_study(options.dir)
    print(end(StudyPaths(options.dir)))


def status(options):
    import time

    from .launch.status import DONE, table
    from .launch.watch import with_slurm
    from .naming import StudyPaths
    from .plan.study import read_study

    study = read_study(options.dir)
    paths, known = StudyPaths(options.dir), {}
    while True:
        found = with_slurm(paths, known)
        if options.json:
            keys = ("state", "images", "loss", "images_per_s", "eta_s", "attempt", "job", "host", "reason")
            print(
                json.dumps(
                    [
                        {"run_id": s.run.run_id, "n_images": s.run.n_images} | {k: getattr(s, k) for k in keys}
                        for s in found
                    ]
                )
            )
        else:
            print(
                ("\x1b[H\x1b[2J" if options.watch and sys.stdout.isatty() else "")
                + table(found, study.cluster.peak_flops_per_s),
                flush=True,
            )
            if study.rehearsal:
                print(f"REHEARSAL: {study.rehearsal}", flush=True)
        if not options.watch or all(s.state in DONE for s in found):
            return
        time.sleep(2)


def run(options):
    from .launch.job import run as attempt
    from .naming import RunPaths
    from .train.ends import Stopped

    try:
        print(attempt(RunPaths(options.run_dir)))
    except Stopped as reason:
        print(reason)
        return 130


def evaluate(options):
    from dataclasses import replace

    from . import units
    from .config import Evaluation
    from .naming import RunPaths
    from .plan.run import read_run

    whole = {name: getattr(options, name) for name in ("n", "probes", "steps")}
    given = {name: units.whole(text, f"--{name}") for name, text in whole.items() if text is not None}
    real = {name: getattr(options, name) for name in ("t_min", "tolerance", "guidance")}
    given |= {
        name: units.number(text, f"--{name.replace('_', '-')}") for name, text in real.items() if text is not None
    }
    given |= {"few": False} if "n" in given else {}  # the study's consent to few images is to its own n
    given |= {
        name: value
        for name in ("trace", "sampler", "extractor", "weights", "decoder", "few")
        if (value := getattr(options, name))
    }
    if given.get("n") == 0:
        raise UserError("--n: 0 is too small; use 2 or more")
    more = {name: getattr(options, name) for name in ("batch_size", "seed", "samples")}
    more = {name: units.whole(text, f"--{name.replace('_', '-')}") for name, text in more.items() if text is not None}
    if options.ema is not None:
        more["ema"] = units.number(options.ema, "--ema")
    asked = read_run(RunPaths(options.run_dir).run).evaluation
    names = options.metrics.split(",") if options.metrics else asked or ["val_loss"]
    metrics = {name: replace(asked.get(name, Evaluation()), **given) for name in names}
    from .evaluate.run import evaluate as measure
    from .evaluate.settings import Settings

    labels = [text.split("=", 1)[0] for text in options.dataset]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"--dataset {twice}: given twice; name each data set once")
    files = dict(text.split("=", 1) for text in options.dataset if "=" in text)
    made = measure(options.run_dir, Settings(metrics, tuple(labels), files, **more))
    if made.first:
        print(made.summary())


def fetch_weights(options):
    from .errors import one_of
    from .evaluate.weights import WEIGHTS
    from .evaluate.weights import fetch_weights as fetch

    one_of(options.extractor, tuple(WEIGHTS), "fetch-weights")
    print(fetch(options.extractor, options.to, options.url))


def collect(options):
    from .store.collect import collect as gather

    print(gather(options.dir).summary())


def fit(options):
    from . import units
    from .laws import fit as fit_table

    for target in options.target:
        units.number(target, "--target", above=0)
    laws = fit_table(
        _read(options.table, options),
        **_fitting(options),
        targets=tuple(options.target),
        interval=options.interval,
        resample=options.resample,
        robust=options.robust,
        kappa=options.kappa,
    )
    found = laws.to_dict()
    if Path(options.table).is_dir():
        from .naming import StudyPaths
        from .pipeline import write_json

        write_json(StudyPaths(options.table).laws_of(laws.table.metric), found)
    _show(options, laws, found)
    return 0 if laws.given else 3


def forecast(options):
    from . import units

    budget = units.number(options.budget, "--budget", above=0) if options.budget else None
    if _is_table(options.table):
        from .laws import forecast as forecast_table
        from .laws import seal

        if budget is None:
            raise UserError(
                f"forecast: name the budget of the run to forecast, as in `ditscale forecast {options.table} --budget "
                "1.5e21`"
            )
        sealed = seal(_beside(options.table, options.out), forecast_table(_read(options.table, options), budget))
        advice = (
            f"train it at N = {units.count(sealed.n_params.value)}, D = {units.count(sealed.n_tokens.value)} tokens, "
            "add its row "
            f"(role probe) to the table, then `ditscale verdict {options.table}`"
        )
    else:
        from .pipeline import seal_forecast

        _of_tables_only(options, "metric", "out")
        sealed, probe = seal_forecast(options.table, budget)
        advice = f"the probe is planned: {probe.run_id}; `ditscale launch {options.table}` trains it"
    _show(options, sealed, sealed.to_dict())
    if not options.json:
        print(advice)


def verdict(options):
    if _is_table(options.table):
        from .laws import load_forecast
        from .laws import verdict as judge

        sealed = load_forecast(_beside(options.table, options.forecast))
        given = judge(sealed, _read(options.table, options, sealed.metric), options.run)
    else:
        from .pipeline import give_verdict

        _of_tables_only(options, "forecast", "run")
        given = give_verdict(options.table)
    _show(options, given, given.to_dict())


def compare(options):
    from . import units
    from .laws import compare as compare_tables
    from .laws import fit_offset

    named = _named(options.tables)
    if options.against:
        if len(named) > 1:
            raise UserError("compare: --against holds two metrics of one table against each other; name one table")
        (name,) = named
        table = _read(named[name], options, also=(options.against,), name=name, named=named)
        found = fit_offset(table, *table.columns)  # the one column of `also`, by its name in the table
        _show(options, found, found.to_dict())
        return
    if len(named) < 2:
        raise UserError("compare: name at least two studies or tables, or one and --against COLUMN")
    tables = {name: _read(path, options, name=name, named=named) for name, path in named.items()}
    if options.target:
        target = units.number(options.target, "--target", above=0)
    else:
        target = 2 * max(float(t.budget_flops.max()) for t in tables.values())
    found = compare_tables(tables, target, **_fitting(options))
    _show(options, found, found.to_dict())
    return 0 if any(pair.law for pair in found.pairs) else 3


def rates(options):
    """Exit status 3 when there is no law."""
    from . import units
    from .laws import fit_rates, read_trials

    replicates = units.whole(options.bootstrap, "--bootstrap", low=0, high=100_000)
    seed = units.whole(options.seed, "--seed", low=0)
    if Path(options.table).is_dir():
        from .pipeline import fit_sweep

        if options.columns:
            raise UserError(f"--columns is for tables; {options.table} is a study directory")
        law = fit_sweep(options.table, replicates, seed)
    else:
        law = fit_rates(read_trials(options.table, _columns(options))[0], replicates, seed, options.table)
    _show(options, law, law.to_dict())
    return 0 if law.ok else 3


def report(options):
    from .report.page import write_report

    print(write_report(options.dir))


def rehearse(options):
    """Exit status 1 when something was lost, doubled or left over, or the fit misses the truth."""
    from . import units
    from .rehearsal.rehearse import rehearse as go

    rates = {
        "faults": units.number(options.faults, "--faults", low=0, high=1),
        "nodes": None if options.nodes is None else units.whole(options.nodes, "--nodes", low=0, high=100),
        "seconds": units.number(options.seconds, "--seconds", low=0, high=86400),
        "noise": units.number(options.noise, "--noise", low=0, high=0.1),
        "seed": units.whole(options.seed, "--seed", low=0),
    }
    made = go(options.dir, _to_rehearse(options), **rates)
    print(made.table())
    print(
        "everything is accounted for" if made.good else "NOT everything is accounted for, or the fit misses the truth"
    )
    return 0 if made.good else 1


def _to_rehearse(options):
    """The study of a directory, planned there by the settings if they say more than a cluster. One given for a planned
    study is the rehearsal's alone."""
    from dataclasses import replace

    from .config import compose
    from .naming import StudyPaths
    from .pipeline import plan_study
    from .plan.study import read_study

    cluster_only = all(word.split("=")[0].lstrip("+~").split(".")[0] == "cluster" for word in options.settings)
    if options.settings and not cluster_only:
        paths, _ = plan_study(options.dir, options.settings, options.configs)
        return read_study(paths.root)
    study = read_study(options.dir)
    if not StudyPaths(options.dir).run_dirs():
        raise UserError(f"{options.dir}: holds no runs; `ditscale plan {options.dir}` writes them")
    return replace(study, cluster=compose(options.settings, options.configs).cluster) if options.settings else study


def study(options):
    from .pipeline import whole_study

    return whole_study(options.dir, options.settings, options.configs)


# ------------------------------------------------------------------------------------------------ tables and their laws


def _show(options, result, body: dict):
    """The result as text, or as one JSON object and nothing else."""
    print(json.dumps(body, allow_nan=False) if options.json else result.summary())


def _fitting(options) -> dict:
    from . import units

    replicates = units.whole(options.bootstrap, "--bootstrap", low=0, high=100_000)
    return {"objective": options.objective, "bootstrap": replicates, "seed": units.whole(options.seed, "--seed", low=0)}


def _read(path: str, options, metric: str | None = None, also=(), name: str = "", named=()):
    """The table of a path, read as the options say; `name` is which of the tables `named` it is, where there are
    several."""
    from .laws import read_table

    columns = _columns(options)
    exclude = _pairs("--exclude", options.exclude, "run-17=diverged", name, named)
    if len(named) > 1 and any(_of(text, named) is None for text in options.exclude):
        raise UserError(f"--exclude: say of which table each run is, as in {name}:run-17=diverged")
    only = _pairs("--only", options.only, "experiment=second", name, named)
    return read_table(
        path, metric or options.metric, exclude, columns=columns, kappa=options.kappa, also=also, only=only
    )


def _columns(options) -> dict[str, str]:
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


def _named(words: list[str]) -> dict[str, str]:
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


def _is_table(path: str) -> bool:
    """Whether a path is a table rather than a study directory; one that is not there goes by its ending."""
    return (
        Path(path).is_file()
        or not Path(path).is_dir()
        and Path(path).suffix in (".csv", ".tsv", ".txt", ".h5", ".hdf5")
    )


def _beside(table: str, given: Path | None) -> Path:
    return given or Path(table).with_name("forecast.json")


def _of_tables_only(options, *names: str):
    """Raise UserError where an option was given that has no meaning for a study, whose settings say it."""
    usual = {"metric": "loss", "columns": [], "exclude": [], "only": []}
    for name in (*names, "columns", "kappa", "exclude", "only"):
        if getattr(options, name) != usual.get(name):
            raise UserError(f"--{name} is for tables; {options.table} is a study directory, or is not there")


if __name__ == "__main__":
    sys.exit(main())
