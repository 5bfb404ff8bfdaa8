"""The variational bound on -log p of held-out images (diffusion/vlb.py has the mathematics).

In bits per dimension for pictures, whose pixels are rounded to 8-bit levels: the bound is on the probability of the
levels. In nats per dimension for latents: a bound on their density.
"""

import numpy as np
import torch
from torch import Tensor

from ..diffusion import vlb
from ..diffusion.rectified_flow import Velocity
from ..rundir.strata import controlled, standard_error
from .held_out import BIN, HeldOut
from .measure import Value

STREAM = "bound noise"


class Bound:
    """One timestep for each image, stratified in logit t over the images. All runs of a study share the noise.

    Much of the scatter is that of |eps|^2, whose mean is known: it serves as a control variate (rundir/strata.py).
    """

    name = "vlb"
    columns = ["diffusion", "prior", "reconstruction", "control"]
    dtype = torch.float64

    def __init__(self, model: Velocity, data: HeldOut, precision: str, t_min: float = vlb.T_MIN):
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

    def result(self, rows: np.ndarray) -> Value:
        samples = self.data.in_unit(controlled(rows[:, :3].sum(1), rows[:, 3]))
        arrays = {name: np.array(self.data.in_unit(rows[:, i].mean())) for i, name in enumerate(self.columns[:3])}
        return Value(float(samples.mean()), standard_error(samples), self.data.unit, {"samples": samples} | arrays)
