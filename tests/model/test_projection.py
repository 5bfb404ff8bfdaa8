"""Products by oneDNN against float64, and where they are not asked for. On any x86: oneDNN is in torch's wheels."""

import platform

import pytest
import torch
import torch.nn.functional as F

from ditscale.model import projection
from ditscale.model.projection import Projection, plain_products


@pytest.fixture(autouse=True)
def slow_mkl(monkeypatch):
    monkeypatch.setattr(projection, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(projection, "MIN_PRODUCTS", 3000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def is_ours(y: torch.Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_ProductBackward"


def test_torch_has_it():
    """In every wheel for x86: there the tests below may not pass over it."""
    assert torch.backends.mkldnn.is_available() or platform.machine() not in ("x86_64", "AMD64")
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.mark.parametrize("n_in, n_out", [(24, 96), (96, 24), (40, 40)])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_values_and_gradients(n_in, n_out, wanted):
    g = torch.Generator().manual_seed(0)
    layer = Projection(n_in, n_out)
    x, onto = torch.randn(5, 33, n_in, generator=g), torch.randn(5, 33, n_out, generator=g)
    x.requires_grad_(wanted[0])
    layer.weight.requires_grad_(wanted[1])
    y = layer(x)
    assert is_ours(y)
    y.backward(onto)
    x64, w64 = (part.detach().double().requires_grad_() for part in (x, layer.weight))
    truth = F.linear(x64, w64)
    truth.backward(onto.double())
    torch.testing.assert_close(y.double(), truth, rtol=1e-5, atol=1e-5)
    for part, theirs in ((x, x64), (layer.weight, w64)):
        if part.requires_grad:
            assert part.grad.shape == part.shape and part.grad.is_contiguous()
            torch.testing.assert_close(part.grad.double(), theirs.grad, rtol=1e-5, atol=1e-4)
        else:
            assert part.grad is None


def test_the_same_to_the_bit_each_time():
    """However its memory lies: a resumed run repeats what the interrupted one did."""
    layer, x = Projection(48, 144), torch.randn(4, 33, 48)
    first = layer(x)
    for shift in range(1, 9):
        moved = torch.empty(x.numel() + shift)[shift:].view(x.shape).copy_(x)
        assert torch.equal(layer(moved), first)


def test_where_it_is_not_asked():
    layer, x = Projection(40, 40), torch.randn(2, 40)
    assert is_ours(layer(x))
    assert not is_ours(layer(x[:1])), "too small"
    with plain_products():
        assert not is_ours(layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_ours(layer(x))
    assert not is_ours(layer.double()(x.double()))


def test_no_gradient_of_a_gradient():
    """An error, not a silent nothing."""
    x = torch.randn(2, 40, requires_grad=True)
    (found,) = torch.autograd.grad(Projection(40, 40)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        found.sum().backward()


def test_which_processors(monkeypatch, tmp_path):
    """AMD's with AVX-512 alone; a machine that does not tell has torch's own products."""
    monkeypatch.undo()
    asked = projection.mkl_is_slow.__wrapped__
    for vendor, capability, expected in (
        ("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX512_VNNI", True), ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
    ):  # fmt: skip
        info = tmp_path / "cpuinfo"
        info.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        monkeypatch.setattr(projection, "open", lambda path: info.open(), raising=False)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        assert asked() == expected, (vendor, capability)

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(projection, "open", missing, raising=False)
    assert not asked()
