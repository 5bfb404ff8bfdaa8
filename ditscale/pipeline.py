"""The steps of a study in their order. Each reads the study directory and leaves its result there, so any may be
repeated alone, and the whole resumes from wherever it stopped."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import units
from .config import Study, about_launch, compose, relaunched
from .errors import UserError, command
from .files import write_text
from .logs import log
from .naming import StudyPaths
from .plan.checks import Check, check, found, listed, ordered, refuse
from .plan.grid import Plan, plan_probe, plan_runs
from .plan.run import Run, read_run
from .plan.sizes import with_widths
from .plan.study import plan_all, read_study, was_planned, write_study
from .process import this_process

if TYPE_CHECKING:
    from .early.verdict import EarlyVerdict
    from .laws import Forecast, RateLaw, Verdict
    from .laws.sealed.forecast import Probe

# From the number of workers, the FLOPs not planned yet and the known FLOP/s by n_params: what shows each status, as
# launch/monitor/progress.py does.
Progress = Callable[[int, float, dict[int, float]], Callable[..., None]]


@dataclass(frozen=True)
class Outcome:
    """How a launch or a whole study ended."""

    status: str  # "complete", "failed" (runs that can be fixed did) or "no law"
    # run_id, state and reason of runs that did not finish. A diverged one is no failure but a result.
    unfinished: tuple[dict[str, str], ...] = ()
    results: dict[str, Any] = field(default_factory=dict)  # what the steps of a whole study wrote to JSON
    report: str = ""  # the page

    @property
    def exit_code(self) -> int:
        return {"complete": 0, "failed": 1, "no law": 3}[self.status]

    def summary(self) -> str:
        lines = [f"{run['run_id']}: {run['state']}: {run['reason']}" for run in self.unfinished]
        if self.status == "failed":
            lines.append("some runs failed; fix the causes above and rerun the same command")
        elif self.report:
            law = "the study is complete" if self.status == "complete" else "no law can be given, for the reasons above"
            lines.append(f"{law}; report: {self.report}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compose_study(settings: Sequence[str], configs: Path | None = None) -> Study:
    """The study of settings, with numbers for its prior and its widths (plan/sizes.py), as study.yaml has it."""
    from .laws.prior import prior_of

    return with_widths(compose(list(settings), configs, prior_of))


def checked_plan(study: Study) -> Plan:
    """The plan of a study's grid and sweep with all that was found about it. Raises UserError as `plan_runs` does."""
    planned = plan_runs(study)
    return replace(planned, checks=check_plan(study, planned))


def check_plan(study: Study, planned: Plan, launching: bool = False) -> tuple[Check, ...]:
    """What plan/checks finds about a plan and, of the laws, what its runs do not determine. launching: whether they
    are about to start."""
    from .laws.predictor.identify import undetermined_design

    chosen = [run for run in planned.runs if run.stage == "grid"]
    columns = ("n_params", "n_tokens", "budget_flops", "role")
    design: dict[str, Any] = {name: [getattr(run, name) for run in chosen] for name in columns}
    trajectory = [run.within or run.run_id for run in chosen]
    lacking = undetermined_design(**design, target=study.probe_budget, trajectory=trajectory) if chosen else ""
    message, _, cure = lacking.rpartition("; ")
    law = (found("not_identified", message, cure),) if lacking else ()
    return ordered((*check(study, planned, launching), *law))


def check_launch(root: Path | str, study: Study) -> None:
    """Check the runs in a study's directory before they start as `study` says, unless all have ended. Logs warnings;
    raises UserError, before anything is submitted, at an error."""
    runs = list[Run]()
    for at in StudyPaths(root).run_dirs():
        with suppress(UserError):  # The launch itself names damaged files.
            runs.append(read_run(at.run))
    if not runs or _have_ended(StudyPaths(root)):
        return
    checks = check_plan(study, Plan(tuple(runs), (), prior=study.prior), launching=True)
    refuse(checks)
    for line in listed([each for each in checks if each.severity == "warning"]):
        log.warning(line)


