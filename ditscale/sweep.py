"""Hydra multirun into a study: the points budget x width x seed, each one Hydra job, through any Hydra launcher.

    python -m ditscale.sweep --multirun study_dir=DIR budget=1e10,2e10 width=16,24,32 [KEY=VALUE ...]
    ... hydra/launcher=submitit_slurm hydra.launcher.partition=gpu [wait=false]

`depth` may be swept instead of `width`, and `seed` too; other keys are settings of the study, as in `ditscale plan`.
The points become runs of the study before Hydra starts: study.yaml and each run.yaml are written here, and Hydra sweeps
over the ids of the missing runs. So jobs compose nothing of the study, an impossible point is refused at once, and
`ditscale status` or another launch knows the pending points. GPUs are given by the launcher:
hydra/launcher=submitit_local hides them unless hydra.launcher.gpus_per_node says how many."""

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from . import config, logs, slurm_client, units
from .config import Study
from .errors import UserError, command
from .launch.afford import check_budget
from .launch.backends.hydra import Launcher, read_launcher
from .launch.backends.limits import array_limit
from .launch.backends.submission import Submission, write
from .launch.monitor.progress import Progress
from .launch.monitor.slurm_status import with_slurm
from .launch.monitor.status import DONE, RunStatus, State, study_status
from .launch.reconcile import missing_runs, only_launcher
from .launch.snapshot import snapshot
from .laws.prior import prior_of
from .logs import log
from .naming import StudyPaths
from .plan.checks import check, refuse
from .plan.grid import Plan, plan_grid
from .plan.run import Run
from .plan.sizes import with_widths
from .plan.study import plan_all, read_study, settle, write_study

POINT = ("budget", "width", "depth", "seed")
OURS = ("study_dir", "wait", *POINT)
POLL_S = 3.0  # between looks at squeue


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when all points are trained (or submitted, with wait=false), 1 when one failed, 2 at a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m ditscale.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--multirun", "-m", action="store_true", help="as in Hydra; a sweep is always one")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a directory of your own configuration groups")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
    options = parser.parse_intermixed_args(argv)
    logs.show()
    try:
        return sweep(options.overrides, options.config_dir)
    except UserError as error:
        log.error(f"ditscale: error: {error}")
        return error.status
    except KeyboardInterrupt:
        log.error("ditscale: interrupted; Slurm jobs keep running; rerun the same command to resume")
        return 130


def sweep(overrides: list[str], configs: Path | None = None) -> int:
    """Make runs of the points and train those that are missing; returns the exit status."""
    words = parse(overrides)
    launcher = read_launcher(words.hydra, configs)
    if not words.wait and not launcher.is_slurm:
        raise UserError("wait=false: only Slurm jobs train without this process; add hydra/launcher=submitit_slurm")
    paths, study, planned = plan_points(words, configs)
    for cell in planned.dropped:
        log.info(cell)
    ids = {run.run_id for run in planned.runs}
    check_budget(paths, study, lambda run: run.run_id in ids)
    if launcher.is_slurm:
        return _on_slurm(paths, study, planned.runs, launcher, words.wait)
    return _here(paths, ids, launcher)


@dataclass(frozen=True)
class Words:
    root: str  # of the study
    points: dict[str, list[str]]  # values of each key of POINT that was given
    settings: list[str]  # of the study
    hydra: list[str]
    wait: bool


def parse(overrides: list[str]) -> Words:
    """Sort the overrides. Raises UserError where one cannot be read, or sweeps what is no point."""
    parser, parsed = OverridesParser.create(), []
    for word in overrides:
        try:
            parsed += parser.parse_overrides([word])
        except HydraException:
            then = "quote a value with special characters twice: 'key=\"my value\"'"
            raise UserError(f"{word}: Hydra cannot read this; close open brackets and quotes, and {then}") from None
    points: dict[str, list[str]] = {}
    ours: dict[str, Any] = {"wait": True}
    settings, hydra = list[str](), list[str]()
    for each in parsed:
        key = each.key_or_group
        if key in POINT and (not each.is_sweep_override() or each.is_discrete_sweep()):
            swept = each.sweep_string_iterator() if each.is_sweep_override() else [each.get_value_element_as_str()]
            points[key] = list(swept)
        elif each.is_sweep_override():
            other = f"another {key} makes another study, in a directory of its own"
            raise UserError(f"{key}: a sweep is over budget, width or depth, and seed, in lists; {other}")
        elif key.startswith(("hydra/sweeper", "hydra.sweeper")):
            raise UserError(f"{each.input_line}: leave it out; Hydra's own sweeper is used")
        elif key in OURS:
            ours[key] = each.value()
        else:
            (hydra if key.replace("/", ".").split(".")[0] == "hydra" else settings).append(str(each.input_line))
    if "study_dir" not in ours:
        raise UserError("study_dir: missing; give the study's directory: study_dir=DIR budget=1e10,2e10 width=16,24")
    if not isinstance(ours["wait"], bool):
        raise UserError(f"wait: {ours['wait']!r} is not true or false")
    return Words(str(ours["study_dir"]), points, settings, hydra, ours["wait"])


