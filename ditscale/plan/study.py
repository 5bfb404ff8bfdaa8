"""The study directory: written once from a Study, read by every verb after that."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from .. import config
from ..config import Study
from ..errors import UserError
from ..files import make_directory, read_mapping, write_text
from ..naming import RunPaths, StudyPaths
from .run import Run, read_run

# what may change in a planned study, since its grid stays the same
MAY_CHANGE = ("cluster", "rates", "rate_budgets", "evaluation", "nested")
# what plans runs, and how each is asked to bring those back whose directory was deleted
PLANNERS = {"plan": "`ditscale plan {root}`", "forecast": "`ditscale forecast {root}`", "sweep": "the same sweep"}


def read_study(root: Path | str) -> Study:
    """The study of a directory. Raises UserError when there is none."""
    paths = StudyPaths(root)
    if not paths.study.is_file():
        raise UserError(f"{root}: holds no study.yaml; `ditscale plan {root} study=mini` makes a study there")
    return config.read(Study, paths.study)


def write_study(root: Path | str, study: Study) -> StudyPaths:
    """Write study.yaml, or find the same study there. What does not change the grid's losses may differ, and is
    replaced: the cluster, the evaluation, who trains a run (nested), and the sweep of rates, but that settings which
    say nothing of it leave it.

    Raises UserError when the directory holds another study, or other files and no study.
    """
    paths = StudyPaths(root)
    if paths.study.exists():
        old = read_study(root)
        if not study.rates:
            study = replace(study, rates=old.rates, rate_budgets=old.rate_budgets)
        there, here = config.plain(old), config.plain(study)
        same_beside = [there.pop(key) for key in MAY_CHANGE] == [here.pop(key) for key in MAY_CHANGE]
        if there != here:
            raise UserError(
                f"{root} holds another study ({_difference(there, here)}); "
                f"use another directory, or leave the settings out to continue that one"
            )
        if same_beside:
            return paths
    elif paths.root.exists() and (not paths.root.is_dir() or any(paths.root.iterdir())):
        raise UserError(f"{root} exists and is not a study; give a new or an empty directory")
    make_directory(paths.root)
    write_text(paths.study, config.dump_yaml(config.plain(study)))
    return paths


def plan_run(paths: StudyPaths, run: Run) -> RunPaths:
    """Write runs/<run_id>/run.yaml, or find the run there: how it is executed then stays as a launch has settled it."""
    try:
        there = read_run(paths.run(run.run_id).run)
    except UserError:  # none, or damaged
        return write_run(paths, run)
    return write_run(paths, replace(run, execution=there.execution))


def plan_all(paths: StudyPaths, runs: Iterable[Run], by: str):
    """plan_run of each, and note in planned.json that `by` (of PLANNERS) has planned them: study.yaml does not tell,
    for a sweep plans points and not the grid, and a deleted directory takes all trace of its run along.

    What `plan` does not plan any more, as multiples of the rate that the study has dropped, is no planned run."""
    for run in runs:
        plan_run(paths, run)
    before = _planned(paths)
    kept = {run_id: who for run_id, who in before.items() if not by == who == "plan"}
    now = kept | {run.run_id: by for run in runs}
    if now != before:
        write_text(paths.planned, json.dumps(now, indent=1) + "\n")


def gone(paths: StudyPaths, there: Collection[str]) -> str:
    """Which planned runs are not among those `there`, in a line for who asks about the study; "" where all are."""
    lost = {run_id: by for run_id, by in _planned(paths).items() if run_id not in there}
    if not lost:
        return ""
    names = ", ".join([*lost][:3]) + (", ..." if len(lost) > 3 else "")
    again = " and ".join(PLANNERS[by].format(root=paths.root) for by in dict.fromkeys(lost.values()))
    runs, them = ("runs have", "them") if len(lost) > 1 else ("run has", "it")
    return f"{len(lost)} planned {runs} no directory, or no run.yaml in it ({names}); to bring {them} back: {again}"


def _planned(paths: StudyPaths) -> dict[str, str]:
    """Run ids, and what of PLANNERS planned each; those of a study that was planned before this was noted are not
    known."""
    return {run_id: by for run_id, by in read_mapping(paths.planned).items() if str(by) in PLANNERS}


def write_run(paths: StudyPaths, run: Run) -> RunPaths:
    """Write runs/<run_id>/run.yaml unless it says the same already."""
    at = paths.run(run.run_id)
    text = config.dump_yaml(config.plain(run))
    if not _says(at.run, text):
        make_directory(at.root)
        write_text(at.run, text)
    return at


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _difference(there: dict, here: dict, prefix: str = "") -> str:
    """The first key that differs, with both values."""
    for key in {**there, **here}:
        a, b = there.get(key), here.get(key)
        if a != b:
            if isinstance(a, dict) and isinstance(b, dict):
                return _difference(a, b, f"{prefix}{key}.")
            return f"{prefix}{key} is {a} there, {b} here"
    return "no difference"
