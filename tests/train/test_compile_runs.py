"""torch.compile of the blocks, on the CPU: it is what a GPU gets by default, so its path is tried here."""

import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from ditscale.config import Evaluation
from ditscale.evaluate.finished import load_finished
from ditscale.evaluate.held_out import HeldOut
from ditscale.evaluate.metrics import Likelihood
from ditscale.evaluate.samples import generate
from ditscale.launch.job.execute import execute
from ditscale.model import compile as model_compile
from ditscale.model.dit import DiT
from ditscale.plan.run import read_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++, which torch.compile needs on the CPU"),
]


def test_a_compiled_run_is_the_same_run(one_run):
    """Trained compiled, with activations computed again; then samples from compiled blocks, also of a last chunk that
    is smaller, and the likelihood from the same blocks as they were."""
    eager, run = (
        one_run("budgets=[1.2e9]"),
        one_run("budgets=[1.2e9]", "cluster.compile=true", "cluster.recompute=blocks"),
    )
    assert eager.name == run.name  # how it executes is no part of a run
    assert execute(str(eager)) == execute(str(run)) == "finished"
    with h5py.File(eager / "metrics.h5") as a, h5py.File(run / "metrics.h5") as b:
        np.testing.assert_allclose(a["steps"]["loss"], b["steps"]["loss"], rtol=2e-4)
        assert a["validation"]["loss"][0] == pytest.approx(b["validation"]["loss"][0], rel=1e-4)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    cpu, index = torch.device("cpu"), torch.arange(6)
    plain, finished = load_finished(run), load_finished(run).to(cpu)
    data = HeldOut(plain.run.data, plain.run.validation, 6, 0, cpu)
    how = Evaluation(steps=3)
    with torch.no_grad():
        for rows in (slice(0, 4), slice(4, 6)):
            made, theirs = (generate(model, data, index[rows], how, "fp32") for model in (finished.ema, plain.ema))
            torch.testing.assert_close(made, theirs, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs
    for trace in ("hutchinson", "exact"):
        ours, theirs = (
            Likelihood(model, data, trace, 2, 1e-2).rows(index[:2])[0][:, 0] for model in (finished.ema, plain.ema)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_compiled_where_it_pays(one_run, monkeypatch):
    """By itself on a CPU: a large model in bf16."""
    cpu = torch.device("cpu")
    half, full, told = (
        read_run(one_run(*words) / "run.yaml") for words in (["recipe.precision=bf16"], [], ["cluster.compile=true"])
    )
    assert [model_compile.compiles(run, cpu) for run in (half, full, told)] == [False, False, True]
    monkeypatch.setattr(model_compile, "MIN_CPU_PARAMS", half.n_params_total)
    assert [model_compile.compiles(run, cpu) for run in (half, full, told)] == [True, False, True]


def test_a_second_call_takes_the_place_of_the_first(one_run):
    """As a run does that looks at memory first: what it recomputes is not recomputed twice."""
    model = DiT(read_run(one_run() / "run.yaml").shape)
    plain = [type(block).forward.__get__(block) for block in model.blocks]
    model_compile.speed_up(model, False, "blocks")
    assert [block.forward.args for block in model.blocks] == [(forward,) for forward in plain]
    model_compile.speed_up(model, False, "blocks")
    assert [block.forward.args for block in model.blocks] == [(forward,) for forward in plain]
    model_compile.speed_up(model, False)
    assert [block.forward for block in model.blocks] == plain


WITHOUT = """
import sys, torch
from ditscale import logs
from ditscale.launch.job.execute import execute
from ditscale.model.dit import DiT
from ditscale.model import compile as model_compile
model_compile.MIN_CPU_PARAMS = 0
logs.show()
print(execute(sys.argv[1]), torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def test_without_a_compiler_a_run_goes_on(one_run, tmp_path):
    run_dir = one_run("budgets=[1.2e9]", "recipe.precision=bf16")
    env = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", WITHOUT, str(run_dir)], env=env, capture_output=True, text=True)
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("torch.compile does not work on this machine") and last == "finished 0", done.stderr
