"""Rectified flow (Liu et al., arXiv 2209.03003): straight paths between data and noise.

x_t = (1 - t) x_0 + t eps,   t in [0, 1], t = 0 is data
v   = eps - x_0
loss = E || v_model(x_t, t, text) - v ||^2,  the mean over all elements
Images are made from noise by dx/dt = v(x, t) from t = 1 back to t = 0."""

from typing import Callable

import torch
from torch import Tensor

from ..data import draws

# A model of the velocity: v [B, C, R, R] of images x_t [B, C, R, R] at times t [B] with captions `text`.
Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]


def expand(t_B: Tensor, like: Tensor) -> Tensor:
    """[B] to [B, 1, ...] so that it multiplies images."""
    return t_B.view(-1, *[1] * (like.dim() - 1))


def interpolate(x0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
    """x_t, shaped as x0."""
    return torch.lerp(x0, eps, expand(t_B, x0))


def timestep(u_B: Tensor, distribution: str) -> Tensor:
    """Timesteps from uniforms u in (0, 1) by the inverse cumulative distribution: [B]. "logit-normal": logit t is
    standard normal (Esser et al., arXiv 2403.03206, eq. 19, m = 0, s = 1). "uniform": t = u."""
    if distribution != "logit-normal":
        return u_B
    # torch.sigmoid is not used: how it rounds an image's t depends on the length of the batch.
    return 1 / (1 + torch.exp(-torch.special.ndtri(u_B)))


def draw_noise(seed: int, distribution: str, index_B: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Noise eps of `shape` [B, C, R, R] and timesteps t [B] at positions index [B]: functions of (seed, position)."""
    eps = draws.normal(draws.key(seed, "noise"), index_B, shape[1:].numel()).view(shape)
    u = draws.uniform(draws.key(seed, "timestep"), index_B, 1)[:, 0]
    return eps, timestep(u, distribution)


def no_caption(text: Tensor) -> Tensor:
    """The encoding of no caption, shaped as `text`: the id 0, which every source keeps for it, or features of 0."""
    return torch.zeros_like(text)


def drop_captions(seed: int, probability: float, index_B: Tensor, text: Tensor) -> Tensor:
    """`text` [B, T, ...] of a run's images numbered index [B], each dropped with a given probability by its number:
    what classifier-free guidance needs (Ho and Salimans, arXiv 2207.12598, algorithm 1)."""
    if not probability:
        return text
    dropped = draws.uniform(draws.key(seed, "caption dropout"), index_B, 1)[:, 0] < probability
    return torch.where(expand(dropped, text), no_caption(text), text)


def losses(model: Velocity, x0: Tensor, text: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
    """Each image's squared error of the velocity, mean over its elements: [B], float32."""
    v = model(interpolate(x0, eps, t_B), t_B, text)
    return (v.float() - (eps - x0)).square().flatten(1).mean(1)


@torch.no_grad()
def sample(
    model: Velocity, noise: Tensor, text: Tensor, steps: int = 32, sampler: str = "heun", guidance: float = 1.0
) -> Tensor:
    """Images [B, C, R, R] at t = 0, unclamped, from `noise`, which is x at t = 1, in `steps` steps on a uniform grid.
    sampler: "heun", of second order, with 2 steps - 1 model evaluations, the last step being Euler's (Karras et al.,
    arXiv 2206.00364, algorithm 1); or "euler". guidance: g of classifier-free guidance, v(no caption) + g (v(text) -
    v(no caption)), for twice the evaluations unless it is 1 (Ho and Salimans, arXiv 2207.12598, eq. 6, g = 1 + w)."""
    if guidance != 1:
        model = guided(model, guidance)
    velocity = lambda x, t: model(x, torch.full((len(x),), t, device=x.device), text).float()
    x = noise
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=noise.dtype).tolist()
    for t, t_next in zip(times[:-1], times[1:]):
        v = velocity(x, t)
        x_next = x + (t_next - t) * v
        if sampler == "heun" and t_next > 0:
            x_next = x + (t_next - t) * 0.5 * (v + velocity(x_next, t_next))
        x = x_next
    return x


def guided(model: Velocity, guidance: float) -> Velocity:
    def velocity(x: Tensor, t_B: Tensor, text: Tensor) -> Tensor:
        both = model(x.repeat(2, 1, 1, 1), t_B.repeat(2), torch.cat([text, no_caption(text)])).float()
        with_text, without = both.chunk(2)
        return torch.lerp(without, with_text, guidance)

    return velocity
