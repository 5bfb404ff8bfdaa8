"""Gaussian data, of which everything is known: density, entropy, and the best velocity at any time."""

import math

import pytest
import torch

SHAPE = (3, 4, 4)
DIMS = 48


class Gaussian:
    """N(mean, Q diag(scale^2) Q^T) on images of SHAPE. As a model it is E[eps - x0 | x_t], the best there can be."""

    def __init__(self, mean, scale, rotation):
        self.mean, self.scale, self.Q = mean, scale, rotation

    def sample(self, n, seed=0):
        z = torch.randn(n, DIMS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (self.mean + (z * self.scale) @ self.Q.T).view(n, *SHAPE)

    def log_p(self, x):
        """Nats per dimension, [B]."""
        z = (x.flatten(1) - self.mean) @ self.Q / self.scale
        return (-0.5 * z.square() - self.scale.log()).mean(1) - 0.5 * math.log(2 * math.pi)

    def entropy(self):
        return 0.5 * (1 + math.log(2 * math.pi)) + self.scale.log().mean().item()

    def cross_entropy(self, other):
        """E[-log p] of this density under data of another."""
        inside = self.Q.T @ (other.Q * other.scale.square()) @ other.Q.T @ self.Q
        off = (other.mean - self.mean) @ self.Q
        square = (inside.diagonal() + off.square()) / self.scale.square()
        return (0.5 * square + self.scale.log()).mean().item() + 0.5 * math.log(2 * math.pi)

    def __call__(self, x, t, text=None):
        t, flat = t.to(x.dtype)[:, None], x.flatten(1)
        variance = (1 - t) ** 2 * self.scale.square() + t**2
        r = (flat - (1 - t) * self.mean) @ self.Q / variance
        return ((t * r) @ self.Q.T - self.mean - ((1 - t) * self.scale.square() * r) @ self.Q.T).view_as(x)

    def velocity_trace(self, t):
        """Divergence per dimension of the best velocity, a function of t alone."""
        return ((t - (1 - t) * self.scale.square()) / ((1 - t) ** 2 * self.scale.square() + t**2)).mean().item()


def make(kind, seed=0):
    g = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.1, 1.5, DIMS, dtype=torch.float64)
    mean = 0.3 * torch.randn(DIMS, generator=g, dtype=torch.float64)
    square = torch.randn(DIMS, DIMS, generator=g, dtype=torch.float64)
    return Gaussian(mean, scale, torch.linalg.qr(square)[0] if kind == "full" else torch.eye(DIMS, dtype=torch.float64))


@pytest.fixture(params=["diagonal", "full"])
def gaussian(request):
    return make(request.param)


@pytest.fixture
def other_gaussian():
    return make("full", seed=5)
