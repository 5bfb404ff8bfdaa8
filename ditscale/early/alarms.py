"""Whether a run that still trains behaves as the grid's runs did at as many images: alarms on its loss and gradient
norm. At equal images, ln of either is a line in ln N. What a run lies off that line is compared with what the grid's
runs do, and with the noise that a run with a seed of its own has beside that."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from ..result import Result
from ..units import count
from .curves import BIN, LEAST_STEPS, Curve

WINDOW = 4  # bins that are averaged: a factor of e in images
LEAST_SIZES = 4  # for a line with an error of its own
FALSE_ALARMS = 0.01  # of a sound run's whole training, over both quantities
QUANTITIES = ("grad_norm", "loss")
# What sizes scatter around the line in a window, rms of ln (docs/measured/early.md), and how many runs that counts as.
SCATTER, SCATTER_WEIGHT = 0.02, 8
# Beyond the sizes of the grid the line may bend: standard deviation of that, in ln, per squared ln of the distance.
BEND = 0.1
NAMES = {"grad_norm": "gradient norm", "loss": "training loss"}


@dataclass(frozen=True)
class Deviation(Result):
    """How far a run lies off the grid's runs in a window that ends at `images`: relative, beside the largest that sound
    runs show (`band`)."""

    quantity: str
    images: int
    deviation: float
    band: float

    @property
    def ratio(self) -> float:
        """The deviation in bands, signed: an alarm below -1 and above 1."""
        return math.log1p(self.deviation) / math.log1p(self.band)

    def __str__(self) -> str:
        side = "above" if self.deviation > 0 else "below"
        off = f"{100 * abs(self.deviation):.2g} % {side} the grid's runs at {count(self.images)} images"
        # In ln the band is as wide on both sides, so below it is a smaller share.
        limit = self.band if self.deviation > 0 else self.band / (1 + self.band)
        return f"{off}, where sound runs stay within {100 * limit:.2g} %"


@dataclass(frozen=True)
class Alarm(Result):
    """The first deviation of a quantity that left its band, and what it suggests."""

    deviation: Deviation
    share: float  # of the run's training
    suggests: str

    def __str__(self) -> str:
        name = NAMES[self.deviation.quantity]
        return f"{name} {self.deviation} ({100 * self.share:.2g} % of the run). Look for {self.suggests}"


def alarms_of(seen: Mapping[str, Sequence[Deviation]], n_images: float) -> tuple[Alarm, ...]:
    """The first alarm of each quantity, by the deviations of each."""
    first = {name: next((d for d in of if abs(d.ratio) > 1), None) for name, of in seen.items()}
    loss_moves = first.get("loss") is not None
    return tuple(Alarm(d, d.images / n_images, _suggestion(d, loss_moves)) for d in first.values() if d is not None)


def _suggestion(found: Deviation, loss_moves: bool) -> str:
    """What such a deviation comes from, as tried on the miniature (docs/measured/early.md)."""
    side = found.deviation > 0
    if found.quantity == "loss":
        harder = "damaged images, or images normalised otherwise than the grid's"
        return harder if side else "images normalised otherwise than the grid's, repeated, or of an easier set"
    if loss_moves:
        return "the cause of the other alarm first: the loss moved as well"
    return f"a learning rate that is too {'low' if side else 'high'}, which the loss does not show so early"


def deviations(grid: Sequence[Curve], run: Curve, quantity: str) -> list[Deviation]:
    """One for each window that at least LEAST_SIZES sizes of the grid have reached, first to last."""
    anchor, start = run.last, _start(grid, run)
    grid_bins = [curve.bins(quantity, anchor) for curve in grid]
    own = run.bins(quantity, anchor)
    values = [dict(zip(bins.place.tolist(), bins.value.tolist(), strict=True)) for bins in (*grid_bins, own)]
    *theirs, mine = values
    size = np.log([curve.n_params / run.n_params for curve in grid])
    common = 0.0 if run.seeds in {curve.seeds for curve in grid} else 1 + 1 / len({curve.seeds for curve in grid})
    noise = common * np.mean([_bin_noise(bins.value) for bins in (*grid_bins, own)]) / WINDOW
    # Windows side by side up to where the comparison will end. That windows overlap is made up for by what they share:
    # a run's own place beside the line stays the same (tools/bench/early.py simulates it).
    apart = max(1.0, math.log(min(_reach(grid), run.end) / start) / (WINDOW * BIN))
    chance = FALSE_ALARMS / (len(QUANTITIES) * apart)
    found = []
    for last in sorted(mine):
        window = range(last - WINDOW + 1, last + 1)
        rows = [i for i, value in enumerate(theirs) if all(k in value for k in window)]
        begun = anchor * math.exp(BIN * window[0]) >= start
        if not begun or not all(k in mine for k in window) or len({grid[i].n_params for i in rows}) < LEAST_SIZES:
            continue
        mean = lambda value: float(np.mean([value[k] for k in window]))
        expected, variance, freedom = _line(size[rows], np.array([mean(theirs[i]) for i in rows]))
        times = float(stdtrit(freedom, 1 - chance / 2))
        images, band = anchor * math.exp(BIN * (last + 1)), times * math.sqrt(variance + noise)
        found.append(Deviation(quantity, round(images), math.expm1(mean(mine) - expected), math.expm1(band)))
    return found


def least_images(grid: Sequence[Curve], run: Curve) -> float:
    """Images from which a comparison is possible, where the grid's runs have as many."""
    return _start(grid, run) * math.exp((WINDOW + 1) * BIN)


def _start(grid: Sequence[Curve], run: Curve) -> float:
    """Images at which every curve is beyond its warm-up and its first steps."""
    return max(
        max(curve.warmup, float(curve.images[LEAST_STEPS])) for curve in (*grid, run) if len(curve.images) > LEAST_STEPS
    )


def _line(size: np.ndarray, value: np.ndarray) -> tuple[float, float, int]:
    """(value of the line at size 0, variance of one more run around it, degrees of freedom of that)."""
    basis = np.stack([np.ones_like(size), size], 1)
    inverse = np.linalg.pinv(basis)
    squares = float(np.sum((value - basis @ (inverse @ value)) ** 2))
    freedom = SCATTER_WEIGHT + len(value) - 2
    variance = (SCATTER_WEIGHT * SCATTER**2 + squares) / freedom * (1 + float(inverse[0] @ inverse[0]))
    beyond = max(0.0, float(size.min()), float(-size.max()))
    return float(inverse[0] @ value), variance + (BEND * beyond**2) ** 2, freedom


def _bin_noise(value: np.ndarray) -> float:
    """Variance of one bin around a smooth curve, from second differences."""
    return float(np.mean(np.diff(value, 2) ** 2) / 6) if len(value) > 2 else 0.0


def _reach(grid: Sequence[Curve]) -> float:
    """Images up to which LEAST_SIZES sizes of the grid have been trained."""
    longest: dict[float, float] = {}
    for curve in grid:
        longest[curve.n_params] = max(longest.get(curve.n_params, 0.0), curve.last)
    return sorted(longest.values(), reverse=True)[:LEAST_SIZES][-1]
