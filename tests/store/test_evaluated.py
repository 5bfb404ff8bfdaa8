"""evaluation.h5, and the columns it gives a study's table."""

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.store.evaluated import evaluated
from ditscale.store.evaluation import Result, has_samples, read_results, write_results, write_samples


def result(metric="vlb", dataset="own", value=2.5, n=100, model="abc", **arrays):
    return Result(metric, dataset, value, 0.01, "nats", n, 7, {"t_min": 0.01, "model": model}, 3.0, 1.0, arrays)


def test_results_are_kept_replaced_and_read_back(tmp_path):
    path = tmp_path / "evaluation.h5"
    assert read_results(path) == []
    write_results(path, "run", [result(samples=np.arange(5.0))])
    write_samples(path, "run", np.zeros((2, 4, 4, 3), "u1"), np.ones((2, 4, 4, 3), "u1"), ["a", "b"], {"sampler": "heun", "steps": 8, "seed": 1})
    write_results(path, "run", [result(value=2.0, samples=np.arange(3.0)), result("likelihood", "far/off")])
    found = {(r.metric, r.dataset): r for r in read_results(path)}
    assert set(found) == {("vlb", "own"), ("likelihood", "far/off")}
    assert found["vlb", "own"].value == 2.0 and found["vlb", "own"].arrays["samples"].tolist() == [0, 1, 2]
    assert found["vlb", "own"].same(result()) and not found["vlb", "own"].same(result(n=99))
    assert has_samples(path, 2, {"sampler": "heun", "steps": 8, "seed": 1}) and not has_samples(path, 2, {"sampler": "euler"})
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


def test_columns_of_runs_measured_alike():
    runs = [
        [result(value=1.0, model="a"), result("likelihood", "coco", 3.0), result("val_loss")],
        [result(value=2.0, model="b"), result("likelihood", "coco", 4.0)],
        [result(value=9.0, n=50)],
    ]
    rows, notes = evaluated("own", runs)
    assert rows[0] == {"vlb": 1.0, "vlb_se": 0.01, "nll_coco": 3.0, "nll_se_coco": 0.01}
    assert rows[1]["vlb"] == 2.0 and rows[2] == {}
    assert any(n.startswith("vlb: 2 of 3 runs have it; 1 were measured with other settings") for n in notes)
    assert any(n.startswith("nll_coco: 2 of 3 runs have it; `ditscale") for n in notes)
