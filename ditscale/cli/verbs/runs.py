"""Verbs that train the runs of a study, follow them and measure them."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

from ... import units
from ...errors import UserError, command
from ...logs import log
from ...naming import RunPaths, StudyPaths
from ..parse import path
from ..verb import DIR, RUN_DIR, SETTINGS, Options, Report, flag, option, positional, verb
from .studies import progress

RUN = "mystudy/runs/c2e11-d1-w32-s0-3b9319"  # a run of `ditscale plan mystudy study=mini`
# The largest whole numbers that options take: far beyond any use, and before memory or a file's integers end.
MOST = {"n": 10**8, "samples": 10**4, "batch_size": 10**6, "probes": 10**4, "steps": 10**4, "seed": 2**31 - 1}


@verb(
    "Train the runs that are missing. Trains on this machine, several at once, or as Slurm arrays (cluster=slurm).",
    DIR, *SETTINGS, examples=["ditscale launch mystudy", "ditscale launch mystudy cluster=slurm cluster.partition=gpu"],
)  # fmt: skip
def launch(options: Options) -> Report:
    from ...config import about_launch, relaunched
    from ...launch.afford import check_budget
    from ...launch.backends.slurm_array import launch as submit
    from ...pipeline import check_launch, launch_study
    from ...plan.study import gone, read_study, write_study

    study, paths = read_study(options.dir), StudyPaths(options.dir)
    if options.settings:  # They change cluster and budget, for this launch and those that follow.
        if about_launch(options.settings) != options.settings:
            example = "cluster=slurm cluster.partition=NAME or budget.gpu_hours=100"
            raise UserError(f"launch: a planned study is fixed; cluster and budget may change here, as in {example}")
        study = relaunched(study, study, options.settings, path(options.configs))
    check_launch(options.dir, study)
    check_budget(paths, study)
    if options.settings:
        write_study(options.dir, study)
    if lost := gone(paths, [at.name for at in paths.run_dirs()]):
        log.warning(lost)
    if study.cluster.name == "local":
        outcome = launch_study(options.dir, progress=progress(options))
        return Report(outcome.summary(), outcome.to_dict(), outcome.exit_code)
    submitted = submit(paths, study.cluster)
    lines = [f"{command('status', options.dir, '--watch')} follows the runs"]
    if jobs := ":".join(s.job for s in submitted):
        last = f"sbatch --dependency=afterany:{jobs} aggregate.sbatch {quote(options.dir)}"
        lines.append(f"after them: `ditscale sbatch aggregate --out aggregate.sbatch && {last}`")
    return Report("\n".join(lines), {"jobs": [{"job": s.job, "runs": s.runs} for s in submitted]})


@verb(
    "Show one row per run: state, progress, loss, speed, ETA.",
    DIR,
    flag("--watch", "repeat every two seconds until all runs are done"),
    examples=["ditscale status mystudy"],
)
def status(options: Options) -> Iterator[Report]:
    from ...launch.afford import outlook
    from ...launch.monitor.slurm_status import with_slurm
    from ...launch.monitor.status import DONE, RunStatus, table
    from ...plan.study import gone, read_study
    from ...study import status_row

    study, paths = read_study(options.dir), StudyPaths(options.dir)
    known: dict[str, RunStatus] = {}
    while True:
        statuses = with_slurm(paths, known)
        text = table(statuses, study.cluster.peak_flops_per_s)
        if study.rehearsal:
            text += f"\nREHEARSAL: {study.rehearsal}"
        elif any(s.spent.seconds for s in statuses):
            text += f"\n{outlook(paths, study, statuses).summary()}"
        if lost := gone(paths, known):
            text += f"\n{lost}"
            if options.json:
                print(lost, file=sys.stderr)
        clear = "\x1b[H\x1b[2J" if options.watch and sys.stdout.isatty() else ""
        yield Report(clear + text, [status_row(s) for s in statuses])
        if not options.watch or all(s.state in DONE for s in statuses):
            return
        time.sleep(2)


@verb(
    "Cancel the study's Slurm jobs, and no others. Runs save a checkpoint first.",
    DIR, examples=["ditscale cancel mystudy"],
)  # fmt: skip
def cancel(options: Options) -> Report:
    from ...launch.wait import cancel
    from ...plan.study import read_study

    read_study(options.dir)
    text = cancel(StudyPaths(options.dir))
    return Report(text, {"message": text})


@verb(
    "Check this cluster for common problems and suggest fixes.",
    positional("dir", "DIR", "study directory, or where a study will be planned", complete="directory"),
    flag("--job", "also check a compute node with a one-minute job"),
    *SETTINGS, examples=["ditscale doctor mystudy", "ditscale doctor mystudy --job cluster.partition=gpu"],
)  # fmt: skip
def doctor(options: Options) -> Report:
    from ...config import Cluster, about_cluster, changed
    from ...launch.doctor.examine import examine, files_of
    from ...pipeline import compose_study
    from ...plan.study import read_study

    configs = path(options.configs)
    study, cluster = None, Cluster()
    if StudyPaths(options.dir).study.is_file():
        study = read_study(options.dir)
        cluster = changed(study.cluster, options.settings, configs)
    elif options.settings:
        own = about_cluster(options.settings) == options.settings
        study = None if own else compose_study(options.settings, configs)
        cluster = study.cluster if study else changed(cluster, options.settings, configs)
    findings = examine(Path(options.dir), cluster, files_of(study) if study else [], options.job)
    text = "\n".join(map(str, findings))
    return Report(text, [asdict(f) for f in findings], int(any(f.level == "bad" for f in findings)))


@verb(
    "Measure how fast this machine trains and evaluates a study's sizes. Trains real runs for seconds; plan, launch "
    "and status price by what it finds. Run it on a node of the cluster: `ditscale sbatch bench` prints a script.",
    positional("dir", "DIR", "planned study; left out where settings and --out are given", "?", complete="directory"),
    option("--minutes", "M", "time for all sizes; fewer are measured in less, those that tell most", default="5"),
    option("--device", "NAME", "device to measure (default: what the study's cluster uses)", choices=("cpu", "gpu")),
    option("--micro-batch", "N,...", "images per forward pass to try (default: chosen from free memory)"),
    option("--out", "FILE", "file to write, for cluster.speeds (default: DIR/bench.json)", complete="file"),
    *SETTINGS, examples=["ditscale bench mystudy", "ditscale bench --out h200.json study=paper data.path=train.h5"],
)  # fmt: skip
def bench(options: Options) -> Report:
    from ...config import compose, relaunched
    from ...launch.bench import bench as measure
    from ...launch.bench import line
    from ...plan.grid import plan_runs
    from ...plan.study import read_study

    root, settings, configs = options.dir, options.settings, path(options.configs)
    if root and "=" in root:  # As in `ditscale bench --out FILE study=paper`.
        root, settings = None, [root, *settings]
    if root is None and not options.out:
        raise UserError("bench: name a planned study, as in `ditscale bench mystudy`, or a file to write, --out FILE")
    study = compose(settings, configs) if root is None else read_study(root)
    if root and settings:
        study = relaunched(study, study, settings, configs)
    if study.rehearsal:
        raise UserError(f"bench: {root} is a rehearsal, which trains nothing; measure the study it belongs to")
    sizes = [units.whole(n, "--micro-batch", low=1) for n in (options.micro_batch or "").split(",") if n]
    minutes = units.number(options.minutes, "--minutes", low=0.1, high=600)
    out = path(options.out) or StudyPaths(root).bench
    tell = lambda speed: None if options.quiet or options.json else print(line(speed), flush=True)
    result = measure(study, plan_runs(study).runs, minutes, options.device or "", sizes, out, tell)
    use = f"{command('plan', root)} prices by it" if root and not options.out else f"cluster.speeds=[{out}] uses it"
    return Report(f"written: {out}; {use}", result.to_dict())


@verb(
    "Train one run. This is all that a job executes; the same command resumes.",
    RUN_DIR, examples=[f"ditscale run {RUN}"],
)  # fmt: skip
def run(options: Options) -> Report:
    from ...launch.job.execute import run as train
    from ...rundir.outcomes import RankLost, Stopped

    at = RunPaths(options.run_dir)
    try:
        state = train(at)
    except RankLost as error:
        raise UserError(str(error)) from None
    except Stopped as error:
        return Report(str(error), {"run_id": at.name, "state": error.state, "reason": str(error)}, 130)
    return Report(state, {"run_id": at.name, "state": state})


@verb(
    "Measure a finished run and draw samples. Skips results already measured with the same settings.",
    RUN_DIR,
    option("--metrics", "NAME,...", "metrics: val_loss, vlb, likelihood, fid (default: the study's, else val_loss)"),
    option(
        "--dataset", "NAME", "data set: the run's own, a label of validation.also, or LABEL=FILE; may be repeated "
        "(default: all but files)", count="*",
    ),
    option("--ema", "WINDOW", "window of the EMA weights, as a share of the run (default: the run's own)"),
    option("--n --images", "N", "held-out images (default: the study's); under torchrun write --images"),
    option("--batch-size", "N", "images in memory at a time (default: the study's)"),
    option("--seed", "N", "random seed for the noise (default: the study's, shared by its runs)"),
    option("--t-min", "T", "smallest timestep of the variational bound (default: 0.01)"),
    option("--trace", "HOW", "divergence in the likelihood: hutchinson or exact (default: hutchinson)"),
    option("--probes", "N", "Hutchinson probes per image (default: 1)"),
    option("--tolerance", "X", "tolerance of the likelihood's ODE solver (default: 1e-3)"),
    option("--samples", "N", "images to draw for people to look at (default: 16)"),
    option("--sampler", "NAME", "ODE solver of the sampler: heun or euler (default: heun)"),
    option("--steps", "N", "steps of the sampler (default: 32)"),
    option("--guidance", "G", "classifier-free guidance scale; 1 disables it (default: 1)"),
    option("--extractor", "NAME", "feature extractor of FID (default: caption-reader, trained here)"),
    option("--weights", "FILE", "weights of the extractor, unless it is ours", complete="file"),
    option("--decoder", "DIR", "VAE that decodes latents, as diffusers' AutoencoderKL stores it", complete="directory"),
    flag("--few", "allow FID with fewer than 2048 images"),
    examples=[f"ditscale evaluate {RUN}", f"ditscale evaluate {RUN} --metrics vlb,fid --guidance 1"],
)  # fmt: skip
def evaluate(options: Options) -> Report | None:
    from ...process import this_process
    from ...study import evaluate as measure

    values: dict[str, Any] = {}
    for name in ("n", "samples", "batch_size", "probes", "steps", "seed", "ema", "t_min", "tolerance", "guidance"):
        text, label = getattr(options, name), f"--{name.replace('_', '-')}"
        if text is not None:
            whole = name in MOST
            values[name] = units.whole(text, label, high=MOST[name]) if whole else units.number(text, label)
    if values.get("n") == 0:
        raise UserError("--n: 0 is too small; use 2 or more")
    names = ("trace", "sampler", "extractor", "weights", "decoder", "few")
    values |= {name: value for name in names if (value := getattr(options, name))}
    metrics = [name for name in (options.metrics or "").split(",") if name]
    measurement = measure(options.run_dir, metrics, datasets=options.dataset, **values)
    return Report(measurement.summary(), measurement.to_dict()) if this_process().first else None
