"""Training curves whose truth is known: ln loss = level - DECLINE u + BEND u^2, u = ln images - gamma ln N."""

import numpy as np

from ditscale.early.collapse import TAIL
from ditscale.early.curves import Curve

SIZES = np.array([2e4, 4e4, 7e4, 1.1e5, 1.6e5, 2.4e5])
BUDGET = 3e9  # N * images of each grid run
BATCH = 16
WARMUP = 480.0
DECLINE, BEND, BELOW = 0.2, 0.01, 0.12  # BELOW: of the measured loss under the training curve, in ln


def log_loss(n_params, images, gamma=1.0):
    u = np.log(images) - gamma * np.log(n_params)
    return -1.6 - 0.02 * np.log(n_params / 1e5) - DECLINE * u + BEND * u**2


def measured(n_params, images, gamma=1.0):
    """The mean of the training curve over its tail, less BELOW: what the record's validation would say."""
    tail = images * np.exp(-np.linspace(0, TAIL, 2001)[1:])  # uniform in ln images; steps are uniform in images
    return float(np.exp(-BELOW) * np.average(np.exp(log_loss(n_params, tail, gamma)), weights=tail))


def curve(n_params, end, rng, noise=0.1, scatter=0.02, seeds=(0, 0), shared=None, gamma=1.0):
    """A sound training. scatter: of its gradient norms around the line in ln N; shared (steps,): noise of its seed."""
    images = np.arange(BATCH, end + 1, BATCH, dtype=float)
    own = noise * rng.standard_normal(len(images))
    if shared is not None:
        own = np.sqrt(0.1) * own + np.sqrt(0.9) * noise * shared[: len(images)]
    norm = -1.2 + 0.15 * np.log(n_params / 1e5) - 0.13 * np.log(images / 5e3) + scatter * rng.standard_normal()
    norm += 2 * noise * rng.standard_normal(len(images))
    loss = np.exp(log_loss(n_params, images, gamma)) * (1 + own)
    readings = tuple((float(at), measured(n_params, at, gamma)) for at in (images[-1] / 4, images[-1] / 2, images[-1]))
    return Curve(
        "run", float(n_params), float(images[-1]), WARMUP, seeds, images, loss, np.exp(norm), readings
    )  # fmt: skip


def grid(rng, **how):
    return [curve(n, BUDGET / n, rng, **how) for n in SIZES]


def probe(rng, seeds=(1, 1), **how):
    """Eight times the grid's budget, at 1.6e5 parameters."""
    return curve(1.6e5, 8 * BUDGET / 1.6e5, rng, seeds=seeds, **how)