def _have_ended(paths: StudyPaths) -> bool:
    """Whether no run of the study is left to train."""
    from .rundir.record import read_end

    runs = paths.run_dirs()
    try:
        return bool(runs) and all(read_end(at.metrics)[0] in ("finished", "diverged") for at in runs)
    except UserError:  # A damaged record is for the launch to name.
        return False


def plan_study(root: Path | str, settings: Sequence[str] = (), configs: Path | None = None) -> tuple[StudyPaths, Plan]:
    """Write the study and its runs of grid and sweep. Without settings an existing study is taken as it is. Raises
    UserError, and writes nothing, where a check finds an error."""
    paths = StudyPaths(root)
    if settings or not paths.study.exists():
        old = read_study(root) if paths.study.exists() else None
        # Where only cluster and budget are given, the study is the one that is there.
        study = old if old and about_launch(list(settings)) == list(settings) else compose_study(settings, configs)
        if old:  # The directory remembers how its study is launched.
            study = relaunched(study, old, list(settings), configs)
        planned = checked_plan(study)
        refuse(planned.checks)  # Before anything is written.
        refuse_misfit(study, planned)
        write_study(root, study)
        planned = replace(plan_runs(read_study(root)), checks=planned.checks)
    else:
        planned = checked_plan(read_study(root))
        refuse(planned.checks)
    plan_all(paths, planned.runs, by="plan")
    return paths, planned


def refuse_misfit(study: Study, plan: Plan) -> None:
    """Raises UserError where the optimum of a study's prior lies far from its sizes."""
    if study.prior:
        from .precision.studies import believed_law

        believed_law(study, plan.runs)


def launch_study(
    root: Path | str, stage: str | None = None, progress: Progress | None = None, probe: bool = False
) -> Outcome:
    """Train what is missing, here or as Slurm jobs, and wait for it: the grid, and the probe once it is planned. Raises
    UserError where the study's budget does not suffice; probe: for the probe too, which will follow."""
    from .launch.afford import check_budget, known_speeds
    from .launch.backends.local import machine
    from .launch.wait import bring_to_end

    paths, study = StudyPaths(root), read_study(root)
    runs = [read_run(at.run) for at in paths.run_dirs()]
    if not runs:
        raise UserError(f"{root}: holds no runs; {command('plan', root)} writes them")
    check_budget(paths, study, lambda run: stage in (None, run.stage), probe)
    n = machine(study.cluster).workers if study.cluster.name == "local" else study.cluster.parallel
    extra = 0.0 if any(r.role == "probe" for r in runs) or stage is None else study.probe_budget
    show = progress(n, extra, known_speeds(study, runs, paths)) if progress else lambda *_, **__: None
    unfinished = []
    for each in [stage] if stage else sorted({r.stage for r in runs}):
        statuses = bring_to_end(paths, study.cluster, each, show)
        show(statuses, last=True)
        unfinished += [s for s in statuses if s.run.stage == each and s.state != "finished"]
    rows = tuple({"run_id": s.run.run_id, "state": s.state, "reason": s.reason} for s in unfinished)
    return Outcome("failed" if any(s.state != "diverged" for s in unfinished) else "complete", rows)


def fit_sweep(root: Path | str) -> "RateLaw":
    """The learning-rate law of a study's sweep; written to rates.json."""
    from .laws import fit_rates, read_trials

    trials, left_out = read_trials(root)
    law = fit_rates(trials, source=str(root), exclusions=left_out)
    write_json(StudyPaths(root).rates, law.to_dict())
    return law


