"""Images from noise: the probability-flow equation dx/dt = v(x, t) from t = 1 (noise) back to t = 0 (data)."""

from __future__ import annotations

import torch
from torch import Tensor



@torch.no_grad()
def sample(model, noise: Tensor, text: Tensor, steps: int = 32, sampler: str = "heun") -> Tensor:
    """`steps` steps on a uniform grid. "heun": of second order, 2 steps - 1 model evaluations; "euler": of first, `steps`.

    noise [B, C, R, R] is x at t = 1; returns x at t = 0, unclamped. Heun's last step is Euler's, as in Karras et al.
    (arXiv 2206.00364, algorithm 1): v at t = 0 is where the model is trained least.
    """
    x = noise
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=noise.dtype).tolist()
    for t, t_next in zip(times[:-1], times[1:]):
        v = _velocity(model, x, t, text)
        x_next = x + (t_next - t) * v
        if sampler == "heun" and t_next > 0:
            x_next = x + (t_next - t) * 0.5 * (v + _velocity(model, x_next, t_next, text))
        x = x_next
    return x


def model_evaluations(steps: int, sampler: str) -> int:
    """What `sample` takes for an image."""
    return 2 * steps - 1 if sampler == "heun" else steps


def _velocity(model, x: Tensor, t: float, text: Tensor) -> Tensor:
    return model(x, torch.full((len(x),), t, device=x.device), text).float()
