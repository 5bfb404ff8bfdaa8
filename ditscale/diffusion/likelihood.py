"""Exact log-likelihood of a flow by the change of variables along its probability-flow equation.

    dx/dt = v(x, t)  from data (t = 0) to noise (t = 1),      log p(x_0) = log N(x_1; 0, 1) + int_0^1 div v(x_t, t) dt
(Chen et al., "Neural ordinary differential equations", arXiv 1806.07366, theorem 1; Song et al., arXiv 2011.13456, eq.
39.) The divergence is the trace of the Jacobian: exact, or Hutchinson's estimate E[z . J z] with z of independent signs
(Grathwohl et al., FFJORD, arXiv 1810.01367). A probe z is fixed for the whole solve, so the estimate of log p is
unbiased and its integrand smooth. The pair (x, l) of images and log-densities is integrated by Dormand and Prince's
method of order 5(4) (Hairer, Norsett, Wanner, "Solving ordinary differential equations I", 1993, table II.5.2 and
section II.4), each image with its own time and step: its result does not depend on which images share its batch."""

import math
from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..model.projection import plain_products
from .rectified_flow import Velocity, expand

EXACT_BLOCK = 64  # Dimensions whose backward passes are one batch.
A = (
    (1 / 5,), (3 / 40, 9 / 40), (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)  # fmt: skip
C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # Order 5 minus order 4.
FIRST_STEP, LARGEST_STEP = 0.01, 0.25


class Path(NamedTuple):  # The end of each image's path.
    x: Tensor  # shaped as it was given
    l: Tensor  # float64 [B]
    evaluations: Tensor  # of the field that it took, int64 [B]


class Stiff(Exception):
    """The step size fell below its limit, or the field is not finite."""


def solve(field: Callable, x: Tensor, tolerance: float, most: int = 10_000) -> Path:
    """Integrate x [B, ...] from t = 0 to t = 1, and l from 0. field(x, t, rows) returns v shaped as x, and dl/dt [B],
    for images number `rows` [B] at times t [B]. tolerance: of a step's error, relative to 1 + |x| (root mean square
    over an image) and to 1 + |l|. Raises Stiff when an image takes more than `most` evaluations."""
    rows = torch.arange(len(x), device=x.device)
    t = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    l, h = t.clone(), torch.full_like(t, FIRST_STEP)
    path = Path(torch.empty_like(x), t.clone(), torch.zeros_like(rows))
    v, dl = field(x, t.to(x.dtype), rows)
    path.evaluations[:] = 1
    while len(rows):
        h = torch.minimum(h, 1 - t)
        slopes, rates = [v], [dl.double()]
        for weights, c in zip(A, C):
            at = x + expand(h.to(x.dtype), x) * sum(w * k for w, k in zip(weights, slopes) if w)
            v_at, dl_at = field(at, (t + c * h).to(x.dtype), rows)
            slopes.append(v_at)
            rates.append(dl_at.double())
        path.evaluations[rows] += len(C)
        l_new = l + h * sum(w * r for w, r in zip(A[-1], rates) if w)
        relative = sum(w * k for w, k in zip(ERROR, slopes) if w) / (1 + torch.maximum(x.abs(), at.abs()))
        error = h * relative.flatten(1).square().mean(1).sqrt().double() / tolerance
        error_of_l = (h * sum(w * r for w, r in zip(ERROR, rates))).abs() / tolerance / (1 + l_new.abs())
        error = torch.maximum(error, error_of_l)
        good = error <= 1
        x, v = torch.where(expand(good, x), at, x), torch.where(expand(good, x), slopes[-1], v)
        l, dl, t = torch.where(good, l_new, l), torch.where(good, rates[-1], dl.double()), torch.where(good, t + h, t)
        h = (h * (0.9 * error.clamp(min=1e-6) ** -0.2).clamp(0.2, 5.0)).nan_to_num(0.0).clamp(max=LARGEST_STEP)
        done = t >= 1 - 1e-12
        path.x[rows[done]], path.l[rows[done]] = x[done], l[done]
        x, l, v, dl, t, h, rows = (value[~done] for value in (x, l, v, dl, t, h, rows))
        if (len(rows) and not (h > 1e-9).all()) or path.evaluations.max() > most:
            raise Stiff
    return path


def log_likelihood(
    model: Velocity, x0: Tensor, text: Tensor, probes: Tensor | None, tolerance: float
) -> tuple[Tensor, Path]:
    """log p(x0) in nats per dimension, float64 [B], and the path with its cost. probes: signs [P, *x0.shape]; None for
    the exact trace. Raises Stiff where no step is small enough."""

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
    Batches of these need plain attention and products: fused ones and oneDNN's have no batching rule."""
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
