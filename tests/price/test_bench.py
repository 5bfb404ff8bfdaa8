"""`ditscale bench` of a tiny study, on this machine: what it writes, what prices make of it, what it refuses."""

import json

import pytest

from ditscale.config import compose
from ditscale.launch.bench import _spread, bench
from ditscale.naming import StudyPaths
from ditscale.plan.grid import plan_grid, plan_runs
from ditscale.price.price import price, with_probe
from ditscale.price.records import read_speeds
from ditscale.price.resources import Machine
from ditscale.price.speed import VALIDATION, Bench

TINY = ["study=mini", "budgets=[5e9,1e10]", "widths=[16,24,32]", "probe_budget=2e10", "recipe.min_steps=20",
        "evaluation={vlb: {n: 32}}", "validation.n=128", "cluster.workers=2"]  # fmt: skip


@pytest.mark.slow
def test_a_tiny_study(tmp_path, ditscale):
    root, out = tmp_path / "s", tmp_path / "b.json"
    assert ditscale("plan", root, *TINY).returncode == 0
    done = ditscale("bench", root, "--minutes", "0.5", timeout=600)
    assert done.returncode == 0, done.stderr
    study, paths = compose(TINY), StudyPaths(root)
    runs = with_probe(study, plan_runs(study).runs)[0]
    measured = Bench.from_file(paths.bench, "bench").speeds
    sizes = {run.n_params_matmul for run in runs}
    assert measured and {speed.n_params for speed in measured} <= sizes
    for speed in measured:
        assert speed.flops_per_s > 1e6 and speed.start_s > 0 and not speed.gpu
        assert {VALIDATION, "vlb"} <= speed.metric_flops_per_s.keys()
        assert speed.at_once == (1 if speed.n_params == runs[-1].n_params_matmul and speed.threads > 1 else 2)
    found = price(runs, study, read_speeds(paths, study.cluster), Machine(2))
    assert all("ditscale bench" in source for source in found.sources)
    # Another study that names the file, or the study, is priced by the same speeds.
    for named in (paths.bench, root):
        other = compose([*TINY, f"cluster.speeds=[{named}]"])
        assert price(runs, other, read_speeds(None, other.cluster), Machine(2)).device_hours == found.device_hours
    assert ditscale("bench", "--out", out, "--minutes", "0.1", "--json", *TINY, timeout=600).returncode == 0
    assert json.loads(out.read_text())["speeds"]  # whatever the time, one size is measured


def test_the_most_telling_sizes_come_first():
    study = compose(["study=mini"])
    from ditscale.launch.bench import _measurement, _sizes

    planned = [_measurement(run, study, Machine(2), "") for run in _sizes(plan_grid(study).runs)]
    widths = [each.run.width for each in _spread(planned)]
    assert widths[:3] == [80, 32, 48] and sorted(widths) == [32, 40, 48, 56, 64, 80]
    assert {each.at_once for each in planned} == {2}


def test_without_a_gpu(tmp_path, monkeypatch):
    from ditscale.errors import UserError
    from ditscale.launch.job import gpus

    monkeypatch.setattr(gpus, "visible", lambda: [])
    study = compose(["study=mini"])
    with pytest.raises(UserError, match="no GPU that torch can use here.*--device cpu"):
        bench(study, plan_grid(study).runs, 5, "gpu", (), tmp_path / "b.json", print)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words, says", [
    (["bench"], "name a planned study"),
    (["bench", "{}/none"], "holds no study.yaml"),
    (["bench", "--out", "x.json", "study=mini", "--minutes", "0"], "--minutes: 0 is too small"),
    (["bench", "--out", "x.json", "study=mini", "--micro-batch", "8,x"], "--micro-batch: 'x' is not a number"),
    (["bench", "--device", "tpu", "study=mini"], "choose one of: cpu, gpu"),
    (["plan", "--dry-run", "study=mini", "cluster.speeds=[{}/none]"], "cluster.speeds: {}/none: no such file"),
    (["plan", "--dry-run", "study=mini", "cluster.speeds=[{}]"], "holds no trained run and no bench.json"),
    (["plan", "--dry-run", "study=mini", "budget.gpu_hours=-1"], "budget.gpu_hours: -1 is too small"),
    (["plan", "--dry-run", "study=mini", "budget.gpu_hour=1"], "did you mean 'gpu_hours'"),
])  # fmt: skip
def test_bad_input_is_one_line(words, says, tmp_path, capsys):
    from ditscale.cli import main

    status = main([word.format(tmp_path) for word in words])
    printed = capsys.readouterr()
    assert says.format(tmp_path) in printed.err + printed.out and "Traceback" not in printed.err
    assert status == 2 or "cluster.speeds" in " ".join(words)


def test_a_damaged_bench(tmp_path, capsys):
    from ditscale.cli import main

    (tmp_path / "b.json").write_text('{"layout": 1, "date": "x", "speeds": [{"n_params": "many"}]}')
    main(["plan", "--dry-run", "study=mini", f"cluster.speeds=[{tmp_path}/b.json]"])
    printed = capsys.readouterr()
    assert "b.json: is not what `ditscale bench` writes" in printed.out + printed.err
