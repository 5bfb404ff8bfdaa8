"""Attention against its definition in float64, with its gradients, in each precision."""

import pytest
import torch

from ditscale.model.blocks import attend


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("context", [11, 3])
def test_values_and_gradients(dtype, tolerance, context):
    g = torch.Generator().manual_seed(0)
    made = [torch.randn(2, n, 3, 8, generator=g).to(dtype) for n in (11, context, context)]
    onto = torch.randn(2, 11, 3, 8, generator=g)
    q, k, v = (x.clone().requires_grad_() for x in made)
    found = attend(q, k, v)
    found.backward(onto.to(dtype))

    q64, k64, v64 = (x.double().requires_grad_() for x in made)
    weights = torch.einsum("bshd,bchd->bhsc", q64, k64) / 8**0.5
    truth = torch.einsum("bhsc,bchd->bshd", weights.softmax(-1), v64)
    truth.backward(onto.double())
    assert found.dtype == dtype
    for ours, theirs in zip((found, q.grad, k.grad, v.grad), (truth, q64.grad, k64.grad, v64.grad)):
        assert (ours.double() - theirs).norm() < tolerance * theirs.norm()
