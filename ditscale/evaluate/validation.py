"""Validation loss on fixed triples (image, noise, timestep) that all runs of a study share.

Timesteps are stratified: triple i of n has u_i = (i + 1/2) / n, mapped by the training distribution. Because runs share
the triples, most of the Monte-Carlo noise cancels in the difference of two runs.
"""

from typing import Mapping

import numpy as np
import torch
from torch import Tensor

from ..config import TIMESTEPS
from ..diffusion.rectified_flow import Velocity, losses, timestep
from ..distributed.ranks import Ranks
from ..rundir.strata import standard_error
from .held_out import HeldOut
from .measure import Value

STREAM = "validation noise"
BINS = 10  # Noise levels, of equal width in t.


def triples(data: HeldOut, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The triples at positions index [B], on the device, but for t: images x0 [B, C, R, R], text [B, ...] and noise eps
    [B, C, R, R]."""
    x0, text = data.images(index)
    return x0, text, data.noise(STREAM, index, x0)


def times(data: HeldOut, index: Tensor, distribution: str) -> Tensor:
    """The timesteps t [B] of the triples."""
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
        # Where weights are sharded, ranks compute in step. A rank that has finished its share repeats the first triple,
        # which does not count.
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
    """The loss under both weightings of the timestep, by noise level, of EMA and of raw weights.

    Two designs on the same images and noise: t at the quantiles of the logit-normal, and of the uniform distribution
    (the unweighted loss). One design with importance weights would need fewer evaluations, but its weights, and so the
    error of the mean, are unbounded at t = 0 and 1. The noise levels are BINS slices of the uniform design.
    """

    name = "val_loss"
    dtype = torch.float64

    def __init__(self, models: Mapping[str, Velocity], data: HeldOut, weighting: str, precision: str):
        """models: by kind of weights, "ema" first. weighting: that of the runs' training, which the value has."""
        self.models, self.data, self.precision = models, data, precision
        self.columns = [(weights, of) for weights in models for of in sorted(TIMESTEPS, key=lambda of: of != weighting)]
        self.settings = {"weights": list(models), "weighting": weighting, "precision": precision}

    @torch.no_grad()
    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        """Losses float64 [B, columns] of the triples at positions index [B], and their model evaluations."""
        inputs = triples(self.data, index)
        with torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            columns = [losses(self.models[w], *inputs, times(self.data, index, of)) for w, of in self.columns]
        return torch.stack(columns, 1).double().cpu().numpy(), len(columns) * len(index)

    def result(self, rows: np.ndarray) -> Value:
        """The loss of the EMA weights under the training's weighting; all others, and `samples` [n], by name."""
        arrays = {"samples": rows[:, 0]}
        for (weights, of), column in zip(self.columns, rows.T):
            arrays[f"{weights} {of}"] = np.array([column.mean(), standard_error(column)])
            if of == "uniform":
                arrays[f"{weights} bins"] = by_noise_level(column)
        return Value(float(rows[:, 0].mean()), standard_error(rows[:, 0]), "squared velocity", arrays)


def by_noise_level(losses: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Mean and standard error [bins, 2] of stratified losses [n] with uniform t, in slices of equal width of t."""
    t = (np.arange(len(losses)) + 0.5) / len(losses)
    parts = [losses[np.minimum((t * bins).astype(int), bins - 1) == k] for k in range(bins)]
    return np.array([(part.mean(), standard_error(part)) if len(part) > 1 else (np.nan, np.nan) for part in parts])
