"""Verbs that plan a study, train its runs and say how they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..errors import UserError
from .arguments import settings


def add(verb):
    """The parsers of these verbs; verb(name, function, text) makes one."""
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


def plan(options):
    from ..config import compose
    from ..plan.grid import table
    from ..plan.rates import plan_runs

    if options.dir and "=" in options.dir:  # `ditscale plan study=paper --dry-run`
        options.settings.insert(0, options.dir)
        options.dir = None
    if options.dry_run:
        print(table(plan_runs(compose(options.settings, options.configs))))
        print("dry run: nothing was written")
        return
    if options.dir is None:
        raise UserError("plan: name the study directory, as in `ditscale plan DIR study=mini`, or add --dry-run")
    from ..pipeline import plan_study

    _, planned = plan_study(options.dir, options.settings, options.configs)
    print(table(planned))
    print(f"planned in {options.dir}; `ditscale launch {options.dir}` trains it")


def launch(options):
    from ..naming import StudyPaths
    from ..pipeline import launch_study
    from ..plan.study import gone

    cluster, paths = _cluster(options), StudyPaths(options.dir)
    if lost := gone(paths, [at.name for at in paths.run_dirs()]):
        print(lost, flush=True)
    if cluster.name == "local":
        return launch_study(options.dir)
    from ..launch.backends.slurm_array import launch as submit

    submitted = submit(paths, cluster)
    print(f"`ditscale status {options.dir} --watch` follows the runs")
    if submitted:
        print(
            f"after them: sbatch --dependency=afterany:{':'.join(s.job for s in submitted)} slurm/aggregate.sbatch "
            f"{options.dir}"
        )


def _cluster(options):
    """The study's cluster; settings at launch change it, for this launch and those that follow."""
    from dataclasses import replace

    from ..config import about_cluster, changed
    from ..plan.study import read_study, write_study

    study = read_study(options.dir)
    if not options.settings:
        return study.cluster
    if about_cluster(options.settings) != options.settings:
        raise UserError(
            "launch: a study is settled when it is planned; only the cluster may change here: cluster=slurm "
            "cluster.partition=NAME ..."
        )
    study = replace(study, cluster=changed(study.cluster, options.settings, options.configs))
    write_study(options.dir, study)
    return study.cluster


def cancel(options):
    from ..launch.cancel import cancel as end
    from ..naming import StudyPaths
    from ..plan.study import read_study

    read_study(options.dir)
    print(end(StudyPaths(options.dir)))


def doctor(options):
    """Exit status 1 when something is bad."""
    from ..config import Cluster, changed, compose
    from ..launch.doctor.examine import examine, files_of
    from ..naming import StudyPaths
    from ..plan.study import read_study

    planned = read_study(options.dir) if StudyPaths(options.dir).study.is_file() else None
    if planned:
        cluster = changed(planned.cluster, options.settings, options.configs)
    else:
        planned = compose(options.settings, options.configs) if options.settings else None
        cluster = planned.cluster if planned else Cluster()
    files = files_of(planned) if planned else []
    found = examine(Path(options.dir), cluster, files, options.job)
    print(*found, sep="\n")
    return int(any(finding.level == "bad" for finding in found))


def status(options):
    import time

    from ..launch.monitor.slurm_status import with_slurm
    from ..launch.monitor.status import DONE, table
    from ..naming import StudyPaths
    from ..plan.study import gone, read_study

    study = read_study(options.dir)
    paths, known = StudyPaths(options.dir), {}
    while True:
        found = with_slurm(paths, known)
        lost = gone(paths, known)
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
        if lost:
            print(lost, file=sys.stderr if options.json else sys.stdout, flush=True)
        if not options.watch or all(s.state in DONE for s in found):
            return
        time.sleep(2)


def run(options):
    from ..launch.job.execute import run as attempt
    from ..naming import RunPaths
    from ..rundir.outcomes import RankLost, Stopped

    try:
        print(attempt(RunPaths(options.run_dir)))
    except RankLost as reason:
        raise UserError(str(reason)) from None
    except Stopped as reason:
        print(reason)
        return 130
