"""Our AdamW against torch's."""

import pytest
import torch

from ditscale.train.optimizer import AdamW


def test_as_torch_to_the_bit():
    """Two groups with rates and decays of their own, clipped gradients, and a step that is skipped."""
    torch.manual_seed(0)
    ours, theirs = (
        [w.clone().requires_grad_() for w in made]
        for made in [[torch.randn(7, 5), torch.randn(33), torch.randn(3)]] * 2
    )
    split = lambda w: [
        {"params": w[:2], "rate_factor": 1.0, "weight_decay": 0.1},
        {"params": w[2:], "rate_factor": 0.25, "weight_decay": 0.4},
    ]
    adamw = AdamW(split(ours), 0.9, 0.95)
    reference = torch.optim.AdamW(split(theirs), lr=1, betas=(0.9, 0.95), fused=True)
    for step in range(20):
        rate, scale, skip = 0.01 / (1 + step), torch.tensor(1.0 + step % 3), torch.tensor(float(step == 7))
        for a, b in zip(ours, theirs):
            a.grad = torch.randn_like(a) if step != 7 else torch.full_like(a, torch.nan)
            b.grad = a.grad.clone()
        adamw.set_rate(rate)
        adamw.step(scale, skip)
        for group in reference.param_groups:
            group["lr"] = rate * group["rate_factor"]
        reference.grad_scale, reference.found_inf = scale, skip
        reference.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    assert adamw.steps == 19 == reference.state[theirs[0]]["step"]


def test_without_scale_as_the_paper():
    """Algorithm 2 of the paper in float64, for a weight."""
    weight, gradients = torch.tensor([0.5], requires_grad=True), [0.3, -0.2, 0.1]
    adamw = AdamW([{"params": [weight], "rate_factor": 1.0, "weight_decay": 0.1}], 0.9, 0.95)
    w, m, v = 0.5, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        weight.grad = torch.tensor([g])
        adamw.set_rate(0.01)
        adamw.step(torch.ones(()), torch.zeros(()))
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        w -= 0.01 * (m / (1 - 0.9**t) / ((v / (1 - 0.95**t)) ** 0.5 + 1e-8) + 0.1 * w)
    assert weight.item() == pytest.approx(w, rel=1e-6)
