"""Checkpoints in one process: what comes back, what is refused, and what a bad step or too little memory leaves
behind."""

import errno
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import metadata as dcp_metadata

from ditscale.distributed.ranks import Ranks
from ditscale.errors import UserError
from ditscale.plan.run import read_run
from ditscale.rundir import checkpoints
from ditscale.train import dcp_io
from ditscale.train.state import build

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def begun(one_run, tmp_path):
    """A function that builds the state of one tiny run, and its checkpoints."""
    run = read_run(one_run("recipe.ema_also=[0.05]") / "run.yaml")

    def begin():
        state = build(run, ALONE)
        return run, state, state.checkpointer(tmp_path / "checkpoint", ALONE)

    return begin


def train_a_step(state, gradient, number):
    state.layout.gradient.copy_(gradient)
    state.set_step(number, 0.01)
    norm = state.step(1.0)
    state.images += 16
    return norm


def everything(state, checkpointer):
    return {
        f"{part}.{name}": t.clone()
        for part, tensors in checkpointer.parts.items()
        for name, t in state.layout.named(tensors).items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(begun, steps=2):
    run, state, checkpointer = begun()
    gradient = torch.randn_like(state.layout.gradient)
    for number in range(steps):
        train_a_step(state, gradient, number + 1)
        checkpointer.save(state.facts(run))
    checkpointer.wait()
    return run, state, checkpointer


def test_what_was_saved_comes_back_to_the_bit(begun, tmp_path):
    run, state, checkpointer = saved(begun)
    names = [path.name for path in checkpoints.resumable(tmp_path / "checkpoint")]
    assert names == ["images-000000000000016", "images-000000000000032"]
    _, other, into = begun()
    facts = into.load_newest(run.run_id)
    other.restore(facts, run.recipe.batch_size)
    assert same(everything(state, checkpointer), everything(other, into))
    assert list(checkpointer.parts) == ["model", "ema", "ema.1", "exp_avg", "exp_avg_sq"]
    assert (facts["images"], facts["run_id"]) == (32, run.run_id)
    assert other.optimizer.steps == 2
    with pytest.raises(UserError, match="belongs to run"):
        into.load_newest("another")


def test_the_loop_waits_little_for_a_save(begun):
    """The rest is written beside it, from a copy: what the run does meanwhile is not in it."""
    run, state, checkpointer = saved(begun, steps=1)
    took = []
    for k in range(5):
        before = everything(state, checkpointer)
        state.images += 16
        cpu = time.thread_time()
        checkpointer.save(state.facts(run))
        took.append(time.thread_time() - cpu)
        for tensors in checkpointer.parts.values():
            for tensor in tensors:
                tensor.add_(1.0)
        checkpointer.wait()
    assert min(took) < 0.02  # seconds of this thread
    _, other, into = begun()
    into.load_newest(run.run_id)
    assert same(before, everything(other, into))


class Malice:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("damage", ["malicious", "truncated", "missing", "facts"])
def test_a_damaged_newest_falls_back_and_runs_no_code(begun, tmp_path, monkeypatch, capsys, logged, damage):
    run, *_ = saved(begun)
    monkeypatch.chdir(tmp_path)
    newest = checkpoints.resumable(tmp_path / "checkpoint")[-1]
    facts, shard = newest / "state.json", newest / "__0_0.distcp"
    if damage == "malicious":
        evil = pickle.dumps(Malice())
        (newest / ".metadata").write_bytes(evil)
        content = json.loads(facts.read_text())
        content["files"][".metadata"] = len(evil)
        facts.write_text(json.dumps(content))
    elif damage == "truncated":
        os.truncate(shard, shard.stat().st_size - 1)
    elif damage == "missing":
        shard.unlink()
    else:
        os.truncate(facts, 10)
    _, _, into = begun()
    assert into.load_newest(run.run_id)["images"] == 16
    assert not (tmp_path / "pwned").exists()
    messages = capsys.readouterr().out + logged.text
    assert "images-000000000000032 cannot be read; resuming from images-000000000000016" in messages
    assert [path.name for path in checkpoints.resumable(tmp_path / "checkpoint")] == ["images-000000000000016"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("unknown layout")])
def test_what_cannot_be_read_now_is_not_thrown_away(begun, tmp_path, monkeypatch, error):
    """A disk that does not answer, or another version of torch, says nothing of the checkpoints."""
    run, *_ = saved(begun)

    def refuse(*_):
        raise error

    _, _, into = begun()
    monkeypatch.setattr(dcp_io, "load", refuse)
    with pytest.raises(UserError, match="cannot be read .*(mend that|fix)"):
        into.load_newest(run.run_id)
    monkeypatch.undo()
    assert into.load_newest(run.run_id)["images"] == 32


def test_facts_that_cannot_be_looked_at_are_not_damage(begun, tmp_path, monkeypatch):
    run, *_ = saved(begun)

    def refuse(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    _, _, into = begun()
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match="Stale file handle"):
        into.load_newest(run.run_id)
    monkeypatch.undo()
    assert len(checkpoints.resumable(tmp_path / "checkpoint")) == 2


