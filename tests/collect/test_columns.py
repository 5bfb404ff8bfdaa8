"""evaluation.h5, and the columns it gives a study's table."""

import h5py
import numpy as np
import pytest

from ditscale.collect.columns import evaluated
from ditscale.config import compose
from ditscale.errors import UserError
from ditscale.quantities import ColumnInfo
from ditscale.rundir.evaluation import Result, has_samples, read_results, write_results, write_samples


def result(metric="vlb", dataset="own", value=2.5, n=100, model="abc", **arrays):
    return Result(metric, dataset, value, 0.01, "nats", n, 7, {"t_min": 0.01, "model": model}, 3.0, 1.0, arrays)


def test_results_are_kept_replaced_and_read_back(tmp_path):
    path = tmp_path / "evaluation.h5"
    assert read_results(path) == []
    write_results(path, "run", [result(samples=np.arange(5.0))])
    write_samples(
        path,
        "run",
        np.zeros((2, 4, 4, 3), "u1"),
        np.ones((2, 4, 4, 3), "u1"),
        ["a", "b"],
        {"sampler": "heun", "steps": 8, "seed": 1},
    )
    write_results(path, "run", [result(value=2.0, samples=np.arange(3.0)), result("likelihood", "far/off")])
    found = {(r.metric, r.dataset): r for r in read_results(path)}
    assert set(found) == {("vlb", "own"), ("likelihood", "far/off")}
    assert found["vlb", "own"].value == 2.0 and found["vlb", "own"].arrays["samples"].tolist() == [0, 1, 2]
    assert found["vlb", "own"].same(result()) and not found["vlb", "own"].same(result(n=99))
    assert has_samples(path, 2, {"sampler": "heun", "steps": 8, "seed": 1}) and not has_samples(
        path, 2, {"sampler": "euler"}
    )
    size = path.stat().st_size
    for _ in range(5):
        write_results(path, "run", [result(value=2.0, samples=np.arange(3.0))])
    assert path.stat().st_size <= size  # nothing of what was replaced stays


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "evaluation.h5"
    write_results(path, "run", [result()])
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="truncated or not HDF5; delete it and evaluate again"):
        read_results(path)


def test_damage_in_the_middle_is_one_line(tmp_path):
    path = tmp_path / "evaluation.h5"
    write_results(path, "run", [result()])
    content = path.read_bytes()
    path.write_bytes(content.replace(b"SNOD", b"XXXX"))  # the names in its groups
    for use in (read_results, lambda path: write_results(path, "run", [result("fid")])):
        with pytest.raises(UserError, match="evaluation.h5: is damaged; delete it and evaluate again"):
            use(path)
    assert path.read_bytes() == content.replace(b"SNOD", b"XXXX")
    write_samples(path.with_name("s.h5"), "run", np.zeros(2), np.zeros(2), ["a", "b"], {"steps": 8})
    path.write_bytes(path.with_name("s.h5").read_bytes().replace(b"SNOD", b"XXXX"))
    with pytest.raises(UserError, match="is damaged"):
        has_samples(path, 2, {})


def test_columns_of_runs_measured_alike():
    runs = [
        [result(value=1.0, model="a"), result("likelihood", "coco", 3.0), result("val_loss", "coco", 0.5)],
        [result(value=2.0, model="b"), result("likelihood", "coco", 4.0)],
        [result(value=9.0, n=50)],
    ]
    rows, columns, how, notes = evaluated("own", runs)
    assert columns == {
        "vlb": ColumnInfo("vlb", "own", unit="nats"),
        "vlb_se": ColumnInfo("vlb", "own", quantity="se", unit="nats"),
        "nll_coco": ColumnInfo("nll", "coco", unit="nats"),
        "nll_se_coco": ColumnInfo("nll", "coco", quantity="se", unit="nats"),
        "loss_coco": ColumnInfo("loss", "coco", unit="nats"),
        "loss_se_coco": ColumnInfo("loss", "coco", quantity="se", unit="nats"),
        "vlb:n=50": ColumnInfo("vlb", "own", "n=50", unit="nats"),
        "vlb_se:n=50": ColumnInfo("vlb", "own", "n=50", "se", "nats"),
    }
    assert how["vlb"] == "own: 100 images; seed 7; t_min 0.01; the same for every run"
    assert rows[0] == {
        "vlb": 1.0,
        "vlb_se": 0.01,
        "nll_coco": 3.0,
        "nll_se_coco": 0.01,
        "loss_coco": 0.5,
        "loss_se_coco": 0.01,
    }
    assert rows[1]["vlb"] == 2.0 and rows[2] == {"vlb:n=50": 9.0, "vlb_se:n=50": 0.01}
    assert (
        "vlb: 2 of 3 runs have it; `ditscale evaluate RUN_DIR` measures" in notes
        and "vlb:n=50: 1 of 3 runs have it" in notes
    )
    assert any(n.startswith("nll_coco: 2 of 3 runs have it; `ditscale") for n in notes)


