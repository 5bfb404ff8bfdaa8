"""The study directory: written once from a Study, read by every verb after that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .. import config
from ..config import Study
from ..errors import UserError
from ..files import make_directory, write_text
from ..naming import RunPaths, StudyPaths
from .run import Run, read_run

# what may change in a planned study, since its grid stays the same
BESIDE = ("cluster", "rates", "rate_budgets", "evaluation", "nested")


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
        same_beside = [there.pop(key) for key in BESIDE] == [here.pop(key) for key in BESIDE]
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


def write_run(paths: StudyPaths, run: Run) -> RunPaths:
    """Write runs/<run_id>/run.yaml unless it says the same already."""
    at = paths.run(run.run_id)
    text = config.dump_yaml(config.plain(run))
    if not at.run.is_file() or at.run.read_text() != text:
        make_directory(at.root)
        write_text(at.run, text)
    return at


def _difference(there: dict, here: dict, prefix: str = "") -> str:
    """The first key that differs, with both values."""
    for key in {**there, **here}:
        a, b = there.get(key), here.get(key)
        if a != b:
            if isinstance(a, dict) and isinstance(b, dict):
                return _difference(a, b, f"{prefix}{key}.")
            return f"{prefix}{key} is {a} there, {b} here"
    return "no difference"
