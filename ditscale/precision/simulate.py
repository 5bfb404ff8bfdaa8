"""Studies that are drawn and fitted as real ones are: what `planned_interval` is measured against."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..laws.predictor.noise import Noise
from ..laws.predictor.predictor import predictor
from .design import Design
from .information import Studies
from .planned import TYPICAL, Planned, centre_of, summarised
from .surfaces import Prior, Surface, draws


class Study(NamedTuple):
    """Of ASKED: errors, widths of the 95 % intervals, and whether they hold the truth."""

    error: Sequence[float]
    width: Sequence[float]
    held: Sequence[bool]


def simulated(design: Design, law: Surface, target: float, noise: Noise, rng: np.random.Generator) -> Study:
    """One study of a design under a law, fitted by the predictor and asked at `target`, a budget in FLOPs."""
    log_c, log_n, at = np.log(design.budget_flops), np.log(design.n_params), math.log(target)
    root = np.linalg.cholesky(noise.covariance(log_c, design.trajectory, design.slices(), design.sizes()))
    made = predictor(design.table(law.loss(log_c, log_n) * np.exp(root @ rng.standard_normal(len(design)))))
    best, exponent = made.optimum(target), made.exponent("model", target)
    loss, place = float(law.least(at)), float(law.log_size(at))
    errors = (math.log(best.loss.value / loss), math.log(best.n_params.value) - place, exponent.value - law.slope)
    # The predictor gives both ends.
    ends = [(float(e.low or 0), float(e.high or 0)) for e in (best.loss, best.n_params, exponent)]
    widths = (math.log(ends[0][1] / ends[0][0]), math.log(ends[1][1] / ends[1][0]), ends[2][1] - ends[2][0])
    truth = (loss, math.exp(place), law.slope)
    return Study(errors, widths, [low <= value <= high for (low, high), value in zip(ends, truth, strict=True)])


def simulate(
    design: Design, prior: Prior | Surface, target: float, count: int, noise: Noise = TYPICAL, seed: int = 0
) -> Planned:
    """What a design will tell at `target`, from as many studies, each under a law of its own around the prior. About
    half a second each. Raises UserError as `planned_interval`."""
    design.check(target)
    laws = draws(centre_of(prior, design), count, seed)
    each = []
    for number, law in enumerate(laws):
        study = simulated(design, law, target, noise, np.random.default_rng([seed, number]))
        each.append(Studies(*(np.array(part, dtype=float)[:, None] for part in study)))
    return summarised(target, noise, laws, each, count)
