"""Our closed form against torch's own counter on the real model: equal to the last FLOP."""

import itertools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ditscale.errors import UserError
from ditscale.flops import Shape, n_params, terms, training_flops
from ditscale.model.dit import DiT
from ditscale.model.projection import plain_products

SHAPES = [
    Shape(design, depth, width, head, ratio, qk, 64, tokens, values, text, vocab, features)
    for design, (depth, width, head), ratio, qk, (tokens, values), (text, vocab, features) in itertools.product(
        ("incontext", "crossattention"),
        ((1, 16, 8), (2, 32, 16), (3, 48, 8)),
        (2, 4),
        (True, False),
        ((16, 12), (9, 27), (4, 3)),
        ((5, 40, 0), (7, 0, 24)),
    )
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.design}-{s.depth}x{s.width}-{s.image_tokens}-{s.text_dim}")
def test_flops_and_parameters_equal_torch(shape):
    model = DiT(shape)
    assert n_params(shape)["total"] == sum(p.numel() for p in model.parameters())
    matrices = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert n_params(shape)["matmul"] == sum(m.weight.numel() for m in matrices)
    in_blocks = [m for m in model.blocks.modules() if isinstance(m, torch.nn.Linear)]
    assert n_params(shape)["blocks"] == sum(m.weight.numel() for m in in_blocks)

    batch, channels = 3, 3
    side = int((shape.image_tokens * shape.patch_values / channels) ** 0.5)
    x, t = torch.randn(batch, channels, side, side), torch.rand(batch)
    text = torch.randint(0, 40, (batch, 5)) if shape.text_vocab else torch.randn(batch, 7, 24)
    # the counter passes over CPU flash attention and oneDNN, so both must run as plain matrix products
    with sdpa_kernel(SDPBackend.MATH), plain_products(), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, t, text)
    assert counter.get_total_flops() == batch * sum(t.forward for t in terms(shape))
    with sdpa_kernel(SDPBackend.MATH), plain_products(), FlopCounterMode(display=False) as counter:
        model(x, t, text).square().mean().backward()
    assert counter.get_total_flops() == batch * training_flops(shape)


def test_the_papers_probe_size():
    """12 L (64 L)^2 parameters in the blocks: 27 layers of width 1728 are the 1B class of arXiv 2410.08184."""
    shape = Shape("incontext", 27, 1728, 64, 4, True, 256, 256, 16, 77, 0, 768)
    assert n_params(shape)["blocks"] == 12 * 27 * 1728**2


def test_width_must_be_a_multiple_of_the_head():
    with pytest.raises(UserError, match="width 60 is not a multiple of the head size 16; use 64"):
        Shape("incontext", 2, 60, 16, 4, True, 64, 16, 12, 5, 40, 0)
