"""A run on a GPU takes the kernels for attention that are quicker there, and never some that compute something else.
There is none here: the choice is made on a CPU, with the seconds given."""

import pytest
import torch
import torch.nn.functional as F

from ditscale.distributed.ranks import Ranks
from ditscale.plan.run import read_run
from ditscale.train import attention_backend
from ditscale.train.attention_backend import CUDNN, FLASH, nearly_equal, prefer, selected

CPU = torch.device("cpu")


def first():
    """The kernels that torch tries first."""
    return torch._C._get_sdp_priority_order()[0]


@pytest.fixture(params=["incontext", "crossattention"])
def run(request, one_run):
    return read_run(one_run(f"design={request.param}") / "run.yaml")


def test_the_preferred_come_first_and_all_others_stay():
    before = torch._C._get_sdp_priority_order()
    for kernels in (CUDNN, FLASH):
        with prefer(kernels):
            assert first() == int(kernels)
            enabled = [getattr(torch.backends.cuda, f"{name}_sdp_enabled") for name in ("flash", "cudnn", "math")]
            assert all(is_on() for is_on in enabled)
    assert torch._C._get_sdp_priority_order() == before


def test_it_tries_the_attention_of_a_block(run):
    made = attention_backend._attention(run, CPU)()
    shape = run.shape
    images, heads = min(run.recipe.batch_size, attention_backend.MAX_IMAGES), shape.width // shape.head_size
    tokens = shape.tokens_per_image
    sizes = [(tokens, heads)] if shape.design == "incontext" else [(tokens, heads), (shape.image_tokens, heads)]
    assert [tuple(part.shape) for part in made[: len(sizes)]] == [(images, *size, shape.head_size) for size in sizes]
    gradients = made[len(sizes) :]
    assert sum(part.shape[1] * part.shape[2] for part in gradients) == sum(
        queries + 2 * keys
        for queries, keys in [(tokens, tokens), (shape.image_tokens, 1 + shape.text_length)][: len(sizes)]
    )
    assert all(part.isfinite().all() and part.abs().max() > 0 for part in made)


@pytest.mark.parametrize("cudnn_s, same, gains", [(0.7, True, True), (0.99, True, False), (0.7, False, False)])
def test_faster_and_nearly_equal(run, monkeypatch, logged, cudnn_s, same, gains):
    monkeypatch.setattr(attention_backend, "_seconds", lambda step: cudnn_s if first() == int(CUDNN) else 1.0)
    whole = attention_backend.attend
    other = lambda *parts: whole(*parts) * (1 if same or first() == int(FLASH) else 1.1)
    monkeypatch.setattr(attention_backend, "attend", other)
    assert attention_backend._cudnn_is_faster(run, CPU) is gains
    (message,) = logged.messages
    assert message.startswith("attention: cuDNN" if gains else "attention: Flash")
    assert f"{cudnn_s:.2f}" in message if same else "different results" in message


def test_kernels_that_fail_are_not_taken(run, monkeypatch, logged):
    def fail(*parts):
        raise RuntimeError("cuDNN Frontend error: no plan\nmore")

    monkeypatch.setattr(attention_backend, "attend", fail)
    assert attention_backend._cudnn_is_faster(run, CPU) is False
    assert logged.messages == ["attention: Flash; trying cuDNN failed: cuDNN Frontend error: no plan"]


def test_a_cpu_is_left_as_it_is(run):
    before = torch._C._get_sdp_priority_order()
    with selected(run, Ranks(0, 1, CPU)):
        assert torch._C._get_sdp_priority_order() == before


def test_alike():
    q, k, v = torch.randn(3, 4, 2, 64, 32, generator=torch.Generator().manual_seed(0))
    exact = F.scaled_dot_product_attention(q, k, v)
    rounded = F.scaled_dot_product_attention(q.bfloat16(), k.bfloat16(), v.bfloat16()).float()
    assert nearly_equal(exact, rounded)
    assert not nearly_equal(exact, exact * 1.05)
    assert not nearly_equal(exact, torch.full_like(exact, torch.nan))
