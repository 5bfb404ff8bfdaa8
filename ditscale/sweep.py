"""Hydra multirun into a study: the points budget x width x seed, each one Hydra job, through any Hydra launcher.

    python -m ditscale.sweep --multirun study_dir=DIR budget=1e10,2e10 width=16,24,32 [KEY=VALUE ...]
    ... hydra/launcher=submitit_slurm hydra.launcher.partition=gpu [wait=false]

`depth` may be swept instead of `width`, `seed` too; other keys are settings of the study, as in `ditscale plan`. The
points become runs of the study before Hydra starts: study.yaml and each run.yaml are written here, and Hydra sweeps
over the ids of the runs that are missing. A job composes nothing of the study, what is impossible is refused at once,
and whoever looks at the study (`ditscale status`, another launch) knows the points while they wait. GPUs are the
launcher's to give: hydra/launcher=submitit_local hides them unless hydra.launcher.gpus_per_node says how many.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import shutil
import signal
import sys
import time
import traceback
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path

from . import config, slurm_client, units
from .config import Study
from .errors import UserError
from .files import remedy
from .launch.backends.slurm_array import array_limit, clean_environment, missing_runs, only_launcher, refusal
from .launch.backends.submission import Submission, folder, new_token, write
from .launch.job.execute import execute
from .launch.monitor.progress import Progress
from .launch.monitor.slurm_status import with_slurm
from .launch.monitor.status import DONE, study_status
from .launch.resources import settle
from .launch.snapshot import snapshot
from .naming import StudyPaths
from .plan.grid import Plan, plan_grid
from .plan.run import Run
from .plan.study import plan_all, read_study, write_study
from .process import this_process

POINT = ("budget", "width", "depth", "seed")
OURS = ("study_dir", "wait", *POINT)
POLL_S = 3.0  # between looks at squeue while jobs wait or run
SUBMITIT = "hydra_plugins.hydra_submitit_launcher.submitit_launcher."


def job(composed) -> str:
    """What each Hydra job executes: one run, as other jobs do (launch/job/execute.py). Returns how it ended."""
    try:
        state = execute(str(StudyPaths(composed.study_dir).run(composed.run).root))
    except Exception:  # the run has noted it; Hydra would keep it for the end, and let the Slurm job be COMPLETED
        traceback.print_exc()
        state = "failed"
        if this_process().job:
            raise SystemExit(1) from None
    if state == "stopped" and "SUBMITIT_EXECUTOR" not in os.environ:
        raise KeyboardInterrupt  # of the sweep: the other points are not to start
    return state


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when all points are trained (or submitted, with wait=false), 1 when one failed, 2 at a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m ditscale.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--multirun", "-m", action="store_true", help="as Hydra has it; a sweep is always one")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a directory of your own configuration groups")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
    options = parser.parse_intermixed_args(argv)
    try:
        return sweep(options.overrides, options.config_dir)
    except UserError as error:
        print(f"ditscale: error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("ditscale: interrupted; the same command goes on, and Slurm jobs go on by themselves", file=sys.stderr)
        return 130


def sweep(overrides: list[str], configs: Path | None = None) -> int:
    """Make runs of the points and train those that are missing; returns the exit status."""
    words = _sorted(overrides)
    launcher = _launcher(words.hydra, configs)
    slurm = launcher["_target_"] == f"{SUBMITIT}SlurmLauncher"
    if not words.wait and not slurm:
        raise UserError("wait=false: only Slurm trains on by itself; add hydra/launcher=submitit_slurm")
    paths, study, planned = _plan(words, configs)
    for cell in planned.dropped:
        print(f"dropped: budget {units.compact(cell.budget_flops)}, width {cell.width}: {cell.reason}")
    if slurm:
        return _on_slurm(paths, study, planned.runs, launcher, words, configs)
    return _here(paths, planned.runs, launcher, words, configs)


# ---------------------------------------------------------------------------------------------------------- the command


@dataclass(frozen=True)
class Words:
    """The command's overrides by whom they concern."""

    root: str  # of the study
    points: dict[str, list[str]]  # values of each key of POINT that was given
    settings: list[str]  # of the study
    hydra: list[str]
    wait: bool


