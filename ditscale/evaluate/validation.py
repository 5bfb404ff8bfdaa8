"""Validation loss on fixed triples (image, noise, timestep) that all runs of a study share.

Timesteps are stratified: triple i of n has u_i = (i + 1/2) / n, mapped by the training distribution. Because runs share the
triples, most of the Monte-Carlo noise cancels in the difference of two runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..config import TIMESTEPS, Data, Validation
from ..data import draws
from ..data.open import open_source
from ..diffusion.rectified_flow import losses, timestep
from ..errors import UserError
from ..store.strata import standard_error
from .held_out import HeldOut, held_out

STREAM = "validation noise"
BINS = 10  # noise levels, of equal width in t


@dataclass(frozen=True)
class Triples:
    """n fixed triples: x0 and eps [n, C, R, R], text [n, ...], t [n], in the order of t."""

    x0: Tensor
    text: Tensor
    eps: Tensor
    t: Tensor


def triples(data: Data, validation: Validation, distribution: str) -> Triples:
    """The triples of a data set: held-out images, drawn under the validation's seed.

    Raises UserError when a data file has fewer than n images.
    """
    data = held_out(data, validation)
    source = open_source(data)
    n = validation.n
    if source.n_images is not None and source.n_images < n:
        raise UserError(f"validation.n: {n} images, but {data.path} holds {source.n_images}; set validation.n={source.n_images}")
    index = torch.arange(n)
    x0, text = source.batch(index)
    eps = draws.normal(draws.key(validation.seed, STREAM), index, x0[0].numel()).view(x0.shape)
    return Triples(x0, text, eps, timestep((index + 0.5) / n, distribution))


@torch.no_grad()
def triple_losses(model, fixed: Triples, batch_size: int, ranks, precision: str) -> np.ndarray:
    """Each triple's loss, [n] float64, computed by all ranks together and known to all."""
    n, device = len(fixed.t), ranks.device
    found = torch.zeros(n, dtype=torch.float64, device=device)
    share = range(ranks.rank * n // ranks.world, (ranks.rank + 1) * n // ranks.world)
    for start in range(share.start, share.start + -(-n // ranks.world), batch_size):
        part = range(start, min(start + batch_size, share.stop))
        # where weights are sharded, ranks compute in step: one whose share has ended goes on with a triple that does not count
        at = slice(part.start, part.stop) if len(part) else slice(0, 1)
        x0, text, eps, t = (v[at].to(device) for v in (fixed.x0, fixed.text, fixed.eps, fixed.t))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            values = losses(model, x0, text, eps, t).double()
        if len(part):
            found[at] = values
    ranks.all_reduce(found)
    return found.cpu().numpy()


class ValidationLoss:
    """The loss under both weightings of the timestep, by noise level, of EMA and of raw weights.

    Two designs on the same images and noise: t at the quantiles of the logit-normal, and of the uniform distribution
    (the unweighted loss). One design with importance weights would need fewer evaluations, but p_uniform / p_logit-normal
    has no bound at t = 0 and 1, and so the mean's error none either; and each design here repeats the record's triples.
    The noise levels are BINS slices of the uniform design, stratified in themselves.
    """

    name = "val_loss"

    def __init__(self, models: dict[str, nn.Module], data: HeldOut, weighting: str, precision: str):
        """models: by kind of weights, "ema" first. weighting: of the runs' training, the one that `value` has."""
        self.models, self.data, self.precision = models, data, precision
        self.columns = [(weights, of) for weights in models for of in sorted(TIMESTEPS, key=lambda of: of != weighting)]
        self.settings = {"weights": list(models), "weighting": weighting, "precision": precision}

    @torch.no_grad()
    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        """Losses float64 [B, columns] of the triples at positions index [B], and model evaluations of an image."""
        x0, text = self.data.images(index)
        eps = self.data.noise(STREAM, index, x0)
        u = (index + 0.5) / self.data.n
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            found = [losses(self.models[w], x0, text, eps, timestep(u, of).to(x0.device)) for w, of in self.columns]
        return torch.stack(found, 1).double().cpu().numpy(), len(found) * len(index)

    def result(self, rows: np.ndarray) -> dict:
        """value, se, unit and samples [n] of the EMA weights under the training's weighting; and the rest by name."""
        made = {"value": float(rows[:, 0].mean()), "se": standard_error(rows[:, 0]), "unit": "squared velocity", "samples": rows[:, 0]}
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
