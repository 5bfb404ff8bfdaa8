"""muP against what it must do: steps of the same size at every width, the same function as the paper's other table."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ditscale.config import Recipe
from ditscale.flops import Shape
from ditscale.model.dit import DiT
from ditscale.model.mup import grouped, rate_factor

BASE = 32
WIDTHS = (32, 64, 128, 256)
MUP = Recipe(aspect=16, batch_size=8, lr_scale=1, width_scaling="mup", base_width=BASE)
STANDARD = Recipe(aspect=16, batch_size=8, lr_scale=1)


def parameter_groups(named, recipe, width):
    """A DiT's named parameters as a run groups them."""
    return grouped(((rate_factor(name, p, recipe, width), p) for name, p in named), recipe.weight_decay)


def dit(width, design="incontext"):
    torch.manual_seed(1)
    return DiT(Shape(design, 2, width, 8, 4, True, 16, 16, 12, 3, 11, 0))


def batch():
    torch.manual_seed(2)
    x, t, text = torch.randn(8, 3, 8, 8), torch.rand(8), torch.randint(11, (8, 3))
    return x, t, text, torch.randn(8, 3, 8, 8)


def trained(model, groups, rate, steps, eps=1e-8):
    """The model after AdamW steps on one batch."""
    x, t, text, target = batch()
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=eps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
    for _ in range(steps):
        F.mse_loss(model(x, t, text), target).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def activations(model):
    """Root mean square of what leaves each block, and of the prediction."""
    seen = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: seen.append(out)) for block in model.blocks]
    with torch.no_grad():
        seen.append(model(*batch()[:3]))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("design", ["incontext", "crossattention"])
def test_coordinate_check(design):
    """After 3 steps the change of every activation is as large at width 256 as at 32 under mup; with one rate it
    grows."""
    growth = {}
    for name, recipe in (("mup", MUP), ("standard", STANDARD)):
        sizes = []
        for width in WIDTHS:
            model = dit(width, design)
            before = activations(model)
            trained(model, parameter_groups(model.named_parameters(), recipe, width), 2e-3, 3)
            sizes.append([float((b - a).square().mean().sqrt()) for a, b in zip(before, activations(model))])
        logs = torch.tensor(sizes).log()  # [width, layer]
        x = torch.tensor(WIDTHS).log()
        growth[name] = ((x - x.mean())[:, None] * logs).sum(0) / (x - x.mean()).square().sum()
    assert growth["mup"].abs().max() < 0.15, growth
    assert growth["standard"].min() > 0.35 and growth["standard"][-1] > 0.7, growth


@pytest.mark.slow
def test_table_3_and_table_8_train_the_same_function():
    """Yang et al., Lemma J.1: multiplier 1/m and rate 1 at the output is multiplier 1 and rate 1/m, since it starts at
    0."""

    class Multiplied(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight * (BASE / 128), self.bias)

    # m = 4: a power of two, so that the two agree to the bit where nothing else differs
    ours, other = dit(128), dit(128)
    trained(ours, parameter_groups(ours.named_parameters(), MUP, 128), 1e-2, 5, eps=1e-30)
    final = Multiplied(128, 12)
    nn.init.zeros_(final.weight), nn.init.zeros_(final.bias)
    other.final = final
    groups = parameter_groups(((n, p) for n, p in other.named_parameters() if n != "final.weight"), MUP, 128)
    groups.append({"params": [final.weight], "rate_factor": 1.0, "weight_decay": 0.0})
    trained(other, groups, 1e-2, 5, eps=1e-30)
    with torch.no_grad():
        x, t, text, _ = batch()
        torch.testing.assert_close(ours(x, t, text), other(x, t, text), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.final.weight, other.final.weight * (BASE / 128), rtol=1e-4, atol=1e-6)
    assert ours.final.weight.abs().max() > 1e-3


@pytest.mark.parametrize("design", ["incontext", "crossattention"])
def test_initial_weights_are_those_of_the_table(design):
    """Between widths 64 and 256 the spread of input weights stays, that of hidden ones halves, the output starts at
    0."""
    small, large = (dict(dit(width, design).named_parameters()) for width in (64, 256))
    for name, weight in small.items():
        grows_in = (
            weight.ndim == 2 and large[name].shape[1] > weight.shape[1] and large[name].shape[0] > weight.shape[0]
        )
        if name == "final.weight":
            assert not weight.any() and not large[name].any()
        elif name.endswith("weight") and weight.ndim == 2:
            want = 0.5 if grows_in and name != "text.weight" else 1.0
            assert float((large[name].std() / weight.std()).detach()) == pytest.approx(want, rel=0.1), name


def test_groups_hold_every_parameter_once():
    model = dit(128)
    groups = parameter_groups(model.named_parameters(), MUP, 128)
    assert {g["rate_factor"] for g in groups} == {1.0, 0.25}
    held = [id(p) for g in groups for p in g["params"]]
    assert len(held) == len(set(held)) == len(list(model.parameters()))
    slow = {id(p) for g in groups if g["rate_factor"] == 0.25 for p in g["params"]}
    grown = dict(dit(256).named_parameters())
    for name, p in model.named_parameters():  # what sums over the width: matrices whose number of inputs grows with it
        assert (id(p) in slow) == (
            name.endswith("weight") and p.ndim == 2 and grown[name].shape[1] > p.shape[1] and name != "text.weight"
        )
    (one,) = parameter_groups(model.named_parameters(), STANDARD, 128)
    assert one["rate_factor"] == 1.0


def test_every_weight_forgets_as_fast():
    recipe = Recipe(aspect=16, batch_size=8, lr_scale=1, width_scaling="mup", base_width=BASE, weight_decay=0.1)
    groups = parameter_groups(dit(128).named_parameters(), recipe, 128)
    assert all(math.isclose(g["rate_factor"] * g["weight_decay"], 0.1) for g in groups)