def seal_forecast(root: Path | str, budget: float | None = None) -> tuple["Forecast", Run]:
    """Collect, seal the forecast at the probe's budget, and plan the probe at the size the law gives."""
    from .collect.table import collect
    from .laws import forecast, read_table, seal

    paths, study = StudyPaths(root), read_study(root)
    if budget is not None and budget != study.probe_budget:
        elsewhere = f"{command('fit', root, '--target', units.compact(budget))} predicts elsewhere without a probe"
        planned = f"this study's probe_budget is {units.compact(study.probe_budget)}"
        raise UserError(f"--budget {units.compact(budget)}: {planned}; {elsewhere}")
    collect(root)
    made = forecast(read_table(root), study.probe_budget)
    own = _priced(paths, study, probe_of(paths, study, made.n_params.value))
    sealed = seal(paths.forecast, replace(made, probe=own))
    probe = probe_of(paths, study, sealed.n_params.value)
    plan_all(paths, [probe], by="forecast")
    return sealed, probe


def _priced(paths: StudyPaths, study: Study, probe: Run) -> "Probe":
    """The probe with its price, as the forecast seals it."""
    from .laws import Estimate
    from .laws.sealed.forecast import Probe
    from .price.price import price
    from .price.records import read_speeds

    paid = price([probe], study, read_speeds(paths, study.cluster))
    hours, device_hours = (
        Estimate(x, x / paid.factor, x * paid.factor) for x in (paid.wall_s / 3600, paid.device_hours)
    )
    about = (probe.run_id, probe.seed, probe.data.seed, paid.device)
    return Probe(*about, device_hours, hours, paid.disk_bytes, paid.sources)


def probe_of(paths: StudyPaths, study: Study, n_params: float) -> Run:
    """The probe at the forecast's N*. It remains the one that an earlier version planned, where one did."""
    before = plan_probe(study, n_params, independent=False)
    known = was_planned(paths, before.run_id) or paths.run(before.run_id).run.exists()
    return before if known else plan_probe(study, n_params)


def give_verdict(root: Path | str) -> "Verdict":
    """The verdict on the sealed forecast; written to verdict.json."""
    from .collect.table import collect
    from .laws import load_forecast, read_table, verdict

    paths, study = StudyPaths(root), read_study(root)
    if not paths.forecast.exists():
        raise UserError(f"{root}: holds no forecast.json; {command('forecast', root)} seals one")
    sealed = load_forecast(paths.forecast)
    excluded = dict(collect(root).excluded)
    table = read_table(root, sealed.metric)
    if not (table.role == "probe").any():
        state = excluded.get(probe_of(paths, study, sealed.n_params.value).run_id, "not planned")
        raise UserError(f"{root}: the probe has no measured loss yet ({state}); {command('launch', root)} trains it")
    result = verdict(sealed, table)
    write_json(paths.verdict, result.to_dict())
    return result


def give_early_verdict(root: Path | str) -> "EarlyVerdict":
    """What the probe is on its way to while it trains, against the sealed forecast; writes nothing. Raises UserError
    where there is no forecast, no probe that has begun, or no curves to compare it with."""
    from .early.curves import grid_curves, read_curve
    from .early.verdict import early_verdict
    from .launch.monitor.status import State, run_status
    from .laws import load_forecast

    paths, study = StudyPaths(root), read_study(root)
    if study.rehearsal:
        raise UserError(f"{root}: is a rehearsal, whose curves are drawn and not trained; there is no early verdict")
    if study.recipe.schedule == "cosine":
        why = "with recipe.schedule=cosine, runs of other lengths have other rates at as many images"
        raise UserError(f"{root}: {why}, so curves cannot be compared before the probe ends")
    if not paths.forecast.exists():
        raise UserError(f"{root}: holds no forecast.json; {command('forecast', root)} seals one")
    sealed = load_forecast(paths.forecast)
    run = _planned_probe(paths, sealed.target_budget_flops)
    status = run_status(paths.run(run.run_id), run)
    if status.state == State.FINISHED:
        compare = command("verdict", root)
        raise UserError(f"{root}: the probe {run.run_id} has finished; {compare} compares it with the forecast")
    if not paths.run(run.run_id).metrics.exists():
        begin = command("launch", root)
        raise UserError(f"{root}: the probe {run.run_id} has not started ({status.state}); {begin} trains it")
    grid = grid_curves(root, {row.run_id for row in sealed.inputs.rows})
    probe = read_curve(paths.run(run.run_id), run)
    return early_verdict(sealed, grid, probe, str(status.state), run.n_images)


