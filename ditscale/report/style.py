"""How figures look, and how they are saved: SVG for the page (colours follow light and dark mode), PNG and PDF."""

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure, FigureBase
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from ..laws import Estimate
from ..laws.text import Format
from ..units import compact
from . import html
from .html import INK, MUTED, PAPER, RULE

STEPS = 24
LABELS = (0.06, 0.99)  # Where labels may stand, as fractions of the height of the axes.
# viridis: even in lightness, so the order survives colour blindness and a grey printer. Its ends are cut where they
# would fade into the page: the yellow one on white, the purple one on black.
RAMP = [to_hex(colormaps["viridis"](x)) for x in np.linspace(0.0, 0.8, STEPS)]
# The same for letters, which are thinner than marks: darker the lighter the colour is.
LETTERS = {c: to_hex(tuple((1 - 0.4 * i / STEPS) * np.array(to_rgb(c)))) for i, c in enumerate(RAMP)}
# What each colour becomes on a dark page.
DARK = dict(zip(RAMP, [to_hex(colormaps["viridis"](x)) for x in np.linspace(0.42, 1.0, STEPS)], strict=True))
DARK |= {LETTERS[c]: DARK[c] for c in RAMP}
DARK |= html.DARK

RC: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 10, "axes.labelsize": 10,
    "axes.titlesize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "axes.linewidth": 0.8, "lines.dashed_pattern": (6, 2), "lines.dotted_pattern": (1, 1.5),
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.7,
    "axes.axisbelow": True, "axes.titlelocation": "left", "axes.titleweight": "bold", "lines.linewidth": 1.6,
    "mathtext.default": "regular", "legend.frameon": False, "legend.fontsize": 9, "legend.labelcolor": MUTED,
    "svg.fonttype": "path", "svg.hashsalt": "ditscale", "pdf.fonttype": 42, "savefig.dpi": 200,
}  # fmt: skip
Limits = tuple[float, float]
RANGE = (1e-290, 1e290)  # What lies outside is not drawn: matplotlib's logarithmic axes overflow there.


class Panel(NamedTuple):
    """One drawing: a function that fills a matplotlib figure, its size in inches, and its content in words."""

    draw: Callable[[FigureBase], None]
    width: float
    height: float
    alt: str


class Plot(NamedTuple):
    """A figure of the report. Panels stand side by side, `columns` to a row, where the page is wide enough."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int = 1


class Label(NamedTuple):  # Text beside the end of a line, which is at (x, y).
    x: float
    y: float
    text: str
    colour: str


def sequence(n: int) -> list[str]:
    """n colours in order, dark to light; the darkest and the lightest for two, the middle for one."""
    return [RAMP[STEPS // 2]] if n == 1 else [RAMP[round(i * (STEPS - 1) / (n - 1))] for i in range(n)]


def colours(values: Iterable[float]) -> dict[float, str]:
    distinct = sorted({float(v) for v in values})
    return dict(zip(distinct, sequence(len(distinct)), strict=True))


def two_rows(figure: FigureBase, ratio: float) -> tuple[Axes, Axes]:
    """Axes above axes that share x, the upper ones `ratio` times as high."""
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(ratio, 1))
    top.tick_params(labelbottom=False)
    return top, below


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between low and high, at least three where the range allows, as dense as `most` allows."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    families: list[Sequence[float]] = [(1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(1, 10)]
    families += [[x / n for x in range(n, 10 * n)] for n in (2, 5, 10, 50)]
    ticks: list[float] = []
    for family in families:
        denser = [t for d in decades for m in family if low <= (t := float(f"{m * 10.0**d:.6g}")) <= high]
        if len(ticks) >= 4 or len(ticks) == 3 and len(denser) > most:
            break
        ticks = denser
    return ticks[:: max(1, -(-len(ticks) // most))]


def log_axis(axes: Axes, which: str, ends: Limits, label: str, form: Format = compact, most: int = 7) -> None:
    """Make the "x" or "y" axis logarithmic, with ticks a person would choose."""
    low, high = np.clip(ends, *RANGE).tolist()
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high), f"{which}label": label})
    ticks = log_ticks(low, high, most)
    axes.set(**{f"{which}ticks": ticks, f"{which}ticklabels": [form(tick) for tick in ticks]})
    getattr(axes, f"{which}axis").set_minor_locator(NullLocator())


def limits(*values: ArrayLike, margin: float = 0.06, right: float = 0.0) -> Limits:
    """The range of positive finite values, or 1 to 10; widened at both ends, then at the right, in its logarithm."""
    x = np.concatenate([np.ravel(np.asarray(v, dtype=float)) for v in values])
    x = np.log(x[(x > RANGE[0]) & (x < RANGE[1])])
    if not len(x):
        return 1.0, 10.0
    pad = max(margin * (x.max() - x.min()), 0.02)
    low, high = x.min() - pad, x.max() + pad
    return math.exp(max(low, -700)), math.exp(min(high + right * (high - low), 700))


def bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Intervals as error bars [[below], [above]]; an open end has none."""
    below = [0.0 if e.low is None else max(e.value - e.low, 0.0) for e in estimates]
    return [below, [0.0 if e.high is None else max(e.high - e.value, 0.0) for e in estimates]]


