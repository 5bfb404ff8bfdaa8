"""Evaluation of a finished run, and what the shared triples buy."""

import h5py
import numpy as np
import pytest
import torch

from ditscale.config import compose
from ditscale.evaluate.validation import triples


@pytest.fixture(scope="module")
def study(tmp_path_factory, ditscale):
    """Two trained runs of different size."""
    root = tmp_path_factory.mktemp("evaluate") / "s"
    settings = ["study=mini", "budgets=[2e10]", "widths=[24,32]", "probe_budget=1e11", "recipe.min_steps=20", "validation.n=1024"]
    assert ditscale("plan", root, *settings).returncode == 0
    assert ditscale("launch", root).returncode == 0
    assert ditscale("collect", root).returncode == 0
    return root


@pytest.mark.slow
def test_evaluation_repeats_the_records_losses(study, ditscale):
    run_dir = sorted(study.glob("runs/*"))[0]
    done = ditscale("evaluate", run_dir, "--samples", "5", "--steps", "4")
    assert done.returncode == 0, done.stderr
    with h5py.File(run_dir / "evaluation.h5") as file, h5py.File(run_dir / "metrics.h5") as record:
        assert file["samples/generated"].shape == (5, *file["samples/reference"].shape[1:])
        assert file["samples/generated"].dtype == np.uint8 and file["samples/generated"][:].std() > 5
        assert all(" on " in c for c in file["samples/captions"].asstr()[:])
        assert file["validation"]["dataset"].tolist() == [b"scenes", b"scenes-ood"]
        np.testing.assert_allclose(file["validation"]["loss"], record["validation"]["loss"], rtol=1e-6)


@pytest.mark.slow
def test_the_same_captions_and_noise_for_every_run(study, ditscale):
    for run_dir in study.glob("runs/*"):
        assert ditscale("evaluate", run_dir, "--samples", "4", "--steps", "2").returncode == 0
    with_captions = []
    for run_dir in study.glob("runs/*"):
        with h5py.File(run_dir / "evaluation.h5") as file:
            with_captions.append((file["samples/captions"].asstr()[:].tolist(), file["samples/reference"][:].tobytes()))
    assert with_captions[0] == with_captions[1]


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
def test_refusals(study, ditscale, one_line_error, tmp_path):
    run_dir = sorted(study.glob("runs/*"))[0]
    final = run_dir / "checkpoint" / "final.pt"
    content = torch.load(final, weights_only=True)
    whole = final.read_bytes()
    before = (run_dir / "evaluation.h5").read_bytes() if (run_dir / "evaluation.h5").exists() else None
    try:
        torch.save({**content, "run_id": "another"}, final)
        assert "is of run another" in one_line_error(ditscale("evaluate", run_dir))
        torch.save({**content, "ema": content["ema"][1:]}, final)
        assert "another design or size" in one_line_error(ditscale("evaluate", run_dir))
        final.write_bytes(whole[:999])
        assert "cannot be read" in one_line_error(ditscale("evaluate", run_dir))
        final.unlink()
        assert "the run is not finished" in one_line_error(ditscale("evaluate", run_dir))
    finally:
        final.write_bytes(whole)
    after = (run_dir / "evaluation.h5").read_bytes() if (run_dir / "evaluation.h5").exists() else None
    assert before == after


def test_triples_are_fixed_stratified_and_held_out():
    study = compose(["study=mini"])
    a = triples(study.data, study.validation, "logit-normal")
    b = triples(study.data, study.validation, "logit-normal")
    assert all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("x0", "text", "eps", "t"))
    n = study.validation.n
    torch.testing.assert_close(torch.special.ndtr(torch.logit(a.t.double())), (torch.arange(n) + 0.5).double() / n, atol=1e-5, rtol=0)
    from ditscale.data.open import open_source

    training, _ = open_source(study.data).batch(torch.arange(n))
    assert (torch.cdist(a.x0.flatten(1), training.flatten(1)).min() > 0).item()
