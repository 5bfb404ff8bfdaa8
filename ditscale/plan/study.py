"""The study directory: written once from a Study, read by every verb after that."""

import json
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from .. import config
from ..config import Cluster, Study
from ..errors import UserError
from ..files import make_directory, read_mapping, write_text
from ..naming import RunPaths, StudyPaths
from ..units import compact
from .run import Execution, Run, read_run

# Keys that may change in a planned study, since they leave its grid as it is.
MAY_CHANGE = ("cluster", "budget", "rates", "rate_budgets", "evaluation", "nested", "levers", "prior", "notes")
# Commands that plan runs, and what to type to restore runs whose directory was deleted.
REFINE = "`ditscale plan {root} --refine --add`"
PLANNERS = {
    "plan": "`ditscale plan {root}`",
    "refine": REFINE,
    "forecast": "`ditscale forecast {root}`",
    "sweep": "the same sweep",
}


def read_study(root: Path | str) -> Study:
    """The study of a directory. Raises UserError when there is none."""
    paths = StudyPaths(root)
    if not paths.study.is_file():
        raise UserError(f"{root}: holds no study.yaml; `ditscale plan {root} study=mini` plans a study there")
    return config.read(Study, paths.study)


def write_study(root: Path | str, study: Study) -> StudyPaths:
    """Write study.yaml, unless the directory holds the same study. The keys MAY_CHANGE are replaced where they differ,
    except for a sweep of rates that the new settings do not mention. Raises UserError at another study or files, and
    where levers would be lost."""
    paths = StudyPaths(root)
    if paths.study.exists():
        old = read_study(root)
        if not study.rates:
            study = replace(study, rates=old.rates, rate_budgets=old.rate_budgets)
        before, now = config.plain(old), config.plain(study)
        unchanged = [before.pop(key, None) for key in MAY_CHANGE] == [now.pop(key, None) for key in MAY_CHANGE]
        if before != now:
            other = f"{root} holds another study ({_difference(before, now)})"
            raise UserError(f"{other}; use another directory, or leave the settings out to continue that study")
        for budget in old.budgets:  # A nested lever may be the parent of a run of the grid.
            if lost := {*old.levers_of(budget)} - {*study.levers_of(budget)}:
                gone = f"levers of {compact(budget)} FLOPs are without {', '.join(map(str, sorted(lost)))}"
                raise UserError(f"{root}: {gone}; levers may be added to a planned study, and not taken away")
        if unchanged:
            return paths
    elif paths.root.exists() and (not paths.root.is_dir() or any(paths.root.iterdir())):
        raise UserError(f"{root} exists and is not a study; give a new or an empty directory")
    make_directory(paths.root)
    write_text(paths.study, config.dump_yaml(config.plain(study)))
    return paths


def plan_run(paths: StudyPaths, run: Run) -> RunPaths:
    """Write runs/<run_id>/run.yaml. A run that was planned before keeps the `execution` that a launch has settled."""
    try:
        execution = read_run(paths.run(run.run_id).run).execution
    except UserError:  # There is no run yet, or its file is damaged.
        execution = run.execution
    return write_run(paths, replace(run, execution=execution))


def plan_all(paths: StudyPaths, runs: Iterable[Run], by: str):
    """Apply plan_run to each, and note in planned.json that `by` (of PLANNERS) has planned them: study.yaml does not
    tell, since a sweep plans points instead of the grid. Runs that `plan` planned before and not now, such as dropped
    multiples of the rate, no longer count as planned."""
    for run in runs:
        plan_run(paths, run)
    before = _planned(paths)
    others = {run_id: planner for run_id, planner in before.items() if not by == planner == "plan"}
    now = others | {run.run_id: by for run in runs}
    if now != before:
        write_text(paths.planned, json.dumps(now, indent=1) + "\n")


def gone(paths: StudyPaths, present: Collection[str]) -> str:
    """A line that names the planned runs whose ids are not `present`; "" where all are."""
    missing = {run_id: by for run_id, by in _planned(paths).items() if run_id not in present}
    names = ", ".join([*missing][:3]) + ", ..." * (len(missing) > 3)
    commands = " and ".join(PLANNERS[by].format(root=paths.root) for by in dict.fromkeys(missing.values()))
    runs, them = ("runs have", "them") if len(missing) > 1 else ("run has", "it")
    lost = f"{len(missing)} planned {runs} no directory, or no run.yaml in it ({names}); to restore {them}: {commands}"
    return lost * bool(missing)


def was_planned(paths: StudyPaths, run_id: str) -> bool:
    """Whether planned.json has a run, be its directory there or not."""
    return run_id in _planned(paths)


def _planned(paths: StudyPaths) -> dict[str, str]:
    """{run id: its planner}. Studies planned before planned.json was written have none."""
    return {run_id: by for run_id, by in read_mapping(paths.planned).items() if str(by) in PLANNERS}


def write_run(paths: StudyPaths, run: Run) -> RunPaths:
    """Write runs/<run_id>/run.yaml, unless the file has this content already."""
    at = paths.run(run.run_id)
    text = config.dump_yaml(config.plain(run))
    with suppress(OSError):
        if at.run.read_bytes() == text.encode():
            return at
    make_directory(at.root)
    write_text(at.run, text)
    return at


def settle(paths: StudyPaths, runs: Iterable[Run], cluster: Cluster, ranks: int):
    """Write into each run.yaml how the run is executed on this cluster, where it differs. Raises UserError."""
    for run in runs:
        settled = replace(run, execution=Execution.on(cluster, ranks))
        if settled != run:
            write_run(paths, settled)


def _difference(before: dict, now: dict, prefix: str = "") -> str:
    """The first key that differs, with both values."""
    key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
    a, b = before.get(key), now.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
        return _difference(a, b, f"{prefix}{key}.")
    return f"{prefix}{key} is {a} in study.yaml, {b} in the settings"
