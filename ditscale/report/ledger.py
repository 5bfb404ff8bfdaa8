"""The record of several studies' forecasts in a report: its table, and the figure of how far off they were."""

from functools import partial
from html import escape
from typing import Any

from matplotlib.figure import FigureBase

from ..laws import Entry, Estimate, Ledger
from ..laws.sealed.ledger import HEAD
from ..laws.text import short
from .html import ACCENT, INK, MUTED, PAPER, table
from .read import StudyResults
from .sentences import plural
from .style import Panel, Plot, bars, limits, log_axis

MOST_NAMES = 16  # More forecasts than these are drawn without their names, which would lie over each other.


def ledger_section(ledger: Ledger) -> str:
    """The table and the sum, as HTML; rehearsals apart."""
    every, *parts = ledger.scores
    rows = {
        kind: [list(map(escape, e.cells())) for e in ledger.entries if e.rehearsal == kind] for kind in (False, True)
    }
    out = (
        f"<h2>The record of forecasts</h2>{table(HEAD, rows[False], left=2)}<p>{escape(_sentence(every.sentence))}</p>"
    )
    items = "".join(f"<dt>{escape(part.beyond)}</dt><dd>{escape(_sentence(part.sentence))}</dd>" for part in parts)
    out += f"<p>By distance beyond the grid:</p><dl>{items}</dl>" * bool(items)
    return out + ("<h3>Rehearsals, never counted</h3>" + table(HEAD, rows[True], left=2)) * bool(rows[True])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def ledger_plot(results: StudyResults) -> Plot | None:
    """Each forecast's interval relative to it, with what was measured; None without a ledger or a forecast in it."""
    shown = [e for e in results.ledger.entries if not e.rehearsal] if results.ledger else []
    if not shown:
        return None
    waiting = f"{sum(e.measured is None for e in shown)} without a verdict yet, in grey"
    text = f"{plural(len(shown), 'sealed forecast')}; {waiting}. Bars: the interval of one new run, relative to the "
    text += "forecast; an end that is open has none. Marks: what was measured, hollow where it lies outside. The axis "
    text += "is logarithmic, since the distance beyond a grid is a ratio."
    panel = Panel(partial(_draw, shown), 7.5, 4.2, f"Intervals and measured values of {plural(len(shown), 'forecast')}")
    return Plot("ledger", "Forecasts of all studies and what was measured", text, (panel,))


def _draw(shown: list[Entry], figure: FigureBase) -> None:
    axes, places = figure.subplots(), _places([e.factor for e in shown])
    for x, e in zip(places, shown, strict=True):
        low, high = (None if end is None else _off(e, end) for end in (e.forecast.low, e.forecast.high))
        colour = MUTED if e.measured is None else INK
        axes.errorbar(x, 0, bars([Estimate(0, low, high)]), fmt="_", ms=8, color=colour, elinewidth=1.6, capsize=4)
        if e.measured is not None:
            look: Any = {"mfc": ACCENT if e.inside else PAPER, "mec": ACCENT, "mew": 1.6, "ms": 7, "zorder": 5}
            axes.plot(x, _off(e, e.measured), "o", **look)
        if len(shown) <= MOST_NAMES:
            top = max(v for v in (0, high, None if e.measured is None else _off(e, e.measured)) if v is not None)
            name = axes.annotate(e.name[:24], (x, top), xytext=(0, 8), textcoords="offset points", fontsize=8)
            name.set(rotation=90, ha="center", va="bottom", color=MUTED, parse_math=False)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.margins(y=0.3)
    log_axis(axes, "x", limits(places, margin=0.12), "budget of the forecast / largest budget of its grid", short, 6)
    axes.set(ylabel="relative to the forecast, %")


def _off(e: Entry, value: float) -> float:
    """A value relative to the forecast, in %; above it is positive, also of a metric that is negative."""
    return 100 * (value - e.forecast.value) / abs(e.forecast.value)


def _places(factors: list[float]) -> list[float]:
    """Where the forecasts stand: at their factor, beside each other where that is the same within 2 %."""
    placed: list[float] = []
    for x in factors:
        while any(abs(x / other - 1) < 0.02 for other in placed):
            x *= 1.04
        placed.append(x)
    return placed
