"""Which runs come into a study's table, and what is said of them, from records written by hand."""

import shutil

import numpy as np
import pytest

from ditscale.collect.table import collect
from ditscale.naming import RunPaths, StudyPaths
from ditscale.plan.run import read_run
from ditscale.rundir.record import STEP, VALIDATION, Record


def finish(run_dir, skipped=0):
    """A run's record as training would leave it; the gradient of so many of its steps was not finite."""
    at = RunPaths(run_dir)
    run = read_run(at.run)
    record = Record(at.metrics, "", run.steps, [run.data.name], run.validation.n)
    record.begin(1.0, 0, 1, "here")
    steps = np.ones(run.steps, STEP)
    steps["images"] = np.arange(1, run.steps + 1) * run.recipe.batch_size
    steps["grad_norm"][:skipped] = np.nan
    record.write_steps(0, steps)
    row = np.ones((), VALIDATION)
    row["dataset"] = run.data.name.encode()
    record.write_validation(0, row, np.ones(run.validation.n))
    record.measure({"skipped": skipped})
    record.end("finished", 2.0)
    record.close()
    return StudyPaths(at.root.parent.parent), run


@pytest.mark.parametrize("other", ["validation.n=64", "validation.seed=3"])
@pytest.mark.parametrize("planned", [True, False], ids=["study", "runs alone"])
def test_a_run_measured_on_other_triples_is_left_out(one_run, other, planned):
    paths, run = finish(one_run())
    copied, _ = finish(one_run(other))
    if not planned:  # then the first run's are the study's
        paths.study.unlink()
    for at in copied.run_dirs():
        shutil.copytree(at.root, paths.runs / f"z-{at.name}")
    found = collect(paths.root)
    assert [row["run_id"] for row in found.rows] == [run.run_id]
    ((name, reason),) = found.excluded
    assert name.startswith("z-") and "other validation triples than the study's" in reason


def test_skipped_steps_are_told_where_they_are_many(one_run):
    paths, run = finish(one_run(), skipped=2)
    assert f"{run.run_id}: 2 of {run.steps} steps skipped: their gradient was not finite" in collect(paths.root).notes
    few, run = finish(one_run("budgets=[2.5e10]"), skipped=1)
    assert run.steps > 100 and collect(few.root).notes == ()