def label_ends(axes: Axes, labels: Iterable[Label], gap: float = 0.055, x: float | None = None, **style: Any) -> None:
    """Write labels beside the ends of lines, pushed apart where they would overlap. gap: least distance as a fraction
    of the axes' height; x: where all labels start, as a fraction of the width (default: right of their own x)."""
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = [(*to_axes.transform((label.x, label.y)), label) for label in labels]
    placed = sorted((at for at in placed if math.isfinite(at[0] + at[1])), key=lambda at: at[1])
    halo = [withStroke(linewidth=2.5, foreground=PAPER)]  # A label stays readable on top of a curve.
    look = {"fontsize": 9, "va": "center", "annotation_clip": False, "zorder": 9, "path_effects": halo, **style}
    for (own_x, _, label), y in zip(placed, spread([at[1] for at in placed], gap), strict=True):
        at, color = ((own_x if x is None else x) + 0.015, y), LETTERS.get(label.colour, label.colour)
        axes.annotate(label.text, at, xycoords="axes fraction", color=color, **look)


def spread(ys: list[float], gap: float) -> list[float]:
    """Rising positions within LABELS, moved to lie at least `gap` apart: neighbours that collide share a centre."""
    blocks: list[tuple[float, int]] = []  # (mean of wanted first positions, members)
    for y in ys:
        blocks.append((y, 1))
        while len(blocks) > 1 and blocks[-1][0] < blocks[-2][0] + gap * blocks[-2][1]:
            start, n = blocks.pop()
            first, m = blocks.pop()
            blocks.append(((first * m + (start - gap * m) * n) / (m + n), m + n))
    inside = [(max(LABELS[0], min(start, LABELS[1] - gap * (n - 1))), n) for start, n in blocks]
    return [start + gap * k for start, n in inside for k in range(n)]


def render(plot: Plot) -> tuple[list[str], dict[str, bytes]]:
    """SVG text of each panel; "png" and "pdf" of the whole figure."""
    with rc_context(RC), np.errstate(all="ignore"):  # Whatever overflows is not drawn.
        svgs = []
        for i, panel in enumerate(plot.panels):
            figure = Figure(figsize=(panel.width, panel.height), layout="constrained")
            panel.draw(figure)
            svgs.append(themed(_save(figure, "svg").decode(), f"{plot.name}-{i}", panel.alt))
        rows, first = -(-len(plot.panels) // plot.columns), plot.panels[0]
        figure = Figure(figsize=(first.width * plot.columns, first.height * rows), layout="constrained")
        parts = figure.subfigures(rows, plot.columns, squeeze=False).ravel()
        for part, panel in zip(parts, plot.panels, strict=False):
            panel.draw(part)
        return svgs, {kind: _save(figure, kind) for kind in ("png", "pdf")}


def _save(figure: Figure, form: str) -> bytes:
    out = io.BytesIO()
    # Without dates and versions the same study gives the same files.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[form]
    colour: dict[str, Any] = {"transparent": True} if form == "svg" else {"facecolor": "white"}
    figure.savefig(out, format=form, metadata=metadata, **colour)
    return out.getvalue()


def themed(svg: str, name: str, alt: str) -> str:
    """An SVG file as an element of the page: its colours are CSS variables, its ids unique, and nothing external."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    for before, after in (('id="', '"'), ('href="#', '"'), (r"url\(#", r"\)")):
        svg = re.sub(f'({before})([^"()]+)({after})', rf"\g<1>{name}-\2\3", svg)
    # A hundredth of a point is enough for a curve; scales keep their digits.
    svg = re.sub(r'\bd="[^"]*"', lambda path: re.sub(r"(\d\.\d\d)\d+", r"\1", path[0]), svg)
    for colour in DARK:
        svg = svg.replace(colour, f"var(--c{colour[1:]})")
    width, height = map(float, svg.split('viewBox="0 0 ')[1].split('"')[0].split())
    head = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width:g} {height:g}"'
    return f'{head} style="max-width:{width * 1.4:.0f}px">{svg[svg.index(">") + 1 :]}'
