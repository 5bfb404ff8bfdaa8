"""One forecast of the ledger with its verdict, and what the verdicts of several come to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...result import Result
from ...units import compact
from ..estimates import Estimate
from ..text import ends, short

HEAD = ["name", "metric", "at", "beyond", "forecast", "95 %", "width", "measured", "error", ""]
WIDE = 1.5  # An interval whose high / low is above this says little where it holds.
FEWEST = 5  # Fewer verdicts than this say nothing of calibration.
LEANS = 0.05  # p of the two-sided sign test, below which errors are said to lean to one side.


@dataclass(frozen=True)
class Entry(Result):
    """A forecast as it was sealed, and what its probe measured: measured, run_id and n_params (the probe's N) are None
    while it waits. n_params_forecast: N*. version: of the ditscale that entered it. Relative numbers are to the
    forecast; an open interval has no width."""

    LAYOUT = 1
    COMPUTED = ("relative_width", "relative_error", "inside")

    name: str
    metric: str
    target_budget_flops: float
    factor: float
    created: str
    level: float
    forecast: Estimate
    n_params_forecast: float
    law: str
    n_runs: int
    rehearsal: bool
    forecast_sha256: str
    inputs_sha256: str
    version: str
    measured: float | None = None
    run_id: str | None = None
    n_params: float | None = None

    def contradiction(self) -> str:
        ranges = self.forecast.value and self.factor > 0 and self.target_budget_flops > 0 and 0 < self.level < 1
        return "" if ranges else "its forecast, its level or how far it is beyond the grid is none that is ever sealed"

    @property
    def relative_width(self) -> float | None:
        low, high = self.forecast.low, self.forecast.high
        return None if low is None or high is None else (high - low) / abs(self.forecast.value)

    @property
    def relative_error(self) -> float | None:
        return None if self.measured is None else self.measured / self.forecast.value - 1

    @property
    def inside(self) -> bool | None:
        return None if self.measured is None else self.forecast.covers(self.measured)

    @property
    def wide(self) -> bool:
        near, far = sorted((self.forecast.low or 0.0, self.forecast.high or 0.0), key=abs)
        return near * far <= 0 or far / near > WIDE

    def cells(self) -> list[str]:
        """The row of the record under HEAD."""
        width, error = (None if x is None else 100 * x for x in (self.relative_width, self.relative_error))
        state = {None: "waiting", True: "held", False: "missed"}[self.inside]
        return [
            self.name, self.metric, compact(self.target_budget_flops), f"{self.factor:.3g}x",
            short(self.forecast.value), ends(self.forecast), "open" if width is None else f"{width:.3g} %",
            "" if self.measured is None else short(self.measured), "" if error is None else f"{error:+.2g} %",
            state + ", wide" * self.wide,
        ]  # fmt: skip


@dataclass(frozen=True)
class Score(Result):
    """What the verdicts of some entries come to. beyond: "all", or the range of distances beyond the grid. expected:
    how many hold by the intervals' level; chance: of `held` or fewer by it, were the verdicts independent; wide: how
    many of those held have a wide interval. median_width, median_error: relative, of absolute errors. above: how many
    measured values lie above the forecast; one_sided: p of the two-sided sign test of that. None: too few verdicts."""

    beyond: str
    verdicts: int
    held: int
    expected: float
    chance: float | None
    wide: int
    median_width: float | None
    median_error: float | None
    above: int
    one_sided: float | None

    @property
    def sentence(self) -> str:
        if not self.verdicts:
            return "no verdict yet"
        text = f"held {self.held} of {self.verdicts}"
        if self.chance is not None:
            level = f"{100 * self.expected / self.verdicts:.3g} % intervals: {self.expected:.3g} expected"
            text += f" ({level}; the chance of {self.held} or fewer is {self.chance:.2g})"
        if self.wide:
            text += f", {self.wide} of them by an interval so wide that it says little"
        for name, x in (("median width", self.median_width), ("median absolute error", self.median_error)):
            text += "" if x is None else f"; {name} {100 * x:.2g} %"
        if self.one_sided is not None and self.one_sided < LEANS:
            most, side = max((self.above, "above"), (self.verdicts - self.above, "below"))
            text += f"; errors lean to one side: {most} lie {side} the forecast (sign test, p = {self.one_sided:.2g})"
        return text


def score(entries: Sequence[Entry], beyond: str = "all") -> Score:
    """The score of the entries that have a verdict."""
    judged = [e for e in entries if e.measured is not None]
    n, held = len(judged), [e for e in judged if e.inside]
    widths = [e.relative_width for e in judged if e.relative_width is not None]
    errors = [abs(e.relative_error) for e in judged if e.relative_error is not None]
    above = sum(e.measured > e.forecast.value for e in judged if e.measured is not None)
    enough, halves = n >= FEWEST, [0.5] * n
    return Score(
        beyond, n, len(held), sum(e.level for e in judged),
        at_most(len(held), [e.level for e in judged]) if enough else None, sum(e.wide for e in held),
        float(np.median(widths)) if widths else None, float(np.median(errors)) if errors else None,
        above, min(1.0, 2 * at_most(min(above, n - above), halves)) if enough else None,
    )  # fmt: skip


def at_most(k: int, chances: Sequence[float]) -> float:
    """The chance that k or fewer of independent events happen: the binomial, where all have the same chance."""
    counts = np.ones(1)
    for p in chances:
        counts = np.convolve(counts, [1 - p, p])
    return min(1.0, float(counts[: k + 1].sum()))
