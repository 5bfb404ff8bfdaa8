"""The steps of a study in their order. Each reads the study directory and leaves its result there, so any may be
repeated alone, and the whole goes on from wherever it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from . import units
from .config import Study, changed, compose
from .errors import UserError
from .files import write_text
from .naming import StudyPaths
from .plan.grid import Plan, plan_probe
from .plan.rates import plan_runs
from .plan.run import read_run
from .plan.study import plan_all, read_study, write_study


def plan_study(root: str, settings: list[str], configs: Path | None = None) -> tuple[StudyPaths, Plan]:
    """Write the study and its runs of grid and sweep, or find them there. Without settings an existing study is taken
    as it is."""
    paths = StudyPaths(root)
    if settings or not paths.study.exists():
        study = compose(settings, configs)
        if paths.study.exists():  # how it is launched is remembered
            study = replace(study, cluster=changed(read_study(root).cluster, settings, configs))
        plan_runs(study)  # an impossible study is refused before anything is written
        write_study(root, study)
    planned = plan_runs(read_study(root))
    plan_all(paths, planned.runs, by="plan")
    return paths, planned


def launch_study(root: str, role: str | None = None) -> int:
    """Train what is missing, here or as Slurm jobs, and wait for it: the grid, and the probe once it is planned.
    Returns 0, or 1 when a run can still be mended.

    A diverged run is said but no failure: it is a result, which `collect` leaves out with its reason.
    """
    from .launch.backends.local import workers
    from .launch.job.gpus import gpus
    from .launch.monitor.progress import Progress
    from .launch.wait import bring_to_end

    paths, study = StudyPaths(root), read_study(root)
    runs = [read_run(at.run) for at in paths.run_dirs()]
    if not runs:
        raise UserError(f"{root}: holds no runs; `ditscale plan {root}` writes them")
    roles = [role] if role else sorted({r.role for r in runs})
    here = study.cluster.name == "local"
    n = workers(study.cluster, gpus(study.cluster)) if here else study.cluster.parallel
    extra = 0.0 if any(r.role == "probe" for r in runs) or role is None else study.probe_budget
    progress = Progress(n, extra)
    unfinished = []
    for each in roles:
        ended = bring_to_end(paths, study.cluster, each, progress.show)
        progress.show(ended, last=True)
        unfinished += [s for s in ended if s.run.role == each and s.state != "finished"]
    for s in unfinished:
        print(f"{s.run.run_id}: {s.state}: {s.reason}")
    return 1 if any(s.state != "diverged" for s in unfinished) else 0


def fit_sweep(root: str, bootstrap: int = 1000, seed: int = 0):
    """The learning-rate law of a study's sweep; written to rates.json."""
    from .laws import fit_rates, read_trials

    trials, left_out = read_trials(root)
    law = fit_rates(trials, bootstrap, seed, str(root), left_out)
    write_json(StudyPaths(root).rates, law.to_dict())
    return law


def seal_forecast(root: str, budget: float | None = None):
    """Collect, seal the forecast at the probe's budget, and plan the probe at the size the law gives."""
    from .collect.table import collect
    from .laws import forecast, read_table, seal

    paths, study = StudyPaths(root), read_study(root)
    if budget is not None and budget != study.probe_budget:
        raise UserError(
            f"--budget {units.compact(budget)}: this study's probe_budget is {units.compact(study.probe_budget)}; "
            f"`ditscale fit {root} --target {units.compact(budget)}` predicts elsewhere without a probe"
        )
    collect(root)
    sealed = seal(paths.forecast, forecast(read_table(root), study.probe_budget))
    probe = plan_probe(study, sealed.n_params.value)
    plan_all(paths, [probe], by="forecast")
    return sealed, probe


def give_verdict(root: str):
    """The verdict on the sealed forecast; written to verdict.json."""
    from .collect.table import collect
    from .laws import load_forecast, read_table, verdict

    paths, study = StudyPaths(root), read_study(root)
    if not paths.forecast.exists():
        raise UserError(f"{root}: holds no forecast.json; `ditscale forecast {root}` seals one")
    sealed = load_forecast(paths.forecast)
    left_out = dict(collect(root).excluded)
    table = read_table(root, sealed.metric)
    if not (table.role == "probe").any():
        state = left_out.get(plan_probe(study, sealed.n_params.value).run_id, "not planned")
        raise UserError(f"{root}: the probe has no measured loss yet ({state}); `ditscale launch {root}` trains it")
    given = verdict(sealed, table)
    write_json(paths.verdict, given.to_dict())
    return given


def whole_study(root: str, settings: list[str], configs: Path | None = None) -> int:
    """Plan to report. Returns 0 when the report stands, 1 when runs failed, 3 when no law could be given."""
    from .collect.table import collect
    from .laws import fit, read_table
    from .report.page import write_report

    paths, planned = plan_study(root, settings, configs)
    study: Study = read_study(root)
    print(
        f"study {study.name} in {root}: {len(planned.runs)} runs, {units.compact(planned.flops)} FLOPs; "
        f"then a probe of {units.compact(study.probe_budget)} FLOPs"
    )
    for cell in planned.dropped:
        print(f"dropped: budget {units.compact(cell.budget_flops)}, width {cell.width}: {cell.reason}")
    if launch_study(root, "grid"):
        print("some runs failed; mend what they say and run the same command again")
        return 1
    if any(run.role == "rate" for run in planned.runs):
        if launch_study(root, "rate"):
            return 1
        print(fit_sweep(root).summary())
    print(collect(root).summary())
    laws = fit(read_table(root), targets=(units.compact(study.probe_budget),))
    write_json(paths.laws, laws.to_dict())
    print(laws.summary())
    if not laws.given:
        print(f"no law can be given, for the reasons above; report: {write_report(root)}")
        return 3
    sealed, probe = seal_forecast(root)
    print(sealed.summary())
    print(f"probe {probe.run_id}: {units.count(probe.n_params)} parameters, {units.count(probe.n_images)} images")
    if launch_study(root, "probe"):
        return 1
    print(give_verdict(root).summary())
    _draw_samples(paths, study)
    print(f"the study is complete; report: {write_report(root)}")
    return 0


def _draw_samples(paths: StudyPaths, study: Study):
    """Samples of the run with the lowest loss, unless they are there; but not on a cluster's login node."""
    import h5py

    from .process import this_process

    with h5py.File(paths.table, "r") as file:
        ours = file["points/role"].asstr()[:] != "rate"  # samples are of a run that the laws are about
        best = file["points/run_id"][ours][int(file["points/loss"][ours].argmin())].decode()
    at = paths.run(best)
    if at.evaluation.exists():
        return
    if study.cluster.name == "slurm" and not this_process().job:
        print(
            f"samples can be drawn on a node: `srun ditscale evaluate {at.root}`, then `ditscale report {paths.root}`"
        )
    else:
        from .evaluate.run import evaluate

        print(evaluate(at.root).summary())


def write_json(path: Path, content: dict):
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
