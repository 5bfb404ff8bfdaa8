"""Exact negative log-likelihood of held-out images (diffusion/likelihood.py has the mathematics).

For pictures in bits per dimension: pixels are 8-bit levels with uniform noise of one level's width added, and then
E[-log2 p(level + noise) - log2 width] bounds -log2 P(level) from above (Theis et al., arXiv 1511.01844, section 3.1).
For latents in nats per dimension, of their density.
"""

import math
import sys
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from ..diffusion.likelihood import log_likelihood
from ..diffusion.ode import Stiff
from ..diffusion.rectified_flow import Velocity
from ..errors import UserError
from .held_out import BIN, HeldOut
from .measure import Unmeasurable, Value

MAX_EXACT_DIMS = 4096  # The exact trace takes as many backward passes as an image has dimensions.


class Likelihood:
    """Each image by itself, with probes of its own, in fp32 whatever the run's precision: the rounding of bf16 exceeds
    the tolerance.

    An evaluation here is of the velocity and its divergence: a forward pass and a backward pass for each probe.
    """

    name = "likelihood"
    columns = ["nll", "evaluations"]
    dtype = torch.float64

    def __init__(
        self, model: Velocity, data: HeldOut, trace: str = "hutchinson", probes: int = 1, tolerance: float = 1e-3
    ):
        if trace == "exact" and data.dims > MAX_EXACT_DIMS:
            raise UserError(
                f"--trace exact: images of {data.name} have {data.dims} dimensions, more than {MAX_EXACT_DIMS}; use "
                "--trace hutchinson"
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

    def result(self, rows: np.ndarray) -> Value:
        samples = self.data.in_unit(rows[:, 0])
        se = float(samples.std(ddof=1) / len(samples) ** 0.5) if len(samples) > 1 else math.nan
        arrays = {"samples": samples, "evaluations": rows[:, 1]}
        return Value(float(samples.mean()), se, self.data.unit, arrays)


def _eager() -> AbstractContextManager:
    """A context in which compiled models run uncompiled, since compiled code allows no several backward passes through
    one forward pass. A process that has not loaded the compiler, which takes two seconds, has compiled nothing."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
