"""Metrics that are a mean over held-out images: validation loss, variational bound, exact likelihood.

The loss is of fixed triples (image, noise, timestep) that all runs of a study share, so most of the Monte-Carlo noise
cancels in a difference. Timesteps are stratified: u_i = (i + 1/2) / n, mapped by the training distribution.
Bound and likelihood are of -log p (diffusion/vlb.py and diffusion/likelihood.py have the mathematics): in bits per
dimension for pictures, whose pixels are 8-bit levels; in nats per dimension, of their density, for latents."""

import math
import sys
from contextlib import nullcontext
from typing import Mapping

import numpy as np
import torch
from torch import Tensor

from ..config import TIMESTEPS
from ..diffusion import vlb
from ..diffusion.likelihood import Stiff, log_likelihood
from ..diffusion.rectified_flow import Velocity, losses, timestep
from ..distributed.ranks import Ranks
from ..errors import UserError
from ..rundir.strata import controlled, standard_error
from .held_out import BIN, HeldOut
from .measure import Unmeasurable, Value

BINS = 10  # Noise levels of the validation loss, of equal width in t.
MAX_EXACT_DIMS = 4096  # The exact trace takes as many backward passes as an image has dimensions.


def triples(data: HeldOut, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The triples at positions index [B], on the device, but for t: x0 [B, C, R, R], text [B, ...], eps as x0."""
    x0, text = data.images(index)
    return x0, text, data.noise("validation noise", index, x0)


def times(data: HeldOut, index: Tensor, distribution: str) -> Tensor:
    return timestep((index + 0.5) / data.n, distribution).to(data.device)


@torch.no_grad()
def triple_losses(
    model: Velocity, data: HeldOut, distribution: str, batch_size: int, ranks: Ranks, precision: str
) -> np.ndarray:
    """Each triple's loss, [n] float64, computed by all ranks together and known to all."""
    n, device = data.n, ranks.device
    values = torch.zeros(n, dtype=torch.float64, device=device)
    share = range(ranks.rank * n // ranks.world, (ranks.rank + 1) * n // ranks.world)
    for start in range(share.start, share.start + -(-n // ranks.world), batch_size):
        part = torch.arange(start, min(start + batch_size, share.stop))
        # Sharded weights need ranks in step: one that has finished its share repeats the first triple, uncounted.
        index = part if len(part) else torch.zeros(1, dtype=torch.int64)
        # The images are made outside of autocast, because scenes are painted by matrix products.
        inputs, t = triples(data, index), times(data, index, distribution)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            batch = losses(model, *inputs, t).double()
        if len(part):
            values[part] = batch
    ranks.all_reduce(values)
    return values.cpu().numpy()


class ValidationLoss:
    """The loss under both weightings of the timestep, by noise level, of EMA and of raw weights: on the same images and
    noise, t is at the quantiles of the logit-normal, and of the uniform distribution, in BINS noise levels. With one
    design the importance weights, and so the error of the mean, would be unbounded at t = 0 and 1."""

    name, dtype = "val_loss", torch.float64

    def __init__(self, models: Mapping[str, Velocity], data: HeldOut, weighting: str, precision: str):
        """models: by kind of weights, "ema" first. weighting: that of the runs' training, which the value has."""
        self.models, self.data, self.precision = models, data, precision
        self.columns = [(weights, of) for weights in models for of in sorted(TIMESTEPS, key=lambda of: of != weighting)]
        self.settings = {"weights": list(models), "weighting": weighting, "precision": precision}

    @torch.no_grad()
    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        inputs = triples(self.data, index)
        with torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            columns = [losses(self.models[w], *inputs, times(self.data, index, of)) for w, of in self.columns]
        return torch.stack(columns, 1).double().cpu().numpy(), len(columns) * len(index)

    def result(self, rows: np.ndarray) -> Value:
        """The loss of the EMA weights under the training's weighting; all others, and `samples` [n], by name."""
        arrays, t = {"samples": rows[:, 0]}, (np.arange(len(rows)) + 0.5) / len(rows)
        for (weights, of), column in zip(self.columns, rows.T):
            arrays[f"{weights} {of}"] = np.array([column.mean(), standard_error(column)])
            if of == "uniform":  # Mean and standard error by noise level [BINS, 2].
                parts = [column[np.minimum((t * BINS).astype(int), BINS - 1) == k] for k in range(BINS)]
                by_level = [(part.mean(), standard_error(part)) if len(part) > 1 else (np.nan,) * 2 for part in parts]
                arrays[f"{weights} bins"] = np.array(by_level)
        return Value(float(rows[:, 0].mean()), standard_error(rows[:, 0]), "squared velocity", arrays)


class Bound:
    """The variational bound, on the probability of the levels for pictures. One timestep for each image, stratified in
    logit t over the images. All runs of a study share the noise. |eps|^2 is a control variate (rundir/strata.py)."""

    name, columns, dtype = "vlb", ["diffusion", "prior", "reconstruction", "control"], torch.float64

    def __init__(self, model: Velocity, data: HeldOut, precision: str, t_min: float = vlb.T_MIN):
        self.model, self.data, self.precision, self.t_min = model, data, precision, t_min
        levels = "8-bit levels, also beyond black and white" if data.pixels else "none: a density"
        self.settings = {"t_min": t_min, "t_max": vlb.T_MAX, "precision": precision, "discretisation": levels}

    @torch.no_grad()
    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        x0, text = self.data.images(index)
        if self.data.pixels:
            x0 = self.data.levels(x0)
        eps = self.data.noise("bound noise", index, x0)
        t, length = vlb.logit_timestep((index.double() + 0.5) / self.data.n, self.t_min)
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            integral = vlb.diffusion(self.model, x0, text, eps, t.float().to(x0.device), length)
        parts = [integral, vlb.prior(x0), vlb.reconstruction(x0, eps, BIN if self.data.pixels else None, self.t_min)]
        parts.append(eps.square().flatten(1).mean(1) - 1)
        return torch.stack([p.double() for p in parts], 1).cpu().numpy(), len(index)

    def result(self, rows: np.ndarray) -> Value:
        samples = self.data.in_unit(controlled(rows[:, :3].sum(1), rows[:, 3]))
        arrays = {name: np.array(self.data.in_unit(rows[:, i].mean())) for i, name in enumerate(self.columns[:3])}
        return Value(float(samples.mean()), standard_error(samples), self.data.unit, {"samples": samples} | arrays)


class Likelihood:
    """Exact negative log-likelihood, in fp32: the rounding of bf16 exceeds the tolerance. Pictures get uniform noise of
    one level's width; E[-log2 p(level + noise) - log2 width] bounds -log2 P(level) from above (Theis et al., arXiv
    1511.01844, section 3.1). An evaluation is a forward pass, and a backward pass for each probe."""

    name, columns, dtype = "likelihood", ["nll", "evaluations"], torch.float64

    def __init__(
        self, model: Velocity, data: HeldOut, trace: str = "hutchinson", probes: int = 1, tolerance: float = 1e-3
    ):
        if trace == "exact" and data.dims > MAX_EXACT_DIMS:
            many = f"images of {data.name} have {data.dims} dimensions, more than {MAX_EXACT_DIMS}"
            raise UserError(f"--trace exact: {many}; use --trace hutchinson")
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
        # Compiled code allows no several backward passes through one forward pass. Loading the compiler takes two
        # seconds, and a process that has not loaded it has compiled nothing.
        compiler_loaded = "torch._dynamo" in sys.modules
        try:
            with torch.compiler.set_stance("force_eager") if compiler_loaded else nullcontext():
                log_p, path = log_likelihood(self.model, x0, text, probes, self.tolerance)
        except Stiff:
            stiff = f"the flow is too stiff for a tolerance of {self.tolerance:g}"
            raise Unmeasurable(f"likelihood: {stiff}; use a larger --tolerance") from None
        nll = -log_p - (math.log(BIN) if self.data.pixels else 0.0)
        evaluations = path.evaluations.double()
        return torch.stack([nll, evaluations], 1).cpu().numpy(), int(evaluations.sum())

    def result(self, rows: np.ndarray) -> Value:
        samples = self.data.in_unit(rows[:, 0])
        se = float(samples.std(ddof=1) / len(samples) ** 0.5) if len(samples) > 1 else math.nan
        return Value(float(samples.mean()), se, self.data.unit, {"samples": samples, "evaluations": rows[:, 1]})
