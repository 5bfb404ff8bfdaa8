"""Evaluation of a finished run by the command, and what the shared triples buy."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ditscale.cli import main
from ditscale.config import Validation, compose
from ditscale.diffusion.likelihood import exact_divergence, hutchinson_divergence
from ditscale.diffusion.rectified_flow import interpolate
from ditscale.errors import UserError
from ditscale.evaluate.finished import combine, load_finished
from ditscale.evaluate.held_out import HeldOut, held_out
from ditscale.evaluate.metrics import Likelihood, times, triples
from ditscale.laws import read_table
from ditscale.rundir.evaluation import read_results


def results(run_dir):
    return {(r.metric, r.dataset): r for r in read_results(run_dir / "evaluation.h5")}


@pytest.mark.slow
def test_evaluation_repeats_the_records_losses(study, ditscale):
    run_dir = sorted(study.glob("runs/*"))[0]
    done = ditscale("evaluate", run_dir, "--samples", "5", "--steps", "4")
    assert done.returncode == 0, done.stderr
    with h5py.File(run_dir / "evaluation.h5") as file, h5py.File(run_dir / "metrics.h5") as record:
        assert file["samples/generated"].shape == (5, *file["samples/reference"].shape[1:])
        assert file["samples/generated"].dtype == np.uint8 and file["samples/generated"][:].std() > 5
        assert all(" on " in c for c in file["samples/captions"].asstr()[:])
        recorded = record["validation"][:]
    found = results(run_dir)
    for row in recorded:
        result = found["val_loss", row["dataset"].decode()]
        assert result.n == 1024 and result.value == pytest.approx(row["loss"], rel=1e-6)
        assert result.se == pytest.approx(row["loss_se"], rel=1e-4)
    assert found["val_loss", "scenes"].arrays["raw logit-normal"][0] == pytest.approx(recorded["raw_loss"][0], rel=1e-6)


@pytest.mark.slow
def test_the_same_captions_and_noise_for_every_run(study, ditscale):
    with_captions = []
    for run_dir in study.glob("runs/*"):
        assert (
            ditscale(
                "evaluate", run_dir, "--samples", "4", "--steps", "2", "--sampler", "euler", "--n", "64"
            ).returncode
            == 0
        )
        with h5py.File(run_dir / "evaluation.h5") as file:
            with_captions.append((file["samples/captions"].asstr()[:].tolist(), file["samples/reference"][:].tobytes()))
    assert with_captions[0] == with_captions[1]


@pytest.mark.slow
def test_likelihood_is_resumed_shared_and_not_repeated(study, ditscale):
    """Killed, then gone on with by two ranks: the numbers of an undisturbed process; then nothing is left to do."""
    killed, calm = (study.parent / f"{name}" for name in ("killed", "calm"))
    run_dir = sorted(study.glob("runs/*"))[0]
    for copy in (killed, calm):
        shutil.copytree(run_dir, copy)
        (copy / "evaluation.h5").unlink(missing_ok=True)
    words = [
        "--metrics",
        "likelihood,vlb",
        "--dataset",
        "ood",
        "--images",
        "96",
        "--batch-size",
        "16",
        "--samples",
        "0",
    ]
    assert ditscale("evaluate", calm, *words).returncode == 0
    command = [sys.executable, "-m", "ditscale", "evaluate", killed, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and len(list(killed.glob("evaluation.parts/*/*.npz"))) < 2:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (killed / "evaluation.h5").exists() and list(killed.glob("evaluation.parts/*/*.npz"))
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command[1:]]
    done = subprocess.run(two, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("likelihood") == 1  # rank 0 alone speaks
    assert not (killed / "evaluation.parts").exists()
    a, b = results(killed), results(calm)
    for key in (("likelihood", "scenes-ood"), ("vlb", "scenes-ood")):
        np.testing.assert_allclose(a[key].arrays["samples"], b[key].arrays["samples"], rtol=1e-5)
        assert a[key].settings == b[key].settings and a[key].n == 96
        assert a[key].wall_s > 0 and a[key].evaluations == pytest.approx(b[key].evaluations)
    before = (killed / "evaluation.h5").read_bytes()
    again = ditscale("evaluate", killed, *words)
    assert "2 of 2 results were measured before" in again.stdout
    assert (killed / "evaluation.h5").read_bytes() == before


@pytest.mark.slow
def test_exact_and_hutchinson_traces_agree_on_a_trained_model(study):
    finished = load_finished(sorted(study.glob("runs/*"))[1])
    data = HeldOut(finished.run.data, finished.run.validation, 64, 3, torch.device("cpu"))
    index = torch.arange(6)
    x0, text = data.images(index)
    t = torch.tensor([0.01, 0.05, 0.2, 0.4, 0.7, 0.95])
    x = interpolate(x0, data.noise("any", index, x0), t)
    v, exact = exact_divergence(finished.ema, x, t, text)
    drawn = []
    for k in range(100):
        v_too, found = hutchinson_divergence(finished.ema, x, t, text, data.signs(f"probe {k}", index, x0)[None])
        drawn.append(found)
    torch.testing.assert_close(v, v_too, rtol=1e-4, atol=1e-5)
    mean, se = torch.stack(drawn).mean(0), torch.stack(drawn).std(0) / 10
    assert ((mean - exact).abs() < 4 * se).all() and exact.abs().max() > 20 * se.max()
    one = torch.arange(1)
    whole = Likelihood(finished.ema, data, "exact", tolerance=1e-2).rows(one)[0][0, 0]
    estimates = [Likelihood(finished.ema, data, "hutchinson", k, 1e-2).rows(one)[0][0, 0] for k in (64, 65)]
    assert abs(estimates[0] - whole) < 4 * 0.15 / 8 and estimates[0] != estimates[1]


@pytest.mark.slow
def test_collect_gives_laws_their_columns(study, capsys):
    run_dirs = sorted(study.glob("runs/*"))
    for run_dir in run_dirs:
        assert main(["evaluate", str(run_dir), "--metrics", "vlb", "--n", "64", "--samples", "0"]) == 0
    # no result of the run
    assert main(["evaluate", str(run_dir), "--metrics", "vlb", "--n", "32", "--samples", "0", "--ema", "0.5"]) == 0
    assert main(["collect", str(study)]) == 0
    for path in (study / "study.csv", study / "study.h5"):
        table = read_table(path, metric="vlb", also=("vlb_se", "vlb_scenes-ood", "vlb_se_scenes-ood"))
        for i, run_id in enumerate(table.run_id):
            found = results(study / "runs" / run_id)
            assert table.loss[i] == pytest.approx(found["vlb", "scenes"].value, rel=1e-9)
            assert table.columns["vlb_se_scenes-ood"][i] == pytest.approx(found["vlb", "scenes-ood"].se, rel=1e-9)
    capsys.readouterr()
    assert (
        main(["evaluate", str(run_dirs[0]), "--metrics", "vlb", "--n", "32", "--dataset", "scenes", "--samples", "0"])
        == 0
    )
    assert main(["collect", str(study)]) == 0
    assert "  vlb:n=32: 1 of 2 runs have it\n" in capsys.readouterr().out
    again = read_table(study, metric="vlb")
    assert list(again.loss) == list(table.loss)  # what was measured otherwise since stands beside it


@pytest.mark.slow
def test_the_difference_of_two_runs_is_precise(study):
    """Standard error of a difference below 0.5 % of the loss, with 2048 triples; and less than of the losses alone."""
    with h5py.File(study / "study.h5") as file:
        loss, covariance = file["points/loss"][:], file["covariance"][:]
        np.testing.assert_allclose(np.sqrt(np.diag(covariance)), file["points/loss_se"][:], rtol=1e-6)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert np.sqrt(variance * 1024 / 2048) < 0.005 * loss.min()
    assert variance < covariance[0, 0] + covariance[1, 1]


@pytest.mark.slow
def test_ema_weights_of_other_windows(study, tmp_path, capsys):
    """Those kept and those between, each measured for itself, beside the run's result and never in its place."""
    run_dir = Path(shutil.copytree(sorted(study.glob("runs/*"))[0], tmp_path / "run"))
    (run_dir / "evaluation.h5").unlink(missing_ok=True)

    def said(*words):
        assert (
            main(
                ["evaluate", str(run_dir), "--dataset", "scenes", "--n", "64", "--samples", "2", "--steps", "2", *words]
            )
            == 0
        )
        return capsys.readouterr().out

    def losses(window):
        (result,) = read_results(run_dir / "evaluation.h5", window)
        return result.arrays["samples"], result.settings

    assert "EMA weights" not in said()
    own, settings = losses(None)
    assert "EMA weights over 0.5 of the run\n" in said("--ema", "0.5")
    assert "EMA weights over 0.3 of the run, combined of those over 0.1, 0.5: error of the profile " in said(
        "--ema", "0.3"
    )
    assert "1 of 1 results were measured before" in said("--ema", "0.3")
    assert "1 of 1 results were measured before" in said("--ema", "0.1")  # the run's own
    again, kept, made = (losses(window) for window in (None, 0.5, 0.3))
    assert np.array_equal(again[0], own) and again[1] == settings and "ema" not in settings
    assert (
        kept[1]["ema"] == 0.5
        and made[1]["ema"] == 0.3
        and 0 == kept[1]["ema profile error"] < made[1]["ema profile error"] < 0.2
    )
    assert not np.array_equal(own, kept[0]) and not np.array_equal(kept[0], made[0])
    with h5py.File(run_dir / "evaluation.h5") as file:
        assert set(file["ema"]) == {"0.5", "0.3"} and not np.array_equal(
            file["samples/generated"], file["ema/0.5/samples/generated"]
        )

    content = torch.load(run_dir / "checkpoint" / "final.pt", weights_only=True)
    finished = [load_finished(run_dir, window) for window in (None, 0.1, 0.5, 0.3)]
    (x, y), _ = combine(0.3, (0.1, 0.5))
    for i, (first, same, other, mixed) in enumerate(zip(*(f.ema.parameters() for f in finished), strict=True)):
        a, b = content["ema"][i], content["ema_also"][0][i]
        assert torch.equal(first, a) and torch.equal(same, a) and torch.equal(other, b)
        torch.testing.assert_close(mixed, x * a + y * b)
    for window in ("0.05", "0.6"):
        assert main(["evaluate", str(run_dir), "--ema", window]) == 2
        says = (
            f"EMA window {window}: is neither one that the run kept (0.1, 0.5) nor between two; "
            f"to have it, plan with recipe.ema_also=[{window}]"
        )
        assert capsys.readouterr().err == f"ditscale: error: {says}\n"
    torch.save({key: value for key, value in content.items() if key != "ema_also"}, run_dir / "checkpoint" / "final.pt")
    text = (run_dir / "run.yaml").read_text()
    (run_dir / "run.yaml").write_text(text.replace("  ema_also: [0.5]\n", ""))  # as runs were before they kept several
    assert main(["evaluate", str(run_dir), "--ema", "0.2"]) == 2
    assert "that the run kept (0.1)" in capsys.readouterr().err
    assert "1 of 1 results were measured before" in said()


