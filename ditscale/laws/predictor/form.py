"""The form of a loss around the frontier of an isoFLOP study, and the three nested members of its family.

With x = ln C, z = ln N (both centred) and u = z - ln N*(C):

    f(x, z)  = E + e^(k - g x) + e^(c - d x) (h(u) - 1)
    h(u)     = (q e^(-p u) + p e^(q u)) / (p + q),   h >= 1, least at u = 0
    ln N*(C) = n0 + a x + b x^2,   a tangent beyond the last budget
    L*(C)    = E + e^(k - g x)

Left of the optimum a slice rises with the exponent p, right of it with q. With a = q / (p + q), g = d = p q / (p + q),
c = k and b = 0 this is exactly the surface L = E + A N^-p + B D^-q (Approach 3), a member of the family. "relaxed" lets
a, g, c and d off it: the frontier, its slope and the slices' curvature are each fitted for itself; "bent" b too.
How far off they may be is a prior: where the runs are few or noisy, the surface is what remains."""

from typing import NamedTuple

import numpy as np

PARAMETERS = ("n0", "a", "b", "k", "g", "c", "d", "log_p", "log_q")
N0, A, B, K, G, C, D, LOG_P, LOG_Q = range(len(PARAMETERS))
SURFACE = (N0, K, LOG_P, LOG_Q)
# What is free; of a, g, c, d and b, how far off the surface.
FREE = {"surface": SURFACE, "relaxed": (*SURFACE, A, G, C, D), "bent": (*SURFACE, A, G, C, D, B)}
# Priors (mean, standard deviation); levels have none to speak of.
PRIORS = dict.fromkeys((LOG_P, LOG_Q), (-1.2, 1.2)) | dict.fromkeys((G, D), (0.0, 0.7))
PRIORS |= {A: (0.0, 0.15), B: (0.0, 0.02), C: (0.0, 1.0)}
LEVEL_SPREAD = 10.0
FAR = 300.0  # exponents beyond this are no loss of anything


class Values(NamedTuple):
    """Of m parameter vectors at n runs. f (m, n); optimum (m, n): L*(C) there; jacobian (m, n, 9): of f by PARAMETERS,
    empty where it was not asked for."""

    f: np.ndarray
    optimum: np.ndarray
    jacobian: np.ndarray


def prior(member: str) -> tuple[np.ndarray, np.ndarray]:
    """(means, standard deviations), each (P,), of the member's free parameters."""
    pairs = np.array([PRIORS.get(i, (0.0, LEVEL_SPREAD)) for i in FREE[member]])
    return pairs[:, 0], pairs[:, 1]


