"""The planned precision of a design: what its 95 % intervals will be, as a range over the laws around a prior."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..laws.predictor.member import one_thread
from ..laws.predictor.noise import Noise
from ..result import Result
from ..units import compact
from .design import Design
from .information import Studies, studies
from .surfaces import Prior, Surface, nominal

# What trained models typically have (docs/planning.md); a size effect: what suits one size better than another.
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
    """What a design will tell at `target`, a budget in FLOPs. multiplier: of the FLOPs of another design, given by a
    study just like this one."""

    target: float
    loss: Precision
    n_params: Precision
    exponent: Precision
    multiplier: Precision

    def summary(self) -> str:
        def line(name: str, p: Precision, show) -> str:
            return f"  {name:22} {show(p.width / 2):>8} ({show(p.low / 2)} to {show(p.high / 2)})"

        percent, factor, plain = (lambda h: f"±{h:.2%}"), (lambda h: f"x/÷{math.exp(h):.2f}"), (lambda h: f"±{h:.3f}")
        head = f"95 % intervals at {compact(self.target)} FLOPs (and over the laws around the prior):"
        return "\n".join([
            head, line("L*", self.loss, percent), line("N*", self.n_params, factor),
            line("exponent of N*", self.exponent, plain), line("multiplier of a design", self.multiplier, factor),
        ])  # fmt: skip


@one_thread()
def planned_interval(design: Design, prior: Prior | Surface, target: float, noise: Noise = TYPICAL) -> Planned:
    """What a design will tell at `target`, a budget in FLOPs, by information: over a few laws around the prior. Raises
    UserError where the target is inside the grid or the runs are too few."""
    design.check(target)
    laws = nominal(centre_of(prior, design))
    start: dict[int, np.ndarray] = {}
    each = [studies(design, law, target, noise, start) for law in laws]
    return summarised(target, each, [law.log_fall(math.log(target)) for law in laws])


def centre_of(prior: Prior | Surface, design: Design) -> Surface:
    """The law that others are thought to lie around."""
    return prior if isinstance(prior, Surface) else Surface.of(prior, design.middle, design.kappa)


def summarised(target: float, each: Sequence[Studies], falls: Sequence[float]) -> Planned:
    """Of studies under several laws, with -d ln L* / d ln C at the target of each."""
    errors = np.concatenate([s.error for s in each], axis=1)
    widths = [np.median(s.width, axis=1) for s in each]
    rows = [(errors[i], [float(w[i]) for w in widths]) for i in range(3)]
    # Two designs' losses err alone each, and a loss is worth FLOPs by how slowly it falls.
    apart = [math.sqrt(2) * s.error[0] / fall for s, fall in zip(each, falls, strict=True)]
    rows.append((np.concatenate(apart), [math.sqrt(2) * float(w[0]) / f for w, f in zip(widths, falls, strict=True)]))
    parts = [
        Precision(float(np.sqrt(np.mean(e**2))), float(np.median(w)), *np.quantile(w, RANGE).tolist()) for e, w in rows
    ]
    return Planned(target, *parts)