def test_the_pickle_would_have_run(tmp_path, monkeypatch):
    """The malicious metadata is one: plain pickle runs it."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Malice()))
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_without_a_finite_gradient_changes_nothing(begun, bad):
    _, state, checkpointer = begun()
    gradient = torch.randn_like(state.layout.gradient)
    train_a_step(state, gradient, 1)
    before = everything(state, checkpointer)
    step = state.optimizer.steps.clone()
    hurt = gradient.clone()
    hurt[7] = bad
    assert not train_a_step(state, hurt, 2).isfinite()
    assert same(before, everything(state, checkpointer))
    assert torch.equal(step, state.optimizer.steps)
    assert train_a_step(state, gradient, 3).isfinite() and not same(before, everything(state, checkpointer))


def test_a_step_is_clipped_adamw(begun):
    """Against torch's own AdamW and clip_grad_norm_, parameter by parameter."""
    run, state, _ = begun()
    plain = [p.detach().clone().requires_grad_() for p in state.model.parameters()]
    other = torch.optim.AdamW(
        plain, lr=0.01, betas=(run.recipe.beta1, run.recipe.beta2), weight_decay=run.recipe.weight_decay
    )
    for number in (1, 2, 3):
        for p, q in zip(state.model.parameters(), plain):
            p.grad.copy_(torch.randn_like(p) * 10 ** (number - 3))
            q.grad = p.grad.clone()
        expected = torch.nn.utils.clip_grad_norm_(plain, 1.0)
        state.set_step(number, 0.01)
        norm = state.step(1.0)
        other.step()
        torch.testing.assert_close(norm, expected)
        for p, q in zip(state.model.parameters(), plain):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-5, atol=1e-7)


def as_getattr(member, protocol):
    return getattr, (type(member), member.name)


def as_call(member, protocol):
    return type(member), (member.value,)


@pytest.mark.parametrize("written", [as_getattr, as_call])
def test_both_ways_in_which_python_pickles_an_enum_are_read(tmp_path, monkeypatch, written):
    """Python to 3.11.3 (Debian 12 has 3.11.2) pickles a member as getattr(class, name), later ones as class(value)."""
    monkeypatch.setattr(dcp_metadata._MEM_FORMAT_ENCODING, "__reduce_ex__", written)
    dcp_io.save({"w": torch.arange(6.0)}, tmp_path, None)
    assert (b"getattr" in (tmp_path / ".metadata").read_bytes()) == (written is as_getattr)
    loaded = torch.zeros(6)
    dcp_io.load({"w": loaded}, tmp_path, None)
    assert torch.equal(loaded, torch.arange(6.0))


class Reaching:
    def __reduce__(self):
        return getattr, (dcp_metadata.Metadata, "__init__")


def test_getattr_in_metadata_reaches_nothing_else(tmp_path):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Reaching()))
    with pytest.raises(pickle.UnpicklingError, match="no part of a checkpoint"):
        dcp_io.Reader(tmp_path).read_metadata()


SHORT_OF_MEMORY = """
import resource, sys, torch
from dataclasses import replace
from ditscale import logs
from ditscale.diffusion.rectified_flow import draw_noise
from ditscale.data.source import open_source
from ditscale.plan.run import read_run
from ditscale.distributed.ranks import Ranks
from ditscale.train import dcp_io
from ditscale.train.batches import Batch
from ditscale.train.state import build
from ditscale.train.step import GradientAccumulation

logs.show()
run, ranks = read_run(sys.argv[1]), Ranks(0, 1, torch.device("cpu"))
run = replace(run, recipe=replace(run.recipe, batch_size=1024))
state = build(run, ranks)
index = torch.arange(run.recipe.batch_size)
x0, text = open_source(run.data).batch(index)
batch = Batch(x0, text, *draw_noise(0, "uniform", index, x0.shape))
micro = GradientAccumulation(run, state.model, state.layout, ranks)
micro.size = 64
micro.gradient(batch)
expected = state.layout.gradient.clone()
state.layout.zero_grad()
micro.size = run.recipe.batch_size
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(float(sys.argv[2]) * 2**20),) * 2)
try:
    micro.gradient(batch)
except Exception as error:
    print("refused:", error)
else:
    off = (state.layout.gradient - expected).norm() / expected.norm()
    print("size", micro.size, "halvings", micro.halvings, "off", float(off))
"""


@pytest.mark.slow
def test_out_of_memory_halves_the_micro_batch(one_run):
    """Under a real limit of the address space: the step is done, in smaller pieces, with the same gradient."""
    run_dir = one_run("widths=[64]", "budgets=[2e11]")
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(run_dir / "run.yaml")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([*command, "160"], capture_output=True, text=True, env=env)
    assert done.stdout.startswith("out of memory: continuing with micro-batches of 512 images"), done
    words = done.stdout.split()
    assert "halvings" in words, done
    assert int(words[words.index("halvings") + 1]) >= 1 and float(words[-1]) < 1e-5
