"""The variational bound on -log p of held-out images (diffusion/vlb.py has the mathematics).

In bits per dimension for pictures, whose pixels are rounded to 8-bit levels: the bound is on the probability of the
levels. In nats per dimension for latents: a bound on the density at them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion import vlb
from ..rundir.strata import controlled, standard_error
from .held_out import BIN, HeldOut

STREAM = "bound noise"


class Bound:
    """One timestep an image, stratified in logit t over the images; noise is shared by all runs of a study.

    Much of the scatter is that of |eps|^2, which is known: it is taken out as a control (rundir/strata.py).
    """

    name = "vlb"
    columns = ["diffusion", "prior", "reconstruction", "control"]
    dtype = torch.float64

    def __init__(self, model: nn.Module, data: HeldOut, precision: str, t_min: float = vlb.T_MIN):
        self.model, self.data, self.precision, self.t_min = model, data, precision, t_min
        levels = "8-bit levels, also beyond black and white" if data.pixels else "none: a density"
        self.settings = {"t_min": t_min, "t_max": vlb.T_MAX, "precision": precision, "discretisation": levels}

    @torch.no_grad()
    def rows(self, index: Tensor) -> tuple[np.ndarray, int]:
        x0, text = self.data.images(index)
        if self.data.pixels:
            x0 = self.data.levels(x0)
        eps = self.data.noise(STREAM, index, x0)
        t, length = vlb.logit_timestep((index.double() + 0.5) / self.data.n, self.t_min)
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            integral = vlb.diffusion(self.model, x0, text, eps, t.float().to(x0.device), length)
        parts = [integral, vlb.prior(x0), vlb.reconstruction(x0, eps, BIN if self.data.pixels else None, self.t_min)]
        parts.append(eps.square().flatten(1).mean(1) - 1)
        return torch.stack([p.double() for p in parts], 1).cpu().numpy(), len(index)

    def result(self, rows: np.ndarray) -> dict:
        samples = self.data.in_unit(controlled(rows[:, :3].sum(1), rows[:, 3]))
        made = {
            "value": float(samples.mean()),
            "se": standard_error(samples),
            "unit": self.data.unit,
            "samples": samples,
        }
        return made | {
            name: np.float64(self.data.in_unit(rows[:, i].mean())) for i, name in enumerate(self.columns[:3])
        }
