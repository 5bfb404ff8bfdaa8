"""Validation loss on fixed triples (image, noise, timestep) that all runs of a study share.

Timesteps are stratified: triple i of n has u_i = (i + 1/2) / n, mapped by the training distribution. Because runs share the
triples, most of the Monte-Carlo noise cancels in the difference of two runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..config import Data, Validation
from ..data import draws
from ..data.open import open_source
from ..diffusion.rectified_flow import losses, timestep
from ..errors import UserError


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
    held_out = replace(data, seed=validation.seed, path=validation.path or data.path)
    source = open_source(held_out)
    n = validation.n
    if source.n_images is not None and source.n_images < n:
        raise UserError(f"validation.n: {n} images, but {held_out.path} holds {source.n_images}; set validation.n={source.n_images}")
    index = torch.arange(n)
    x0, text = source.batch(index)
    eps = draws.normal(draws.key(validation.seed, "validation noise"), index, x0[0].numel()).view(x0.shape)
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
