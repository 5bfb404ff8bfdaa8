"""A sweep as a user types it: planned beside its grid, trained for real, one rate so high that it diverges."""

import json

import h5py
import pytest


@pytest.mark.slow
def test_a_sweep_from_plan_to_report(tmp_path, ditscale):
    root = tmp_path / "s"
    settings = [
        "study=mini",
        "~evaluation",
        "nested=false",
        "budgets=[5e9]",
        "widths=[24]",
        "recipe.min_steps=20",
        "validation.n=128",
        "rates=[0.3,1,3,1e7]",
        "recipe.clip=1e9",
    ]
    assert ditscale("plan", root, *settings).returncode == 0
    assert ditscale("launch", root).returncode == 0  # a diverged run is a result
    done = ditscale("rates", root)
    assert done.returncode == 3 and "refused" in done.stdout and "Traceback" not in done.stderr  # one size is no law
    found = json.loads((root / "rates.json").read_text())
    (cell,) = found["cells"]
    finished = {t["run_id"]: t["loss"] for t in cell["trials"] if t["loss"] is not None}
    assert len(cell["trials"]) == 4 and len(finished) == 3 and len(cell["diverged"]) == 1
    said = ditscale("collect", root).stdout
    assert "3 runs collected, 1 left out" in said and "learning-rate sweep: diverged" in said
    with h5py.File(root / "study.h5") as file:  # the same losses as in the table, which holds all roles
        points = file["points"]
        table = dict(zip(points["run_id"].asstr()[:], points["loss"][:]))
        assert table == pytest.approx(finished) and sorted(points["role"].asstr()[:]) == ["grid", "rate", "rate"]
    assert ditscale("report", root).returncode == 0
    assert "The learning rate" in (root / "report" / "index.html").read_text()
    assert "has 1 distinct size" in ditscale("fit", root).stdout  # the slice holds the grid's run alone
