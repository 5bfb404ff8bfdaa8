"""`ditscale verdict --early`: one short answer about a probe that still trains, from the records alone."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from ditscale import cli
from ditscale.config import compose
from ditscale.early.verdict import EarlyVerdict
from ditscale.pipeline import seal_forecast
from ditscale.plan.grid import plan_runs
from ditscale.plan.run import read_run
from ditscale.plan.study import write_run, write_study
from ditscale.rundir.lock import RunLock
from ditscale.rundir.record import STEP, VALIDATION, Record

SETTINGS = ["study=mini", "~evaluation", "nested=false", "widths=[32,40,48,56,64]", "probe_budget=3.2e12"]
A, ALPHA, B, BETA = 30.0, 0.5, 30.0, 0.5  # loss = A N^-ALPHA + B images^-BETA: curves collapse along images / N


def surface(n_params, images):
    return A * n_params**-ALPHA + B * images**-BETA


def train(at, run, share=1.0, norm=0.0, state="finished"):
    """Write a run's record as training would, up to a share of it. norm: of its gradients, moved in ln."""
    rng = np.random.default_rng(run.width + run.seed)
    images = np.arange(1, run.steps + 1) * run.recipe.batch_size
    rows = np.zeros(run.steps, STEP)
    rows["images"], rows["elapsed_s"] = images, images / 500
    rows["loss"] = surface(run.n_params, images) * (1 + 0.05 * rng.standard_normal(run.steps))
    line = 0.15 * np.log(run.n_params / 1e5) - 0.13 * np.log(images / 5e3) + norm
    rows["grad_norm"] = np.exp(line + 0.1 * rng.standard_normal(run.steps))
    record = Record(at.metrics, at.run.read_text(), run.steps, [run.data.name], 64)
    record.begin(1e9, 0, 1, "test")
    record.write_steps(0, rows[: int(share * run.steps)])
    if state == "finished":
        row = np.zeros((), VALIDATION)
        loss = surface(run.n_params, run.n_images)
        row["dataset"], row["images"], row["loss"], row["loss_se"] = run.data.name.encode(), run.n_images, loss, 1e-3
        record.write_validation(0, row, np.full(64, loss, "f4"))
    record.end(state, 1e9 + 60)
    record.close()


@pytest.fixture(scope="module")
def forecast_study(tmp_path_factory):
    """A study with its grid trained, its forecast sealed and its probe planned."""
    root = tmp_path_factory.mktemp("early") / "s"
    study = compose(SETTINGS)
    study = replace(study, validation=replace(study.validation, also={}))
    paths = write_study(root, study)
    for run in plan_runs(study).runs:
        train(write_run(paths, run), run)
    seal_forecast(root)
    return paths


@pytest.fixture
def study(forecast_study, tmp_path):
    """(paths, the probe's directory, its run) of a copy."""
    paths = type(forecast_study)(shutil.copytree(forecast_study.root, tmp_path / "s"))
    (at,) = [at for at in paths.run_dirs() if read_run(at.run).role == "probe"]
    return paths, at, read_run(at.run)


@pytest.fixture
def call(capsys):
    def run(*words):
        status = cli.main([str(w) for w in words])
        return (status, *capsys.readouterr())

    return run


def test_a_quarter_tells_the_loss_at_the_end(study, call):
    paths, at, run = study
    train(at, run, 0.25, state="stopped")
    before = sorted(paths.root.rglob("*"))
    status, text, err = call("verdict", paths.root, "--early", "--json")
    told = json.loads(text)
    truth = surface(run.n_params, run.n_images)
    assert (status, err, told["alarms"], told["state"], told["covered"]) == (0, "", [], "stopped", True)
    assert told["loss"]["value"] == pytest.approx(truth, rel=0.015)
    assert told["loss"]["low"] < truth < told["loss"]["high"]
    assert told["images"] == pytest.approx(run.n_images / 4, rel=0.01) and told["n_images"] == run.n_images
    assert {d["quantity"] for d in told["deviations"]} == {"loss", "grad_norm"}
    text = EarlyVerdict.from_dict(told).summary()
    assert "no alarm" in text and run.run_id in text and len(text.splitlines()) <= 8
    assert sorted(paths.root.rglob("*")) == before


def test_an_alarm_is_exit_code_1_while_the_probe_runs(study, call):
    paths, at, run = study
    train(at, run, 0.03, norm=-0.4, state="running")
    lock = RunLock(at.lock)
    try:
        status, text, _ = call("verdict", paths.root, "--early")
    finally:
        lock.release()
    assert status == 1 and "running" in text
    (alarm,) = [line for line in text.splitlines() if line.startswith("ALARM")]
    assert "gradient norm" in alarm and "learning rate" in alarm and "too high" in alarm


def without_forecast(paths, at, run):
    paths.forecast.unlink()


def without_probe(paths, at, run):
    shutil.rmtree(at.root)


def not_started(paths, at, run):
    pass


def finished(paths, at, run):
    train(at, run)


def just_begun(paths, at, run):
    train(at, run, 0.002, state="stopped")


def without_curves(paths, at, run):
    train(at, run, 0.25, state="stopped")
    for other in paths.run_dirs():
        if other.name != at.name:
            other.metrics.unlink()


def empty_curves(paths, at, run):
    train(at, run, 0.25, state="stopped")
    for other in paths.run_dirs():
        if other.name != at.name:
            with h5py.File(other.metrics, "r+") as file:
                file["steps"][...] = np.zeros(len(file["steps"]), STEP)


def cosine(paths, at, run):
    paths.study.write_text(paths.study.read_text().replace("schedule: constant", "schedule: cosine"))


@pytest.mark.parametrize(
    "break_it, says",
    [
        (without_forecast, "ditscale forecast"),
        (without_probe, "ditscale forecast"),
        (not_started, "ditscale launch"),
        (finished, "ditscale verdict"),
        (just_begun, "too few"),
        (without_curves, "no training curves"),
        (empty_curves, "no training curves"),
        (cosine, "recipe.schedule=cosine"),
    ],
)
def test_where_there_is_nothing_to_say_it_is_one_line(break_it, says, study, call):
    paths, at, run = study
    break_it(paths, at, run)
    status, text, err = call("verdict", paths.root, "--early")
    assert status == 2 and text == "" and err.count("\n") == 1 and says in err, err


def test_a_table_has_no_curves(tmp_path, call):
    (tmp_path / "runs.csv").write_text("n_params,n_tokens,budget_flops,loss\n1e6,1e8,6e14,3\n")
    status, text, err = call("verdict", tmp_path / "runs.csv", "--early")
    assert status == 2 and err.count("\n") == 1 and "study directory" in err
