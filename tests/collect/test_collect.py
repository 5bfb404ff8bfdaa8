"""Which runs come into a study's table, and what is said of them, from records written by hand."""

import shutil

import h5py
import numpy as np
import pytest

from ditscale.collect.table import collect
from ditscale.laws import read_table
from ditscale.naming import RunPaths, StudyPaths
from ditscale.plan.run import read_run
from ditscale.quantities import ColumnInfo, guess
from ditscale.rundir.evaluation import Result, write_results
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


def test_what_a_column_holds_is_written_as_fields(one_run):
    """study.h5 says metric, data set and variant of every metric; one that does not still reads."""
    paths, run = finish(one_run())
    how = {"n": 64, "sampler": "heun"}
    ways = [Result("fid", "coco, 2nd", 3.0, 0.1, "squared", 64, 0, how | {"guidance": g}) for g in (1.0, 2.0)]
    write_results(paths.run(run.run_id).evaluation, run.run_id, ways)
    collect(paths.root)
    own = run.data.name
    table = read_table(paths.table, "fid_coco, 2nd:guidance=1", also=("fid_se_coco, 2nd:guidance=1", "raw_loss", "lr"))
    assert table.info == {
        "fid_coco, 2nd:guidance=1": ColumnInfo("fid", "coco, 2nd", "guidance=1", "value", "squared"),
        "fid_se_coco, 2nd:guidance=1": ColumnInfo("fid", "coco, 2nd", "guidance=1", "se", "squared"),
        "raw_loss": ColumnInfo("raw_loss", own),
    }
    assert read_table(paths.table).info == {"loss": ColumnInfo("loss", own)}
    first = paths.csv.read_text().splitlines()[0]
    assert first.startswith("run_id,role,")  # Other tools read study.csv without an option for comments.
    with h5py.File(paths.table, "r+") as file:
        for column in file["points"].values():
            for name in list(column.attrs):
                del column.attrs[name]
    old = read_table(paths.table, "fid_coco, 2nd:guidance=1")
    assert not old.info and old.info_of(old.metric) == ColumnInfo("fid", "coco, 2nd", "guidance=1")


def test_names_of_columns_and_what_they_let_one_guess():
    for info in (
        ColumnInfo("fid"), ColumnInfo("fid", quantity="se"), ColumnInfo("nll", "coco_val", "n=5+steps=8", "se"),
        ColumnInfo("loss", "coco"), ColumnInfo("raw_loss"), ColumnInfo("ood_loss", "", "x=1"),
    ):  # fmt: skip
        assert guess(info.name("")) == info
    assert guess("FID_coco").positive and guess("val_loss").positive and not guess("nll_coco").positive
    assert ColumnInfo.of({"unit": "nats"}) is None


def test_skipped_steps_are_told_where_they_are_many(one_run):
    paths, run = finish(one_run(), skipped=2)
    assert f"{run.run_id}: 2 of {run.steps} steps skipped: their gradient was not finite" in collect(paths.root).notes
    few, run = finish(one_run("budgets=[2.5e10]"), skipped=1)
    assert run.steps > 100 and collect(few.root).notes == ()