def plan_points(words: Words, configs: Path | None) -> tuple[StudyPaths, Study, Plan]:
    """Write the points as runs of the study. Raises UserError, before anything is written, where one is impossible."""
    paths = StudyPaths(words.root)
    given = words.settings or not paths.study.exists()
    study = with_widths(config.compose(words.settings, configs, prior_of) if given else read_study(paths.root))
    if given and paths.study.exists() and not any(word.lstrip("+~").startswith("cluster") for word in words.settings):
        study = replace(study, cluster=read_study(paths.root).cluster)  # It belongs to the other ways of launching.
    budgets, widths, seeds = _points(words.points, study)
    if budgets[-1] >= study.probe_budget:
        probe = f"the probe's {units.compact(study.probe_budget)}; a forecast is tested beyond the grid (probe_budget)"
        raise UserError(f"budget: {units.compact(budgets[-1])} is not below {probe}")
    swept = replace(study, budgets=budgets, widths=widths, levers=(), seeds=seeds)
    config.check(swept, "study")
    planned = plan_grid(swept)
    refuse(check(swept, planned))
    write_study(paths.root, study)
    plan_all(paths, planned.runs, by="sweep")
    return paths, study, planned


def _points(given: dict[str, list[str]], study: Study) -> tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]]:
    """(budgets, widths, seeds), each rising."""
    if "budget" not in given or ("width" in given) == ("depth" in given):
        row = study.widths[0] if isinstance(study.widths[0], tuple) else study.widths
        example = f"budget={','.join(map(units.compact, study.budgets))} width={','.join(map(str, row))}"
        raise UserError(f"give the points: budget, and width or depth, as in {example}")
    budgets = {units.number(x, "budget", above=0) for x in given["budget"]}
    widths = {units.whole(x, "width", low=1) for x in given.get("width", [])}
    for depth in given.get("depth", []):
        width = units.whole(depth, "depth", low=1) * study.recipe.aspect
        if width % study.design.head_size:
            head = f"not a multiple of the head size {study.design.head_size}"
            raise UserError(f"depth: {depth} is width {width:g} by the recipe's aspect, {head}; give width")
        widths.add(int(width))
    seeds = {units.whole(x, "seed", low=0) for x in given.get("seed", study.seeds)}
    return tuple(sorted(budgets)), tuple(sorted(widths)), tuple(sorted(seeds))


def _here(paths: StudyPaths, ids: set[str], launcher: Launcher) -> int:
    """Train through a launcher that waits: Hydra's basic one, or another that is not Slurm's."""
    statuses = [s for s in with_slurm(paths) if s.run.run_id in ids]
    missing = [s.run.run_id for s in statuses if s.state not in (*DONE, State.RUNNING, State.QUEUED)]
    done = sum(s.state in DONE for s in statuses)
    log.info(f"{len(missing)} runs to train, {len(ids) - len(missing) - done} pending or running, {done} done")
    if missing:
        launcher.run_here(paths, paths.jobs / token_hex(4), missing)
    return _report(paths, ids)


def _on_slurm(paths: StudyPaths, study: Study, points: tuple[Run, ...], launcher: Launcher, wait: bool) -> int:
    """Train as one array through hydra-submitit-launcher. Its record is written before sbatch is called."""
    limit = array_limit()
    uneven = next((run.recipe.batch_size for run in points if run.recipe.batch_size % launcher.ranks), None)
    if uneven:
        then = "change hydra.launcher.nodes or hydra.launcher.tasks_per_node"
        raise UserError(f"a batch of {uneven} images does not divide over {launcher.ranks} ranks; {then}")
    ids = {run.run_id for run in points}
    with only_launcher(paths):
        missing = missing_runs(paths, lambda run: run.run_id in ids)
        runs = {run.run_id for run in missing}
        if not runs:
            return _report(paths, ids)
        if len(runs) > limit:
            raise UserError(f"{len(runs)} runs, and an array of this cluster has at most {limit}; sweep in parts")
        settle(paths, missing, replace(study.cluster, threads=launcher.threads(study.cluster)), launcher.ranks)
        code = str(snapshot(paths.code).resolve())
        submission = Submission(token_hex(4), "", tuple(run.run_id for run in missing), code, time.time())
        write(paths, submission)
        submission = replace(submission, job=launcher.submit(paths, submission, study.cluster))
        write(paths, submission)
    log.info(f"job {submission.job}: {len(runs)} runs; {command('status', paths.root, '--watch')} follows them")
    if not wait:
        return 0
    progress = Progress(len(runs))
    known: dict[str, RunStatus] = {}
    while slurm_client.jobs(submission.name) != []:  # None: squeue gives no answer now.
        progress.show([s for s in study_status(paths, known) if s.run.run_id in runs])
        time.sleep(POLL_S)
    return _report(paths, runs)


def _report(paths: StudyPaths, ids: set[str]) -> int:
    """Log how these runs ended, by their records; returns 1 when a launch can still finish one."""
    statuses = [s for s in with_slurm(paths) if s.run.run_id in ids]
    active = (State.FINISHED, State.RUNNING, State.QUEUED)
    for s in statuses:
        if s.state not in active:
            log.info(f"{s.run.run_id}: {s.state}: {s.reason}")
    log.info(f"{sum(s.state == State.FINISHED for s in statuses)} of {len(statuses)} runs are finished")
    return int(any(s.state not in (*active, State.DIVERGED) for s in statuses))


if __name__ == "__main__":
    sys.exit(main())
