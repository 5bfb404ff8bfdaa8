"""Planned runs whose directory was deleted: who asks about the study is told."""

import json
import shutil

import pytest

from ditscale.cli import main
from ditscale.naming import StudyPaths
from ditscale.pipeline import plan_study
from ditscale.plan.run import read_run
from ditscale.rundir.record import Record

SETTINGS = ["study=mini", "~evaluation", "nested=false", "budgets=[2.5e9]", "recipe.min_steps=20"]
WIDTHS = "widths=[16,24,32]"


@pytest.fixture
def study(tmp_path):
    """(root, run ids) of a planned study; the first run is finished."""
    paths, planned = plan_study(str(tmp_path / "s"), [*SETTINGS, WIDTHS])
    at = paths.run(planned.runs[0].run_id)
    run = read_run(at.run)
    record = Record(at.metrics, "", run.steps, ["scenes"], run.validation.n)
    record.begin(1.0, 0, 1, "here")
    record.end("finished", 2.0)
    record.close()
    return paths.root, [run.run_id for run in planned.runs]


def says(capsys, *words) -> str:
    assert main([*map(str, words)]) == 0
    return "".join(capsys.readouterr())


def test_launch_status_and_collect_say_which_and_plan_brings_them_back(study, capsys):
    root, (first, *others) = study
    assert "no directory" not in says(capsys, "status", root)
    shutil.rmtree(root / "runs" / others[0])
    (root / "runs" / others[1] / "run.yaml").unlink()
    line = (
        f"2 planned runs have no directory, or no run.yaml in it ({', '.join(others)}); to restore them: "
        f"`ditscale plan {root}`"
    )
    for verb in ("launch", "status", "collect"):
        assert line in says(capsys, verb, root)
    assert main(["status", str(root), "--json"]) == 0
    told = capsys.readouterr()
    assert [row["run_id"] for row in json.loads(told.out)] == [first] and line in told.err
    says(capsys, "plan", root)
    assert "no directory" not in says(capsys, "status", root)


def test_only_what_was_planned_is_missed(study, capsys):
    """Not the rates that were given up, and nothing where the list cannot be read."""
    root, runs = study
    says(capsys, "plan", root, *SETTINGS, WIDTHS, "rates=[0.5,1,2]")
    swept = {path.name for path in (root / "runs").iterdir()} - {*runs}
    shutil.rmtree(root / "runs" / min(swept))
    assert f"1 planned run has no directory, or no run.yaml in it ({min(swept)})" in says(capsys, "status", root)
    says(capsys, "plan", root, *SETTINGS, WIDTHS, "rates=[0.25,1,4]")
    assert "no directory" not in says(capsys, "status", root)
    for content in ("[]", "{", '{"a": [1]}', ""):
        StudyPaths(root).planned.write_text(content)
        assert "no directory" not in says(capsys, "status", root)


def test_a_point_of_a_sweep_comes_back_with_the_sweep(tmp_path, capsys):
    from ditscale.sweep import parse, plan_points

    words = parse([f"study_dir={tmp_path}/s", "budget=2.5e9", "width=16,24", *SETTINGS[:3], SETTINGS[-1]])
    paths, _, planned = plan_points(words, None)
    assert "no directory" not in says(capsys, "status", paths.root)  # the grid of study.yaml is larger
    shutil.rmtree(paths.run(planned.runs[1].run_id).root)
    assert f"({planned.runs[1].run_id}); to restore it: the same sweep" in says(capsys, "status", paths.root)
