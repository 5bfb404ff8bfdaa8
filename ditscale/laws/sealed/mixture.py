"""One forecast from several forms of law: the equal mixture of what the admissible ones predict.

Beyond the grid it is the form, more than the noise, that is uncertain: on real runs a surface and a power law that fit
equally well have missed the same probe on opposite sides. A mixture of predictive distributions says so (Hoeting et
al., "Bayesian model averaging", Statistical Science 1999, with equal weights: a handful of budgets cannot earn a form
more)."""

import math

import numpy as np

from ..estimates import LEVEL, Estimate

Z = 1.959963984540054  # half-width of a normal's central 95 %, in standard deviations


def widened(loss: Estimate, held_out_error: float | None) -> Estimate:
    """A form's interval with its own error on the held-out budget added in quadrature, on the side where the
    measurement lay: a form that missed the last step by 10 % will not do better on a longer one."""
    missed = math.log1p(held_out_error or 0.0)
    low = high = None
    if loss.low is not None:
        low = loss.value * math.exp(-math.hypot(math.log(loss.value / loss.low), max(missed, 0.0)))
    if loss.high is not None:
        high = loss.value * math.exp(math.hypot(math.log(loss.high / loss.value), max(-missed, 0.0)))
    return Estimate(loss.value, low, high)


def mixture(parts: list[Estimate]) -> Estimate:
    """Median and central 95 % of the equal mixture of `parts`, each a two-sided normal in log loss.

    An end that one part leaves open is open. One part alone is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    middle = np.array([math.log(p.value) for p in parts])
    below = np.array([_spread(p.value, p.low, p.high) for p in parts])
    above = np.array([_spread(p.value, p.high, p.low) for p in parts])

    def share_below(x: float) -> float:
        z = (x - middle) / np.where(x < middle, below, above)
        return float(np.mean([0.5 * math.erfc(-v / math.sqrt(2)) for v in z]))

    def quantile(p: float) -> float:
        low, high = float((middle - 9 * below).min()), float((middle + 9 * above).max())
        for _ in range(80):
            half = (low + high) / 2
            low, high = (half, high) if share_below(half) < p else (low, half)
        return math.exp(high)

    tail = (1 - LEVEL) / 2
    low = None if any(p.low is None for p in parts) else quantile(tail)
    high = None if any(p.high is None for p in parts) else quantile(1 - tail)
    return Estimate(quantile(0.5), low, high)


def _spread(value: float, end: float | None, other: float | None) -> float:
    """Standard deviation of log loss towards `end`; towards an open end that of the other side."""
    end = other if end is None else end
    return max(abs(math.log(end / value)) / Z, 1e-9) if end is not None else 1e-9