def _sorted(overrides: list[str]) -> Words:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, parsed = OverridesParser.create(), []
    for word in overrides:
        try:
            parsed += parser.parse_overrides([word])
        except HydraException:
            raise UserError(
                f"{word}: Hydra cannot read this; close what is open, quote a value of unusual signs twice: "
                "'key=\"my value\"'"
            ) from None
    values, settings, hydra = {}, [], []
    for each in parsed:
        key = each.key_or_group
        about_hydra = key.replace("/", ".").split(".")[0] == "hydra"
        if key in POINT and (not each.is_sweep_override() or each.is_discrete_sweep()):
            swept = each.sweep_string_iterator() if each.is_sweep_override() else [each.get_value_element_as_str()]
            values[key] = list(swept)
        elif each.is_sweep_override():
            raise UserError(
                f"{key}: a sweep is over budget, width or depth, and seed, in lists; another {key} makes another "
                "study, in a directory of its own"
            )
        elif key.startswith(("hydra/sweeper", "hydra.sweeper")):
            raise UserError(
                f"{each.input_line}: all points are known before the first starts; Hydra's own sweeper does"
            )
        elif key in OURS:
            values[key] = each.value()
        else:
            (hydra if about_hydra else settings).append(each.input_line)
    if "study_dir" not in values:
        raise UserError(
            "study_dir: missing; name the study's directory, as in study_dir=DIR budget=1e10,2e10 width=16,24"
        )
    if not isinstance(values.setdefault("wait", True), bool):
        raise UserError(f"wait: {values['wait']!r} is not true or false")
    points = {key: values[key] for key in POINT if key in values}
    return Words(str(values["study_dir"]), points, settings, hydra, values["wait"])


def _plan(words: Words, configs: Path | None) -> tuple[StudyPaths, Study, Plan]:
    """The points as runs of the study, written. Raises UserError before anything is, where a point is impossible."""
    paths = StudyPaths(words.root)
    given = words.settings or not paths.study.exists()
    study = config.compose(words.settings, configs) if given else read_study(paths.root)
    if given and paths.study.exists() and not any(word.lstrip("+~").startswith("cluster") for word in words.settings):
        study = replace(study, cluster=read_study(paths.root).cluster)  # the other ways settle it
    budgets, widths, seeds = _points(words.points, study)
    if budgets[-1] >= study.probe_budget:
        raise UserError(
            f"budget: {units.compact(budgets[-1])} is not below the probe's {units.compact(study.probe_budget)}; a "
            "forecast is tested beyond the grid (probe_budget)"
        )
    swept = replace(study, budgets=budgets, widths=widths, seeds=seeds)
    config.check(swept, "study")
    planned = plan_grid(swept)
    write_study(paths.root, study)
    plan_all(paths, planned.runs, by="sweep")
    return paths, study, planned


def _points(given: dict[str, list[str]], study: Study) -> tuple[tuple, tuple, tuple]:
    """(budgets, widths, seeds), each rising."""
    if "budget" not in given or ("width" in given) == ("depth" in given):
        row = study.widths[0] if isinstance(study.widths[0], tuple) else study.widths
        raise UserError(
            "give the points: budget, and width or depth, as in "
            f"budget={','.join(map(units.compact, study.budgets))} width={','.join(map(str, row))}"
        )
    budgets = {units.number(x, "budget", above=0) for x in given["budget"]}
    widths = {units.whole(x, "width", low=1) for x in given.get("width", [])}
    for depth in given.get("depth", []):
        width = units.whole(depth, "depth", low=1) * study.recipe.aspect
        if width % study.design.head_size:
            raise UserError(
                f"depth: {depth} is width {width:g} by the recipe's aspect, not a multiple of the head size "
                f"{study.design.head_size}; give width"
            )
        widths.add(int(width))
    seeds = {units.whole(x, "seed", low=0) for x in given.get("seed", study.seeds)}
    return tuple(sorted(budgets)), tuple(sorted(widths)), tuple(sorted(seeds))


# ---------------------------------------------------------------------------------------------------------------- Hydra


