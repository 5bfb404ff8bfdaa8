"""Exact log-likelihood of a flow by the change of variables along its probability-flow equation.

    dx/dt = v(x, t)  from data (t = 0) to noise (t = 1),      log p(x_0) = log N(x_1; 0, 1) + int_0^1 div v(x_t, t) dt

(Chen et al., "Neural ordinary differential equations", arXiv 1806.07366, theorem 1; Song et al., arXiv 2011.13456, eq.
39.) The divergence is the trace of the Jacobian: exactly, one backward pass for each dimension; or by Hutchinson's
estimate E[z . J z] with z of independent signs, one backward pass for each probe z (Grathwohl et al., FFJORD, arXiv
1810.01367). A probe is fixed for the whole solve: one drawn anew at each evaluation would make the integrand noise that
a solver cannot follow. The estimate of log p is then unbiased. All of this is first-order reverse mode, which every
attention kernel has.
"""

import math

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..model.projection import plain_products
from .ode import Path, solve
from .rectified_flow import Velocity

EXACT_BLOCK = 64  # Dimensions whose backward passes are one batch.


def log_likelihood(
    model: Velocity, x0: Tensor, text: Tensor, probes: Tensor | None, tolerance: float
) -> tuple[Tensor, Path]:
    """log p(x0) in nats per dimension, float64 [B], and the path with its cost.

    probes: signs [P, *x0.shape]; None for the exact trace. Raises ode.Stiff where no step is small enough.
    """

    def field(x: Tensor, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        if probes is None:
            return exact_divergence(model, x, t, text[rows])
        return hutchinson_divergence(model, x, t, text[rows], probes[:, rows])

    path = solve(field, x0, tolerance)
    log_normal = -0.5 * (path.x.double().flatten(1).square().mean(1) + math.log(2 * math.pi))
    return log_normal + path.l, path


def hutchinson_divergence(model: Velocity, x: Tensor, t: Tensor, text: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """v shaped as x [B, ...], and its divergence per dimension [B], the mean over probes of signs [P, B, ...]."""
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        v = model(at, t, text)
        last = len(probes) - 1
        traces = [torch.autograd.grad(v, at, z.to(v.dtype), retain_graph=i < last)[0] * z for i, z in enumerate(probes)]
    return v.detach().to(x.dtype), torch.stack(traces).mean(0).flatten(1).mean(1)


def exact_divergence(model: Velocity, x: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """v shaped as x [B, ...], and its divergence per dimension [B], by as many backward passes as x has dimensions.

    Batches of backward passes need plain attention and products: fused attention and oneDNN's products
    (model/projection.py) have no batching rule.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), plain_products():
        at = x.detach().requires_grad_(True)
        v = model(at, t, text)
        flat, dims = v.flatten(1), x[0].numel()
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for block in torch.arange(dims, device=x.device).split(EXACT_BLOCK):
            one_hot = torch.zeros(len(block), *flat.shape, dtype=flat.dtype, device=x.device)
            one_hot[torch.arange(len(block)), :, block] = 1
            more = int(block[-1]) + 1 < dims
            rows = torch.autograd.grad(flat, at, one_hot, is_grads_batched=True, retain_graph=more)[0].flatten(2)
            total += rows[torch.arange(len(block)), :, block].sum(0)
    return v.detach().to(x.dtype), total / dims