def test_runs_of_a_sweep_are_not_missed():
    """No study has them evaluated; one that was by hand has its number all the same."""
    roles = ["grid", "probe", "rate", "rate"]
    rows, _, _, notes = evaluated("own", [[result()], [result()], [result()], []], roles=roles)
    assert notes == [] and rows[2]["vlb"] == 2.5
    *_, notes = evaluated("own", [[result()], [], [result()], []], roles=roles)
    assert notes == ["vlb: 1 of 2 runs have it; `ditscale evaluate RUN_DIR` measures"]


def test_ways_of_measuring_stand_side_by_side(tmp_path):
    """What is measured otherwise takes nobody's place; the study's own way has the plain column, though most runs were
    measured otherwise."""
    path = tmp_path / "evaluation.h5"
    ways = [fid(4.0, steps=8), fid(3.0, steps=32), fid(2.0, steps=8, guidance=2.0), fid(5.0, steps=8, n=4096)]
    for way in ways:
        write_results(path, "run", [way])
    write_results(path, "run", [fid(4.5, steps=8, model="later")])  # the same way, of later weights
    kept = read_results(path)
    assert sorted(r.value for r in kept) == [2.0, 3.0, 4.5, 5.0]

    study = compose(
        [
            "study=mini",
            "validation.n=2048",
            "evaluation.fid.n=0",
            "evaluation.fid.sampler=euler",
            "evaluation.fid.steps=8",
        ]
    )
    rows, columns, how, _ = evaluated("scenes", [kept, [fid(3.1, steps=32)], [fid(3.2, steps=32)]], study)
    assert rows[0] == {
        "fid": 4.5, "fid_se": 0.01, "fid:steps=32": 3.0, "fid_se:steps=32": 0.01,
        "fid:guidance=2": 2.0, "fid_se:guidance=2": 0.01,
        "fid:n=4096": 5.0, "fid_se:n=4096": 0.01,
    }  # fmt: skip
    assert rows[1] == {"fid:steps=32": 3.1, "fid_se:steps=32": 0.01}
    assert "guidance 2.0" in how["fid:guidance=2"] and columns["fid:guidance=2"].variant == "guidance=2"
    plain, *_ = evaluated("scenes", [kept, [fid(3.1, steps=32)], [fid(3.2, steps=32)]])  # nobody asked: as most runs
    assert plain[0]["fid"] == 3.0 and plain[0]["fid:steps=8"] == 4.5


def fid(value, n=2048, model="abc", sampler="euler", steps=32, guidance=1.0):
    settings = {
        "extractor": "caption-reader 0123",
        "sampler": sampler,
        "steps": steps,
        "guidance": guidance,
        "model": model,
    }
    return Result("fid", "scenes", value, 0.01, "squared feature", n, 12345, settings, 3.0, 1.0, {})


def test_a_file_from_before_there_were_ways(tmp_path):
    path = tmp_path / "evaluation.h5"
    write_results(path, "run", [result(value=1.0)])
    with h5py.File(path, "r+") as file:
        (name,) = file["results/vlb"]
        file.move(f"results/vlb/{name}", "results/vlb/own")
    write_results(path, "run", [result(value=2.0), result(value=3.0, n=7)])
    assert sorted((r.value, r.n) for r in read_results(path)) == [(2.0, 100), (3.0, 7)]
