"""Images from noise: the probability-flow equation dx/dt = v(x, t) from t = 1 (noise) back to t = 0 (data)."""

import torch
from torch import Tensor

from ..data.captions import no_caption
from .rectified_flow import Velocity


@torch.no_grad()
def sample(
    model: Velocity, noise: Tensor, text: Tensor, steps: int = 32, sampler: str = "heun", guidance: float = 1.0
) -> Tensor:
    """Images [B, C, R, R] at t = 0, unclamped, from `noise`, which is x at t = 1, in `steps` steps on a uniform grid.

    sampler: "heun", of second order, with 2 steps - 1 model evaluations, or "euler", of first order, with `steps`.
    Heun's last step is Euler's, as in Karras et al. (arXiv 2206.00364, algorithm 1): v at t = 0 is where the model is
    trained least.

    guidance: scale g of classifier-free guidance (Ho and Salimans, arXiv 2207.12598, eq. 6, with g = 1 + w). Unless it
    is 1, the velocity is v(no caption) + g (v(text) - v(no caption)), for twice the evaluations.
    """
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
    """A model's velocity with classifier-free guidance."""

    def velocity(x: Tensor, t_B: Tensor, text: Tensor) -> Tensor:
        both = model(x.repeat(2, 1, 1, 1), t_B.repeat(2), torch.cat([text, no_caption(text)])).float()
        with_text, without = both.chunk(2)
        return torch.lerp(without, with_text, guidance)

    return velocity