@pytest.mark.slow
def test_refusals(study, capsys):
    """One line each, and nothing is written."""
    run_dir = sorted(study.glob("runs/*"))[0]
    final = run_dir / "checkpoint" / "final.pt"
    content, whole, before = torch.load(final, weights_only=True), final.read_bytes(), files(run_dir)

    def refused(*words):
        assert main(["evaluate", str(run_dir), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("ditscale: error: ")
        return line

    assert "choose one of: val_loss, vlb, likelihood, fid" in refused("--metrics", "val_loss,bpd")
    assert "choose from: scenes, scenes-ood, ood" in refused("--dataset", "coco")
    for option, value in (
        ("--tolerance", "0"),
        ("--trace", "guess"),
        ("--n", "1"),
        ("--sampler", "ddim"),
        ("--t-min", "x"),
        ("--ema", "2"),
        ("--ema", "wide"),
    ):
        assert option in refused(option, value)
    try:
        torch.save({**content, "run_id": "another"}, final)
        assert "is of run another" in refused()
        torch.save({**content, "ema": content["ema"][1:]}, final)
        assert "another design or size" in refused()
        final.write_bytes(whole[:999])
        assert "cannot be read" in refused()
        final.unlink()
        assert f"move {run_dir / 'metrics.h5'} aside, then `ditscale run {run_dir}` trains it again" in refused()
    finally:
        final.write_bytes(whole)
    assert files(run_dir) == before


def files(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_triples_are_fixed_stratified_and_held_out():
    study = compose(["study=mini"])
    n = study.validation.n
    data = [HeldOut(study.data, study.validation, n, study.validation.seed, torch.device("cpu")) for _ in range(2)]
    index = torch.arange(n)
    together = triples(data[0], index)
    apart = [torch.cat(parts) for parts in zip(*(triples(data[1], part) for part in index.split(100)))]
    assert all(torch.equal(a, b) for a, b in zip(together, apart))
    t = times(data[0], index, "logit-normal").double()
    torch.testing.assert_close(torch.special.ndtr(torch.logit(t)), (index + 0.5).double() / n, atol=1e-5, rtol=0)
    from ditscale.data.source import open_source

    training, _ = open_source(study.data).batch(index)
    assert (torch.cdist(together[0].flatten(1), training.flatten(1)).min() > 0).item()


def test_held_out_data_of_each_data_set(gaussian_file):
    """The validation's file holds the study's own images; a data set out of domain keeps its own file."""
    own = compose(["study=mini"]).data
    coco = replace(own, name="coco", path="coco.h5")
    validation = Validation(path="held-out.h5", seed=7, also={"coco": coco})
    assert held_out(replace(own, path="train.h5"), validation).path == "held-out.h5"
    assert held_out(coco, validation).path == "coco.h5" and held_out(coco, validation).seed == 7


def test_more_images_than_there_are(gaussian):
    _, data = gaussian
    with pytest.raises(UserError, match="holds 20000 images, fewer than 20001; use validation.n=20000"):
        data(20_001)
