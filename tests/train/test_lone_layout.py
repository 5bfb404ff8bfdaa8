"""A large model alone on a CPU trains as one whose gradients lie in one buffer."""

import math
from dataclasses import replace

import pytest
import torch

from ditscale.distributed.ranks import Ranks
from ditscale.plan.run import read_run
from ditscale.train.batches import Batch
from ditscale.train.layout import choose
from ditscale.train.layout.replicated import LoneLayout, ReplicatedLayout, norm
from ditscale.train.state import build
from ditscale.train.step import GradientAccumulation, Step

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
RANKS = Ranks(0, 1, torch.device("cpu"))
MUP = ("recipe.width_scaling=mup", "recipe.base_width=16", "recipe.lr_width=0", "recipe.lr_scale=0.01")
INFINITE = 4  # the step whose batch is not finite, from 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("micro_batch", [0, 5])
def test_as_in_one_buffer(one_run, monkeypatch, tmp_path, precision, micro_batch):
    run = read_run(one_run(f"recipe.precision={precision}", *MUP) / "run.yaml")
    run = replace(run, execution=replace(run.execution, micro_batch=micro_batch))
    data, states, results = run.data, [], []
    draw = torch.Generator().manual_seed(0)
    batches = []
    for i in range(8):
        x0, eps = torch.randn(2, run.recipe.batch_size, data.channels, data.resolution, data.resolution, generator=draw)
        text = torch.randint(run.shape.text_vocab, (run.recipe.batch_size, data.text_length), generator=draw)
        t = torch.rand(len(x0), generator=draw)
        batches.append(Batch(x0 * (math.inf if i == INFINITE else 1), text, eps, t))
    for large, kind in ((10**9, ReplicatedLayout), (0, LoneLayout)):
        monkeypatch.setattr(choose, "LARGE", large)
        state = build(run, RANKS)
        assert type(state.layout) is kind
        one = Step(state, GradientAccumulation(run, state.model, state.layout, RANKS), 0.5, False)
        results.append([tuple(float(value) for value in one(batch, i + 1, 3e-3)) for i, batch in enumerate(batches)])
        states.append(state)
    for i, (there, here) in enumerate(zip(*results)):
        finite = math.isfinite(there[1])
        assert finite == math.isfinite(here[1]) == (i != INFINITE)
        if finite:
            assert here == pytest.approx(there, rel=1e-6 if precision == "fp32" else 1e-3)
    there, here = (state.layout.gather_full(state.layout.weights) for state in states)
    assert there.keys() == here.keys()
    if precision == "fp32":
        assert all(torch.allclose(there[name], here[name], rtol=0, atol=1e-5) for name in there)

    checkpointers = [state.checkpointer(tmp_path / "checkpoint", RANKS) for state in states]
    checkpointers[1].save(states[1].facts(run))
    checkpointers[1].wait()
    checkpointers[0].load_newest(run.run_id)
    for part, tensors in checkpointers[1].parts.items():
        back = states[0].layout.named(checkpointers[0].parts[part])
        assert all(torch.equal(tensor, back[name]) for name, tensor in states[1].layout.named(tensors).items()), part


def test_the_norm_of_many_values():
    values = torch.randn(30_000_000, generator=torch.Generator().manual_seed(0))
    assert abs(norm(values) / values.double().norm() - 1) < 1e-6
    assert norm(torch.tensor([1.0, torch.inf])).isinf() and norm(torch.tensor([1.0, torch.nan])).isnan()