def _store():
    """Hydra's whole configuration of a job. It is code, so that a job which waits does not depend on files."""
    from hydra.core.config_store import ConfigStore

    quiet = {"output_subdir": None, "job": {"name": "sweep"}, "sweep": {"subdir": "."}}
    node = {
        "defaults": ["_self_", {"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}],
        "study_dir": "???",
        "run": "???",
        "hydra": quiet,
    }
    ConfigStore.instance().store("ditscale-sweep", node)


@contextmanager
def _hydra_errors(words: list[str]):
    """Hydra's errors in a line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        wanted = next((word for word in words if word.startswith("hydra/launcher=")), "")
        if wanted and "Could not find" in str(error):
            raise UserError(
                f"{wanted}: Hydra has no such launcher here; submitit_slurm and submitit_local come with "
                "`pip install 'ditscale[sweep]'` (hydra-submitit-launcher)"
            ) from None
        raise UserError(str(error).split("Available options")[0]) from None


def _launcher(words: list[str], configs: Path | None) -> dict:
    """The launcher's settings, as Hydra composes them."""
    from hydra import compose, initialize, initialize_config_dir
    from omegaconf import OmegaConf

    _store()
    if configs is not None and not configs.is_dir():
        raise UserError(f"--config-dir {configs}: there is no such directory")
    start = (
        initialize_config_dir(str(configs.resolve()), version_base="1.3")
        if configs
        else initialize(None, version_base="1.3")
    )
    with _hydra_errors(words), start:
        composed = compose("ditscale-sweep", words, return_hydra_config=True)
        # those of its values that depend on the directory of the sweep are ours, and not needed here
        return OmegaConf.to_container(composed.hydra.launcher, resolve=False)


def _multirun(paths: StudyPaths, at: Path, runs: list[str], words: list[str], configs: Path | None):
    """Hydra's multirun over the runs; its files go to `at`. Returns, or raises, as Hydra's launcher does."""
    import hydra

    set_by_us = [
        f"hydra.sweep.dir={_quoted(at.resolve())}",
        f"study_dir={_quoted(paths.root.resolve())}",
        f"run={','.join(runs)}",
    ]
    before, sys.argv = sys.argv, [sys.argv[0], "--multirun", *words, *set_by_us]
    if configs:
        sys.argv += ["--config-dir", str(configs.resolve())]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
    try:
        with _hydra_errors(words), clean_environment():
            hydra.main(version_base="1.3", config_path=None, config_name="ditscale-sweep")(job)()
    finally:
        sys.argv = before


def _quoted(value) -> str:
    """A value that Hydra's grammar leaves as it is."""
    text = str(value).replace("'", "\\'")
    return f"'{text}'"


# ------------------------------------------------------------------------------------------------------------ launching


def _here(paths: StudyPaths, points: tuple[Run, ...], launcher: dict, words: Words, configs: Path | None) -> int:
    """Train through a launcher that waits: Hydra's basic one, or another that is not Slurm's."""
    ids = {run.run_id for run in points}
    statuses = [s for s in with_slurm(paths) if s.run.run_id in ids]
    missing = [s.run.run_id for s in statuses if s.state not in (*DONE, "running", "queued")]
    done = sum(s.state in DONE for s in statuses)
    print(f"{len(missing)} runs to train, {len(ids) - len(missing) - done} waiting or running, {done} done", flush=True)
    if missing:
        from submitit.core.utils import UncompletedJobError

        at = folder(paths, new_token())
        told = words.hydra
        if launcher["_target_"].startswith(SUBMITIT):
            told = [*told, f"hydra.launcher.submitit_folder={_quoted(at.resolve())}"]
        try:
            _multirun(paths, at, missing, told, configs)
        except UncompletedJobError:
            pass  # a process that was killed: the report goes by the runs
    return _report(paths, ids)


class _Submitted(BaseException):
    """The array is in the queue: there is nothing that Hydra's launcher has to wait for."""


def _on_slurm(paths: StudyPaths, study: Study, points, launcher: dict, words: Words, configs: Path | None) -> int:
    """One array through hydra-submitit-launcher. As always, its record is there before sbatch is called."""
    limit, ranks = array_limit(), launcher["nodes"] * launcher["tasks_per_node"]
    uneven = next((run.recipe.batch_size for run in points if run.recipe.batch_size % ranks), None)
    if uneven:
        raise UserError(
            f"a batch of {uneven} images does not divide over {ranks} ranks; change "
            "hydra.launcher.nodes or hydra.launcher.tasks_per_node"
        )
    ids = {run.run_id for run in points}
    with only_launcher(paths):
        missing = missing_runs(paths, lambda run: run.run_id in ids)
        runs = [run.run_id for run in missing]
        if len(runs) > limit:
            raise UserError(f"{len(runs)} runs, and an array of this cluster has at most {limit}; sweep in parts")
        if runs:
            threads = launcher["cpus_per_task"] or study.cluster.threads
            settle(paths, missing, replace(study.cluster, threads=threads), ranks)
            code = str(snapshot(paths.code).resolve())
            submission = Submission(new_token(), "", tuple(runs), code, time.time())
            write(paths, submission)
            submission = replace(submission, job=_submit(paths, study, submission, launcher, words, configs))
            write(paths, submission)
    if not runs:
        return _report(paths, ids)
    print(f"job {submission.job}: {len(runs)} runs; `ditscale status {paths.root} --watch` follows them", flush=True)
    if not words.wait:
        return 0
    progress, known = Progress(len(runs)), {}
    while slurm_client.jobs(submission.name) != []:  # None: squeue gives no answer now
        progress.show([s for s in study_status(paths, known) if s.run.run_id in runs])
        time.sleep(POLL_S)
    return _report(paths, set(runs))


def _submit(paths: StudyPaths, study: Study, submission: Submission, launcher: dict, words: Words, configs) -> str:
    """Let Hydra submit; returns the job's number.

    Hydra's launcher would wait for results, with jobs that are requeued or killed for long or for ever. It has done its
    part once submitit has put each element's pickle in its place, so we leave it then.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    at = folder(paths, submission.token)
    pickles = lambda: list(at.glob("*_submitted.pkl"))

    def look(*_):
        if len(pickles()) == len(submission.runs):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise _Submitted

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with redirect_stderr(io.StringIO()):  # submitit shows what sbatch says twice
            _multirun(paths, at, list(submission.runs), _slurm_words(at, study, submission, launcher, words), configs)
    except _Submitted:
        pass
    except Exception as error:
        if not any(at.glob("*_submission.sh")):  # submitit names it so once sbatch has answered
            shutil.rmtree(at, ignore_errors=True)
        if isinstance(error, (FailedJobError, FailedSubmissionError)):
            raise UserError(f"sbatch refuses {len(submission.runs)} runs: {refusal(error)}") from None
        if isinstance(error, OSError):
            raise UserError(
                f"{at}: cannot be written ({error.strerror}); {remedy(error, at)}, then sweep again"
            ) from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return pickles()[0].name.split("_")[0]


def _slurm_words(at: Path, study: Study, submission: Submission, launcher: dict, words: Words) -> list[str]:
    """Overrides of hydra-submitit-launcher that make its jobs what the others are (launch/backends/slurm_array.py)."""
    threads = launcher["cpus_per_task"] or study.cluster.threads
    import_path = os.pathsep.join(filter(None, [submission.code, os.environ.get("PYTHONPATH")]))
    setup = [
        # to stop is for the run, which saves first and asks for its own requeue; srun would end it at once
        "trap '' USR2 TERM",
        f"export PYTHONSAFEPATH=1 SLURM_KILL_BAD_EXIT=1 SRUN_CPUS_PER_TASK={threads}",
        f"export PYTHONPATH={shlex.quote(import_path)}",
        *(launcher["setup"] or []),
    ]
    return [
        *words.hydra,
        f"hydra.launcher.name={submission.name}",
        f"hydra.launcher.submitit_folder={_quoted(at.resolve())}",
        f"hydra.launcher.cpus_per_task={threads}",
        f"hydra.launcher.setup=[{','.join(map(_quoted, setup))}]",
        "hydra.launcher.stderr_to_stdout=true",
        "hydra.launcher.max_num_timeout=1000000",  # a signal before the run listens requeues it, as later ones do
        "++hydra.launcher.additional_parameters.requeue=true",
    ]


def _report(paths: StudyPaths, ids: set[str]) -> int:
    """Say what became of these runs, by their records; 1 when one can still be mended."""
    statuses = [s for s in with_slurm(paths) if s.run.run_id in ids]
    for s in statuses:
        if s.state not in ("finished", "running", "queued"):
            print(f"{s.run.run_id}: {s.state}: {s.reason}")
    print(f"{sum(s.state == 'finished' for s in statuses)} of {len(statuses)} runs are finished")
    return int(any(s.state not in (*DONE, "running", "queued") or s.state == "damaged" for s in statuses))


if __name__ == "__main__":
    # Jobs import this module by its name: the function they are given must be the same one.
    from ditscale.sweep import main as run

    sys.exit(run())