def _planned_probe(paths: StudyPaths, budget: float) -> Run:
    """The probe that was planned for a budget. Raises UserError where there is none."""
    runs = [read_run(at.run) for at in paths.run_dirs()]
    probes = [run for run in runs if run.role == "probe" and abs(run.budget_flops / budget - 1) <= 0.01]
    if not probes:
        missing = f"{paths.root}: no probe is planned at {units.compact(budget)}"
        raise UserError(f"{missing}; {command('forecast', paths.root)} plans it")
    return max(probes, key=lambda run: paths.run(run.run_id).metrics.exists())


def whole_study(
    root: Path | str, settings: Sequence[str] = (), configs: Path | None = None, progress: Progress | None = None
) -> Outcome:
    """Plan, launch, collect, fit, forecast, probe, verdict, report. Raises UserError at the first step that cannot."""
    from .collect.table import collect
    from .decision.decide import keep_predictors
    from .laws import fit, read_table
    from .report.page import write_report

    paths, planned = plan_study(root, settings, configs)
    study = read_study(root)
    runs = f"{len(planned.runs)} runs, {units.compact(planned.flops)} FLOPs"
    log.info(f"study {study.name} in {root}: {runs}; then a probe of {units.compact(study.probe_budget)} FLOPs")
    for cell in planned.dropped:
        log.info(cell)
    check_launch(root, study)
    results, diverged = dict[str, Any](), tuple[dict[str, str], ...]()
    for stage in ("grid", "rate"):
        if any(run.stage == stage for run in planned.runs):
            launched = launch_study(root, stage, progress, probe=True)
            if launched.exit_code:
                return launched
            diverged += launched.unfinished
    if any(run.role == "rate" for run in planned.runs):
        results["rates"] = _logged(fit_sweep(root))
    log.info(collect(root).summary())
    laws = fit(read_table(root), targets=(units.compact(study.probe_budget),))
    results["laws"] = _logged(laws)
    write_json(paths.laws, results["laws"])
    keep_predictors(root)
    if not laws.given:
        return Outcome("no law", diverged, results, str(write_report(root)))
    sealed, probe = seal_forecast(root)
    results["forecast"] = _logged(sealed)
    log.info(f"probe {probe.run_id}: {units.count(probe.n_params)} parameters, {units.count(probe.n_images)} images")
    launched = launch_study(root, "probe", progress)
    if launched.exit_code:
        return replace(launched, results=results)
    results["verdict"] = _logged(give_verdict(root))
    _draw_samples(paths, study)
    return Outcome("complete", diverged, results, str(write_report(root)))


def _logged(result: Any) -> dict[str, Any]:
    """Log a result's text; returns what is written of it."""
    log.info(result.summary())
    return result.to_dict()


def _draw_samples(paths: StudyPaths, study: Study) -> None:
    """Samples of the run with the lowest loss, unless they are there; but not on a cluster's login node."""
    import h5py

    with h5py.File(paths.table, "r") as file:
        ours = file["points/role"].asstr()[:] != "rate"  # The laws are not about the sweep's runs.
        best = file["points/run_id"][ours][int(file["points/loss"][ours].argmin())].decode()
    at = paths.run(best)
    if at.evaluation.exists():
        return
    if study.cluster.name == "slurm" and not this_process().job:
        draw = command("evaluate", at.root).replace("`", "`srun ", 1)
        log.info(f"to draw samples on a node: {draw}, then {command('report', paths.root)}")
    else:
        from .evaluate.run import evaluate

        log.info(evaluate(at.root).summary())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a result as its verb does, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
