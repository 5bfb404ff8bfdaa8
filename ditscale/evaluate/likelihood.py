"""Exact negative log-likelihood of held-out images (diffusion/likelihood.py has the mathematics).

For pictures in bits per dimension: pixels are 8-bit levels with uniform noise of one level's width added, and then
E[-log2 p(level + noise) - log2 width] bounds -log2 P(level) from above (Theis et al., arXiv 1511.01844, section 3.1).
For latents in nats per dimension, of the density at them.
"""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.likelihood import log_likelihood
from ..diffusion.ode import Stiff
from ..errors import UserError
from .held_out import BIN, HeldOut
from .measure import Unmeasurable

MOST_DIMS = 4096  # for the exact trace, which takes as many backward passes


def _eager():
    """Where models are compiled, they are not for this: several backward passes through one forward pass is what their
    backward cannot do. A process that has not loaded the compiler, which takes two seconds, has compiled nothing."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


class Likelihood:
    """Each image by itself, with probes of its own, in fp32 whatever the run's precision: bf16 is coarser than the
    tolerance.

    An evaluation here is of the velocity and its divergence: a forward pass and a backward pass for each probe.
    """

    name = "likelihood"
    columns = ["nll", "evaluations"]
    dtype = torch.float64

    def __init__(
        self, model: nn.Module, data: HeldOut, trace: str = "hutchinson", probes: int = 1, tolerance: float = 1e-3
    ):
        if trace == "exact" and data.dims > MOST_DIMS:
            raise UserError(
                f"--trace exact: {data.name} has {data.dims} dimensions, and {MOST_DIMS} is the most; use hutchinson"
            )
        self.model, self.data, self.trace, self.probes, self.tolerance = model, data, trace, probes, tolerance
        self.settings = {"trace": trace, "tolerance": tolerance, "solver": "Dormand-Prince 5(4)", "precision": "fp32"}
        self.settings["dequantisation"] = "uniform, 8-bit levels" if data.pixels else "none"
        if trace == "hutchinson":
            self.settings["probes"] = probes

    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        x0, text = self.data.images(index)
        if self.data.pixels:
            x0 = self.data.levels(x0) + (self.data.uniform("dequantisation", index, x0) - 0.5) * BIN
        probes = None
        if self.trace == "hutchinson":
            probes = torch.stack([self.data.signs(f"probe {k}", index, x0) for k in range(self.probes)])
        try:
            with _eager():
                log_p, path = log_likelihood(self.model, x0, text, probes, self.tolerance)
        except Stiff:
            raise Unmeasurable(
                f"likelihood: the flow is too stiff for a tolerance of {self.tolerance:g}; use a larger --tolerance"
            ) from None
        nll = -log_p - (math.log(BIN) if self.data.pixels else 0.0)
        evaluations = path.evaluations.double()
        return torch.stack([nll, evaluations], 1).cpu().numpy(), int(evaluations.sum())

    def result(self, rows: np.ndarray) -> dict:
        samples = self.data.in_unit(rows[:, 0])
        se = float(samples.std(ddof=1) / len(samples) ** 0.5) if len(samples) > 1 else math.nan
        return {
            "value": float(samples.mean()),
            "se": se,
            "unit": self.data.unit,
            "samples": samples,
            "evaluations": rows[:, 1],
        }
