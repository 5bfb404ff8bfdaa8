"""Images from noise: the probability-flow equation dx/dt = v(x, t) from t = 1 (noise) back to t = 0 (data)."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sample(
    model,
    noise: Tensor,
    text: Tensor,
    steps: int = 32,
    sampler: str = "heun",
    guidance: float = 1.0,
    none: Tensor | None = None,
) -> Tensor:
    """`steps` steps on a uniform grid. "heun": of second order, 2 steps - 1 model evaluations; "euler": of first,
    `steps`.

    guidance g other than 1: the velocity is v(none) + g (v(text) - v(none)), classifier-free (Ho and Salimans, arXiv
    2207.12598, eq. 6, with g = 1 + w), for twice the evaluations; `none`: what stands for no caption, shaped as `text`.

    noise [B, C, R, R] is x at t = 1; returns x at t = 0, unclamped. Heun's last step is Euler's, as in Karras et al.
    (arXiv 2206.00364, algorithm 1): v at t = 0 is where the model is trained least.
    """
    if guidance != 1:
        model = Guided(model, none, guidance)
    x = noise
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=noise.dtype).tolist()
    for t, t_next in zip(times[:-1], times[1:]):
        v = _velocity(model, x, t, text)
        x_next = x + (t_next - t) * v
        if sampler == "heun" and t_next > 0:
            x_next = x + (t_next - t) * 0.5 * (v + _velocity(model, x_next, t_next, text))
        x = x_next
    return x


class Guided:
    """A model's velocity, guided."""

    def __init__(self, model, none: Tensor, guidance: float):
        self.model, self.none, self.guidance = model, none, guidance

    def __call__(self, x: Tensor, t_B: Tensor, text: Tensor) -> Tensor:
        with_text, without = (
            self.model(x.repeat(2, 1, 1, 1), t_B.repeat(2), torch.cat([text, self.none])).float().chunk(2)
        )
        return torch.lerp(without, with_text, self.guidance)


def model_evaluations(steps: int, sampler: str, guidance: float = 1.0) -> int:
    """What `sample` takes for an image."""
    return (2 * steps - 1 if sampler == "heun" else steps) * (2 if guidance != 1 else 1)


def _velocity(model, x: Tensor, t: float, text: Tensor) -> Tensor:
    return model(x, torch.full((len(x),), t, device=x.device), text).float()
