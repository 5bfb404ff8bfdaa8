"""Verbs for a whole study: done, rehearsed, reported."""

from __future__ import annotations

from ..errors import UserError
from .arguments import settings


def add(verb):
    """The parsers of these verbs; verb(name, function, text) makes one."""
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


def report(options):
    from ..report.page import write_report

    print(write_report(options.dir))


def rehearse(options):
    """Exit status 1 when something was lost, doubled or left over, or the fit misses the truth."""
    from .. import units
    from ..rehearsal.rehearse import rehearse as go

    rates = {
        "faults": units.number(options.faults, "--faults", low=0, high=1),
        "nodes": None if options.nodes is None else units.whole(options.nodes, "--nodes", low=0, high=100),
        "seconds": units.number(options.seconds, "--seconds", low=0, high=86400),
        "noise": units.number(options.noise, "--noise", low=0, high=0.1),
        "seed": units.whole(options.seed, "--seed", low=0),
    }
    made = go(options.dir, _to_rehearse(options), **rates)
    print(made.summary())
    print(
        "everything is accounted for" if made.good else "NOT everything is accounted for, or the fit misses the truth"
    )
    return 0 if made.good else 1


def _to_rehearse(options):
    """The study of a directory, planned there by the settings if they say more than a cluster. One given for a planned
    study is the rehearsal's alone."""
    from dataclasses import replace

    from ..config import about_cluster, changed
    from ..naming import StudyPaths
    from ..pipeline import plan_study
    from ..plan.study import read_study

    if about_cluster(options.settings) != options.settings:
        paths, _ = plan_study(options.dir, options.settings, options.configs)
        return read_study(paths.root)
    study = read_study(options.dir)
    if not StudyPaths(options.dir).run_dirs():
        raise UserError(f"{options.dir}: holds no runs; `ditscale plan {options.dir}` writes them")
    return replace(study, cluster=changed(study.cluster, options.settings, options.configs))


def study(options):
    from ..pipeline import whole_study

    return whole_study(options.dir, options.settings, options.configs)
