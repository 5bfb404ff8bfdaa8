"""Validation loss on fixed triples (image, noise, timestep) that all runs of a study share.

Timesteps are stratified: triple i of n has u_i = (i + 1/2) / n, mapped by the training distribution. Because runs share
the triples, most of the Monte-Carlo noise cancels in the difference of two runs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..config import TIMESTEPS
from ..diffusion.rectified_flow import losses, timestep
from ..distributed.ranks import Ranks
from ..rundir.strata import standard_error
from .held_out import HeldOut

STREAM = "validation noise"
BINS = 10  # noise levels, of equal width in t


def triples(data: HeldOut, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the triples at positions index [B], all but t, on the device: x0 and eps [B, C, R, R], and between them text
    [B, ...]."""
    x0, text = data.images(index)
    return x0, text, data.noise(STREAM, index, x0)


def times(data: HeldOut, index: Tensor, distribution: str) -> Tensor:
    """Their t [B]."""
    return timestep((index + 0.5) / data.n, distribution).to(data.device)


@torch.no_grad()
def triple_losses(
    model: nn.Module, data: HeldOut, distribution: str, batch_size: int, ranks: Ranks, precision: str
) -> np.ndarray:
    """Each triple's loss, [n] float64, computed by all ranks together and known to all."""
    n, device = data.n, ranks.device
    found = torch.zeros(n, dtype=torch.float64, device=device)
    share = range(ranks.rank * n // ranks.world, (ranks.rank + 1) * n // ranks.world)
    for start in range(share.start, share.start + -(-n // ranks.world), batch_size):
        part = torch.arange(start, min(start + batch_size, share.stop))
        # where weights are sharded, ranks compute in step: one whose share has ended goes on with a triple that does
        # not count
        at = part if len(part) else torch.zeros(1, dtype=torch.int64)
        # not under autocast: pictures are matrix products too
        drawn, t = triples(data, at), times(data, at, distribution)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            values = losses(model, *drawn, t).double()
        if len(part):
            found[part] = values
    ranks.all_reduce(found)
    return found.cpu().numpy()


class ValidationLoss:
    """The loss under both weightings of the timestep, by noise level, of EMA and of raw weights.

    Two designs on the same images and noise: t at the quantiles of the logit-normal, and of the uniform distribution
    (the unweighted loss). One design with importance weights would need fewer evaluations, but p_uniform /
    p_logit-normal has no bound at t = 0 and 1, and so the mean's error none either; and each design here repeats the
    record's triples. The noise levels are BINS slices of the uniform design, stratified in themselves.
    """

    name = "val_loss"
    dtype = torch.float64

    def __init__(self, models: dict[str, nn.Module], data: HeldOut, weighting: str, precision: str):
        """models: by kind of weights, "ema" first. weighting: of the runs' training, the one that `value` has."""
        self.models, self.data, self.precision = models, data, precision
        self.columns = [(weights, of) for weights in models for of in sorted(TIMESTEPS, key=lambda of: of != weighting)]
        self.settings = {"weights": list(models), "weighting": weighting, "precision": precision}

    @torch.no_grad()
    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        """Losses float64 [B, columns] of the triples at positions index [B], and model evaluations of an image."""
        drawn = triples(self.data, index)
        with torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            found = [losses(self.models[w], *drawn, times(self.data, index, of)) for w, of in self.columns]
        return torch.stack(found, 1).double().cpu().numpy(), len(found) * len(index)

    def result(self, rows: np.ndarray) -> dict:
        """value, se, unit and samples [n] of the EMA weights under the training's weighting; and the rest by name."""
        made = {
            "value": float(rows[:, 0].mean()),
            "se": standard_error(rows[:, 0]),
            "unit": "squared velocity",
            "samples": rows[:, 0],
        }
        for (weights, of), column in zip(self.columns, rows.T):
            made[f"{weights} {of}"] = np.array([column.mean(), standard_error(column)])
            if of == "uniform":
                made[f"{weights} bins"] = by_noise_level(column)
        return made


def by_noise_level(losses: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Mean and standard error [bins, 2] of stratified losses [n] with uniform t, in slices of equal width of t."""
    t = (np.arange(len(losses)) + 0.5) / len(losses)
    parts = [losses[np.minimum((t * bins).astype(int), bins - 1) == k] for k in range(bins)]
    return np.array([(part.mean(), standard_error(part)) if len(part) > 1 else (np.nan, np.nan) for part in parts])
