"""Rectified flow (Liu et al., arXiv 2209.03003): straight paths between data and noise.

x_t = (1 - t) x_0 + t eps,   t in [0, 1], t = 0 is data
v   = eps - x_0
loss = E || v_model(x_t, t, text) - v ||^2,  the mean over all elements
"""

from typing import Callable

import torch
from torch import Tensor

from ..data import draws

# A model of the velocity: v [B, C, R, R] of images x_t [B, C, R, R] at times t [B] with captions `text`.
Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]


def expand(t_B: Tensor, like: Tensor) -> Tensor:
    """[B] to [B, 1, 1, 1] so that it multiplies images."""
    return t_B.view(-1, *[1] * (like.dim() - 1))


def interpolate(x0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
    """x_t, shaped as x0."""
    return torch.lerp(x0, eps, expand(t_B, x0))


def timestep(u_B: Tensor, distribution: str) -> Tensor:
    """Timesteps from uniforms u in (0, 1) by the inverse cumulative distribution: [B].

    "logit-normal": logit t is standard normal (Esser et al., arXiv 2403.03206, eq. 19, m = 0, s = 1). "uniform": t = u.
    """
    if distribution != "logit-normal":
        return u_B
    # torch.sigmoid is not used: how it rounds an image's t depends on the length of the batch.
    return 1 / (1 + torch.exp(-torch.special.ndtri(u_B)))


class Noise:
    """The noise and the timestep of image number i of a run: pure functions of (seed, i)."""

    def __init__(self, seed: int, distribution: str):
        self.noise_key = draws.key(seed, "noise")
        self.time_key = draws.key(seed, "timestep")
        self.distribution = distribution

    def draw(self, index_B: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """eps of `shape` [B, C, R, R] and t [B] for the images numbered index [B]."""
        eps = draws.normal(self.noise_key, index_B, shape[1:].numel()).view(shape)
        u = draws.uniform(self.time_key, index_B, 1)[:, 0]
        return eps, timestep(u, self.distribution)


def losses(model: Velocity, x0: Tensor, text: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
    """Each image's squared error of the velocity, mean over its elements: [B], float32."""
    v = model(interpolate(x0, eps, t_B), t_B, text)
    return (v.float() - (eps - x0)).square().flatten(1).mean(1)
