"""The planned precision of a design: what its 95 % intervals will be, as a range over the laws around a prior."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..laws.predictor.member import one_thread
from ..laws.predictor.noise import Noise
from ..result import Result
from ..units import compact
from .design import Design
from .information import Studies, studies
from .surfaces import Prior, Surface, nominal

# What trained models typically have (docs/planning.md); size: what suits one size better than another.
TYPICAL = Noise(size=1.5e-3)
RANGE = (0.05, 0.95)  # of the widths under the laws around the prior


@dataclass(frozen=True)
class Precision(Result):
    """Of one number. error: standard deviation of the errors that studies have; width: full width of the 95 % interval
    that is stated, in the median; low and high: of the median widths under the laws around the prior. Of N* and the
    multiplier all are of the natural logarithm, of L* relative."""

    error: float
    width: float
    low: float
    high: float


@dataclass(frozen=True)
class Planned(Result):
    """What a design will tell at `target`, a budget in FLOPs, if a run's loss scatters by `scatter`, relative.
    multiplier: of the FLOPs of another design, given by a study just like this one; simulated: how many studies were
    drawn and fitted for it, 0 where it is by information."""

    target: float
    scatter: float
    simulated: int
    loss: Precision
    n_params: Precision
    exponent: Precision
    multiplier: Precision

    def summary(self) -> str:
        def line(name: str, p: Precision, show: Callable[[float], str]) -> str:
            return f"  {name:16} {show(p.width / 2):>9} ({show(p.low / 2)} to {show(p.high / 2)})"

        how = f"from {self.simulated} simulated studies" if self.simulated else "planned"
        head = f"95 % intervals at {compact(self.target)} FLOPs, {how} (nine in ten laws around the prior), "
        return "\n".join([
            f"{head}where a run's loss scatters by {self.scatter:.2%}:",
            line("L*", self.loss, lambda half: f"±{half:.2%}"),
            line("N*", self.n_params, lambda half: f"x/÷{math.exp(half):.2f}"),
            line("exponent of N*", self.exponent, lambda half: f"±{half:.3f}"),
            line("FLOP multiplier", self.multiplier, lambda half: f"x/÷{math.exp(half):.2f}"),
        ])  # fmt: skip


@one_thread()
def planned_interval(
    design: Design, prior: Prior | Surface, target: float, noise: Noise = TYPICAL,
    start: dict[int, np.ndarray] | None = None,
) -> Planned:  # fmt: skip
    """What a design will tell at `target`, a budget in FLOPs, by information: over a few laws around the prior. start:
    as of `information.speakers`. Raises UserError where the target is inside the grid or the runs are too few."""
    design.check(target)
    laws, start = nominal(centre_of(prior, design)), {} if start is None else start
    return summarised(target, noise, laws, [studies(design, law, target, noise, start) for law in laws])


def centre_of(prior: Prior | Surface, design: Design) -> Surface:
    """The law that others are thought to lie around."""
    return prior if isinstance(prior, Surface) else Surface.of(prior, design.middle, design.kappa)


def summarised(
    target: float, noise: Noise, laws: Sequence[Surface], each: Sequence[Studies], simulated: int = 0
) -> Planned:
    """Of studies under several laws."""
    errors = np.concatenate([s.error for s in each], axis=1)
    widths = [np.median(s.width, axis=1) for s in each]
    rows = [(errors[i], [float(w[i]) for w in widths]) for i in range(3)]
    # Two designs' losses err each by itself, and a loss is worth the more FLOPs the slower it falls.
    worth = [math.sqrt(2) / law.log_fall(math.log(target)) for law in laws]
    apart = [w * s.error[0] for s, w in zip(each, worth, strict=True)]
    rows.append((np.concatenate(apart), [w * float(width[0]) for width, w in zip(widths, worth, strict=True)]))
    parts = [
        Precision(float(np.sqrt(np.mean(e**2))), float(np.median(w)), *np.quantile(w, RANGE).tolist()) for e, w in rows
    ]
    return Planned(target, noise.run, simulated, *parts)
