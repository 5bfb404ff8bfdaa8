"""The pair (x, l) of images and log-densities along dx/dt = v, dl/dt = div v, by Dormand and Prince's method of order
5(4).

Every image has its own clock and step, so its result does not depend on which images share its batch, and images that
are done leave the batch. Hairer, Norsett, Wanner, "Solving ordinary differential equations I" (1993), table II.5.2 and
section II.4. Own code rather than a library's: those we looked at step a batch as one system.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor

A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # of order 5 minus order 4
FIRST_STEP, LARGEST_STEP = 0.01, 0.25


@dataclass(frozen=True)
class Path:
    """Where images ended: x as given, l float64 [B], and the evaluations of the field that each took, int64 [B]."""

    x: Tensor
    l: Tensor
    evaluations: Tensor


class Stiff(Exception):
    """The step went to nothing, or the field is not finite."""


def solve(field: Callable, x: Tensor, tolerance: float, most: int = 10_000) -> Path:
    """Carry x [B, ...] from t = 0 to t = 1, and l from 0.

    field(x, t, rows) gives v as x and dl/dt [B] for the images x at times t [B], which are numbers `rows` [B] of those
    given. tolerance: of a step's error, relative to 1 + |x| (root mean square over an image) and to 1 + |l| for l.
    Raises Stiff when an image takes more than `most` evaluations.
    """
    rows = torch.arange(len(x), device=x.device)
    t = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    l, h = t.clone(), torch.full_like(t, FIRST_STEP)
    ended = Path(torch.empty_like(x), t.clone(), torch.zeros_like(rows))
    v, dl = field(x, t.to(x.dtype), rows)
    ended.evaluations[:] = 1
    while len(rows):
        h = torch.minimum(h, 1 - t)
        slopes, rates = [v], [dl.double()]
        for weights, c in zip(A, C):
            at = x + _wide(h, x) * sum(w * k for w, k in zip(weights, slopes) if w)
            v_at, dl_at = field(at, (t + c * h).to(x.dtype), rows)
            slopes.append(v_at)
            rates.append(dl_at.double())
        ended.evaluations[rows] += len(C)
        l_new = l + h * sum(w * r for w, r in zip(A[-1], rates) if w)
        error = _error(h, slopes, x, at) / tolerance
        error = torch.maximum(
            error, (h * sum(w * r for w, r in zip(ERROR, rates))).abs() / tolerance / (1 + l_new.abs())
        )
        good = error <= 1
        x, v = torch.where(_wide(good, x), at, x), torch.where(_wide(good, x), slopes[-1], v)
        l, dl, t = torch.where(good, l_new, l), torch.where(good, rates[-1], dl.double()), torch.where(good, t + h, t)
        h = (h * (0.9 * error.clamp(min=1e-6) ** -0.2).clamp(0.2, 5.0)).nan_to_num(0.0).clamp(max=LARGEST_STEP)
        done = t >= 1 - 1e-12
        ended.x[rows[done]], ended.l[rows[done]] = x[done], l[done]
        left = ~done
        x, l, v, dl, t, h, rows = (value[left] for value in (x, l, v, dl, t, h, rows))
        if (len(rows) and not (h > 1e-9).all()) or ended.evaluations.max() > most:
            raise Stiff
    return ended


def _error(h: Tensor, slopes: list[Tensor], before: Tensor, after: Tensor) -> Tensor:
    """Root mean square over an image of the step's error, relative to 1 + |x|: float64 [B]."""
    off = sum(w * k for w, k in zip(ERROR, slopes) if w) / (1 + torch.maximum(before.abs(), after.abs()))
    return h * off.flatten(1).square().mean(1).sqrt().double()


def _wide(value_B: Tensor, like: Tensor) -> Tensor:
    """[B] to [B, 1, 1, 1]; numbers in the precision of `like`."""
    value = value_B if value_B.dtype == torch.bool else value_B.to(like.dtype)
    return value.view(-1, *[1] * (like.dim() - 1))
