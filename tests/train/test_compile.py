"""torch.compile of the blocks, on the CPU: it is what a GPU gets by default, so its path is tried here."""

import shutil

import h5py
import numpy as np
import pytest
import torch

from ditscale.config import Evaluation
from ditscale.evaluate.finished import load
from ditscale.evaluate.held_out import HeldOut
from ditscale.evaluate.likelihood import Likelihood
from ditscale.evaluate.samples import generate
from ditscale.launch.job import execute

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++, which torch.compile needs on the CPU"),
]


def test_a_compiled_run_is_the_same_run(one_run):
    """Trained compiled, with activations computed again; then samples from compiled blocks, also of a last chunk that is smaller, and the
    likelihood from the same blocks as they were."""
    eager, run = one_run("budgets=[1.2e9]"), one_run("budgets=[1.2e9]", "cluster.compile=true", "cluster.recompute=blocks")
    assert eager.name == run.name  # how it executes is no part of a run
    assert execute(str(eager)) == execute(str(run)) == "finished"
    with h5py.File(eager / "metrics.h5") as a, h5py.File(run / "metrics.h5") as b:
        np.testing.assert_allclose(a["steps"]["loss"], b["steps"]["loss"], rtol=2e-4)
        assert a["validation"]["loss"][0] == pytest.approx(b["validation"]["loss"][0], rel=1e-4)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    cpu, index = torch.device("cpu"), torch.arange(6)
    plain, finished = load(run), load(run).to(cpu)
    data = HeldOut(plain.run.data, plain.run.validation, 6, 0, cpu)
    x0, text = data.images(index)
    how = Evaluation(steps=3)
    with torch.no_grad():
        for rows in (slice(0, 4), slice(4, 6)):
            made, theirs = (generate(model, data, index[rows], x0[rows], text[rows], how, "fp32") for model in (finished.ema, plain.ema))
            torch.testing.assert_close(made, theirs, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs
    for trace in ("hutchinson", "exact"):
        ours, theirs = (Likelihood(model, data, trace, 2, 1e-2).rows(index[:2])[0][:, 0] for model in (finished.ema, plain.ema))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
