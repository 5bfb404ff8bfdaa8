"""Projections: linear maps without bias, whose matrix products are most of a training step.

On a CPU, torch has them done by MKL in fp32, and MKL takes its AVX-512 kernels on Intel's processors only: on AMD's it
reaches less than half of what oneDNN does, 107 against 245 GFLOP/s of a Zen 5 core. There oneDNN is asked, by the
operator that torch itself uses for compiled models.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WORTHWHILE = 2e6  # multiplications of a thread: below, the detour costs more than it saves
_plain = False


class Projection(nn.Linear):
    """[..., n_in] to [..., n_out]."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self.weight) if _by_onednn(x, self.weight) else F.linear(x, self.weight)


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # compiled, products are the compiler's to choose
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * len(weight) >= WORTHWHILE * torch.get_num_threads()
        and not _plain
        and not torch.is_autocast_enabled("cpu")
        and mkl_is_slow()
    )


@contextmanager
def plain_products():
    """In here oneDNN is not asked: torch's FLOP counter and its batches of backward passes do not know its products."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


@cache
def mkl_is_slow() -> bool:
    """Whether this is a processor that oneDNN has AVX-512 kernels for and MKL does not."""
    try:
        processor = open("/proc/cpuinfo").read(4096)
    except OSError:  # no Linux
        return False
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and "AuthenticAMD" in processor and "AVX512" in torch.backends.cpu.get_cpu_capability()


class _Product(torch.autograd.Function):
    """x @ w.T for x [..., n_in], w [n_out, n_in]."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return _product(x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        d_x = _product(d_y, w.t()) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_x, None
        x, d_y = (part.reshape(-1, part.shape[-1]).t() for part in (x, d_y))
        # the first factor is copied to be transposed: the smaller one
        return d_x, _product(d_y, x) if len(d_y) <= len(x) else _product(x, d_y).t()


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(a, b, None, "none", [], "")