def expand(member: str, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(all nine parameters (m, 9), their Jacobian (m, 9, P)) of the member's free ones, theta (m, P)."""
    free = FREE[member]
    full = np.zeros((len(theta), len(PARAMETERS)))
    jacobian = np.zeros((*full.shape, len(free)))
    full[:, free] = theta
    jacobian[:, free, range(len(free))] = 1
    p, q = np.exp(full[:, LOG_P]), np.exp(full[:, LOG_Q])
    total = p + q
    full[:, A] += q / total
    full[:, C] += full[:, K]
    full[:, [G, D]] = np.exp(np.clip(full[:, [G, D]], -5, 5)) * (p * q / total)[:, None]
    at_k, at_p, at_q = (free.index(i) for i in (K, LOG_P, LOG_Q))
    jacobian[:, C, at_k] = 1
    jacobian[:, A, at_p], jacobian[:, A, at_q] = -p * q / total**2, p * q / total**2
    for i in (G, D):
        jacobian[:, i] *= full[:, i, None]
        jacobian[:, i, at_p], jacobian[:, i, at_q] = full[:, i] * q / total, full[:, i] * p / total
    return full, jacobian


def evaluate(full: np.ndarray, floor: np.ndarray, x: np.ndarray, z: np.ndarray, derivatives: bool = True) -> Values:
    """The form of m parameter vectors (m, 9) with floors (m,) at runs x, z (n,)."""
    n0, a, b, k, g, c, d, log_p, log_q = (column[:, None] for column in full.T)
    p, q = np.exp(log_p), np.exp(log_q)
    u = np.clip(z - n0 - a * x - b * x * x, -FAR / 5 / np.maximum(p, 1e-3), FAR / 5 / np.maximum(q, 1e-3))
    left, right, total = np.exp(-p * u), np.exp(q * u), p + q
    h = (q * left + p * right) / total
    frontier = np.exp(np.clip(k - g * x, -FAR, FAR))
    scale = np.exp(np.clip(c - d * x, -FAR, FAR))
    bowl, optimum = scale * (h - 1), floor[:, None] + frontier
    if not derivatives:
        return Values(optimum + bowl, optimum, np.empty(0))
    jacobian = np.empty((*u.shape, len(PARAMETERS)))
    jacobian[..., N0] = -scale * p * q * (right - left) / total
    jacobian[..., A] = x * jacobian[..., N0]
    jacobian[..., B] = x * jacobian[..., A]
    jacobian[..., K] = frontier
    jacobian[..., G] = -x * frontier
    jacobian[..., C], jacobian[..., D] = bowl, -x * bowl
    jacobian[..., LOG_P] = scale * (right - u * q * left - h) / total * p
    jacobian[..., LOG_Q] = scale * (left + u * p * right - h) / total * q
    return Values(optimum + bowl, optimum, jacobian)


def place(full: np.ndarray, x: float, last: float) -> tuple[np.ndarray, np.ndarray]:
    """(ln N* (m,), its gradient (m, 9)) at x; beyond `last`, the last budget, along the tangent there."""
    square = x * x if x <= last else 2 * last * x - last * last
    gradient = np.zeros_like(full)
    gradient[:, N0], gradient[:, A], gradient[:, B] = 1, x, square
    return full[:, N0] + full[:, A] * x + full[:, B] * square, gradient


def slope(full: np.ndarray, x: float, last: float) -> tuple[np.ndarray, np.ndarray]:
    """(d ln N* / d ln C (m,), its gradient (m, 9)) at x: the model exponent."""
    gradient = np.zeros_like(full)
    gradient[:, A], gradient[:, B] = 1, 2 * min(x, last)
    return full[:, A] + full[:, B] * 2 * min(x, last), gradient


def frontier(full: np.ndarray, floor: np.ndarray, x: float) -> tuple[np.ndarray, np.ndarray]:
    """(L* (m,), its gradient (m, 9)) at x."""
    power = np.exp(np.clip(full[:, K] - full[:, G] * x, -FAR, FAR))
    gradient = np.zeros_like(full)
    gradient[:, K], gradient[:, G] = power, -x * power
    return floor + power, gradient


def loss_slope(full: np.ndarray, floor: np.ndarray, x: float) -> tuple[np.ndarray, np.ndarray]:
    """(d ln L* / d ln C (m,), its gradient (m, 9)) at x."""
    loss, by_loss = frontier(full, floor, x)
    power, g = loss - floor, full[:, G]
    gradient = -(g * floor / loss**2)[:, None] * by_loss
    gradient[:, G] -= power / loss
    return -g * power / loss, gradient


def off_optimum(full: np.ndarray, floor: np.ndarray, x: float, z: float, last: float) -> tuple[np.ndarray, np.ndarray]:
    """(L (m,), its gradient (m, 9)) of a size z at x, wherever the optimum lies."""
    middle, by_place = place(full, x, last)
    fixed = full.copy()
    fixed[:, [N0, A, B]] = middle[:, None] * [1, 0, 0]
    values = evaluate(fixed, floor, np.array([x]), np.array([z]))
    gradient = values.jacobian[:, 0] * ~np.isin(range(len(PARAMETERS)), (N0, A, B))
    return values.f[:, 0], gradient + values.jacobian[:, 0, N0, None] * by_place
