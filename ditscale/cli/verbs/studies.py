"""Verbs for a whole study: plan it, do it, collect and report its runs, rehearse it."""

import math
import sys
from dataclasses import asdict, replace
from typing import Any

from ... import units
from ...errors import UserError, command
from ...naming import StudyPaths
from ..parse import path
from ..verb import DIR, SETTINGS, Options, Report, flag, option, positional, verb

DEFAULT_GOAL = "2%"  # of --refine


@verb(
    "Plan a study: budgets x widths x seeds to runs. Prints the table, its checks, its price and what the runs will "
    "tell; writes study.yaml and each run.yaml. An error among the checks refuses the plan.",
    positional("dir", "DIR", "study directory; may be left out with --dry-run", count="?", complete="directory"),
    flag("--dry-run", "print the table and write nothing"),
    option("--target-interval", "P", "find the cheapest design that knows L* within P, as in 2%, and N* too, as in "
           "2%,1.3x; prints its settings and writes nothing. With --refine: when to stop"),
    option("--unique-images", "U", "images that there are: passes beyond the first cost as many times the hours in "
           "--target-interval (default: no limit)"),
    option("--simulate", "N", "compute the precision from N simulated studies, half a second each", default="0"),
    flag("--refine", "propose the next runs of a study that has finished ones"),
    flag("--add", "plan the runs that --refine proposes"),
    option("--gpu-hours", "H", "hours of GPUs (or cores) that the runs of --refine may cost (default: no limit)"),
    *SETTINGS,
    examples=[
        "ditscale plan --dry-run study=paper design=crossattention", "ditscale plan mystudy study=mini",
        "ditscale plan study=paper --target-interval 2%", "ditscale plan mystudy --refine --target-interval 2% --add",
    ],
)  # fmt: skip
def plan(options: Options) -> Report:
    from ...study import plan as plan_study

    settings, root, goal = options.settings, options.dir, options.target_interval
    if root and "=" in root:  # As in `ditscale plan study=paper --dry-run`.
        settings, root = [root, *settings], None
    if options.refine:
        return _refine(root, settings, options)
    for name in ("add", "gpu_hours"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')}: is about --refine; add that")
    dry = options.dry_run or bool(goal)
    if root is None and not dry:
        raise UserError("plan: name the study directory, as in `ditscale plan DIR study=mini`, or add --dry-run")
    images = options.unique_images
    unique = math.inf if images is None else units.number(images, "--unique-images", above=0)
    simulate = units.whole(options.simulate, "--simulate", low=0, high=100_000)
    if dry and root and not settings:  # A study that is planned already.
        from ...study import Study

        planned = Study.open(root).plan(simulate, goal or "", unique)
    else:
        where, configs = None if dry else root, path(options.configs)
        planned = plan_study(
            *settings, dir=where, configs=configs, simulate=simulate, target_interval=goal or "", unique_images=unique
        )
    end = "nothing was written; plan a new directory with these settings" if goal else "dry run: nothing was written"
    if not dry:
        end = f"planned in {planned.dir}; {command('launch', planned.dir)} trains it"
    return Report(f"{planned.summary()}\n{end}", planned.to_dict())


def _refine(root: str | None, settings: list[str], options: Options) -> Report:
    from ...study import Study

    if root is None or settings:
        raise UserError("--refine: is about a planned study as it is; write `ditscale plan DIR --refine`")
    if options.dry_run and options.add:
        raise UserError("--add: writes, and --dry-run does not; leave one out")
    hours = options.gpu_hours
    most = math.inf if hours is None else units.number(hours, "--gpu-hours", above=0)
    found = Study.open(root).refine(options.target_interval or DEFAULT_GOAL, most, options.add)
    return Report(found.summary(), found.to_dict())


@verb(
    "Do a whole study, from plan to report. Plans, launches, collects, fits, seals the forecast, trains the probe and "
    "gives the verdict. The same command resumes.",
    DIR, *SETTINGS, examples=["ditscale study mystudy study=mini", "ditscale study mystudy study=mini cluster=slurm"],
)  # fmt: skip
def study(options: Options) -> Report:
    from ...pipeline import whole_study

    outcome = whole_study(options.dir, options.settings, path(options.configs), progress(options))
    return Report(outcome.summary(), outcome.to_dict(), outcome.exit_code)


@verb(
    "Collect all finished runs into study.h5 and study.csv. Lists the runs left out, with reasons.",
    DIR, examples=["ditscale collect mystudy"],
)  # fmt: skip
def collect(options: Options) -> Report:
    from ...collect.table import collect

    collection = collect(options.dir)
    excluded = [{"run_id": run_id, "reason": reason} for run_id, reason in collection.excluded]
    return Report(collection.summary(), asdict(collection) | {"excluded": excluded})


@verb(
    "Write the report, report/index.html. The page needs no other file; its figures are also PNG and PDF.",
    DIR,
    option("--ledger", "FILE", "record of several studies' forecasts to show as well", complete="file"),
    examples=["ditscale report mystudy", "ditscale report mystudy --ledger ledger.jsonl"],
)
def report(options: Options) -> Report:
    from ...report.page import write_report

    page = write_report(options.dir, options.ledger)
    return Report(str(page), {"report": str(page)})


@verb(
    "Dry-run a study end to end. Simulates losses, injects faults, then verifies that no run was lost. "
    "The rehearsal is a study of its own in DIR/rehearsal.",
    positional("dir", "DIR", "planned study, or a new directory where the settings plan one", complete="directory"),
    option("--faults", "SHARE", "share of the runs to kill, stop, requeue or damage", default="0.2"),
    option("--nodes", "N", "nodes to kill, and the controller once; on the cluster of slurm/local (default: 1)"),
    option("--seconds", "S", "seconds that the steps of one run take", default="1"),
    option("--noise", "X", "log-normal scatter of a loss", default="0.002"),
    option("--seed", "N", "random seed for noise and faults", default="0"),
    *SETTINGS, examples=["ditscale rehearse mystudy study=mini"],
)  # fmt: skip
def rehearse(options: Options) -> Report:
    from ...config import about_cluster, changed
    from ...pipeline import plan_study
    from ...plan.study import read_study
    from ...rehearsal.rehearse import rehearse

    configs = path(options.configs)
    if about_cluster(options.settings) != options.settings:
        plan_study(options.dir, options.settings, configs)
        study = read_study(options.dir)
    else:  # A cluster given for a planned study is used by the rehearsal alone.
        study = read_study(options.dir)
        if not StudyPaths(options.dir).run_dirs():
            raise UserError(f"{options.dir}: holds no runs; {command('plan', options.dir)} writes them")
        study = replace(study, cluster=changed(study.cluster, options.settings, configs))
    account = rehearse(
        *(options.dir, study),
        faults=units.number(options.faults, "--faults", low=0, high=1),
        nodes=None if options.nodes is None else units.whole(options.nodes, "--nodes", low=0, high=100),
        seconds=units.number(options.seconds, "--seconds", low=0, high=86400),
        noise=units.number(options.noise, "--noise", low=0, high=0.1),
        seed=units.whole(options.seed, "--seed", low=0),
    )
    failed = "FAILED: some runs are unaccounted for, or the fit missed the true values"
    end = "everything is accounted for" if account.good else failed
    return Report(f"{account.summary()}\n{end}", account.to_dict(), int(not account.good))


def progress(options: Options) -> Any:
    """What shows the progress of a launch: a block redrawn on a terminal, else a line now and then; None if quiet."""
    from ...launch.monitor.progress import Progress

    return None if options.quiet else lambda workers, flops, speed: Progress(workers, flops, sys.stdout, speed).show
