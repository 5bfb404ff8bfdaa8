"""Projections: linear maps without bias, whose matrix products are most of a training step. On a CPU, torch computes
them in fp32 with MKL, whose AVX-512 kernels are for Intel's processors only: on AMD's it has less than half the speed
of oneDNN. There oneDNN computes them, through torch's operator for compiled models."""

from contextlib import contextmanager
from functools import cache
from typing import Any, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MIN_PRODUCTS = 2e6  # Multiplications per thread below which calling oneDNN costs more than it saves.
_plain = False


class Projection(nn.Linear):
    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self.weight) if _by_onednn(x, self.weight) else F.linear(x, self.weight)


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # The compiler chooses its own kernels.
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * len(weight) >= MIN_PRODUCTS * torch.get_num_threads()
        and not _plain
        and not torch.is_autocast_enabled("cpu")
        and mkl_is_slow()
    )


@contextmanager
def plain_products() -> Iterator[None]:
    """Without oneDNN's products, which torch's FLOP counter and its batches of backward passes do not know."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


@cache
def mkl_is_slow() -> bool:
    """Whether oneDNN has AVX-512 kernels for this processor and MKL has none."""
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return available and "AuthenticAMD" in cpuinfo() and "AVX512" in torch.backends.cpu.get_cpu_capability()


def cpuinfo() -> str:
    try:
        return open("/proc/cpuinfo").read()
    except OSError:
        return ""


class _Product(torch.autograd.Function):
    """x @ w.T for x [..., n_in], w [n_out, n_in]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return _product(x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        d_x = _product(d_y, w.t()) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_x, None
        x, d_y = (part.reshape(-1, part.shape[-1]).t() for part in (x, d_y))
        # The first factor is copied to be transposed, so it should be the smaller one.
        return d_x, _product(d_y, x) if len(d_y) <= len(x) else _product(x, d_y).t()


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(a, b, None, "none", [], "")
