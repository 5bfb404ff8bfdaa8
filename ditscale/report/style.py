"""How figures look, and how they leave: as SVG for the page (colours follow light and dark mode), as PNG and PDF."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from ..units import compact

# Each colour, and what it becomes on a dark page.
INK, MUTED, RULE, PAPER, ACCENT = "#1b1f24", "#666e78", "#dde1e6", "#fffffe", "#c8510a"
STEPS = 24
LABELS = (0.06, 0.99)  # where labels may stand, as fractions of the height of the axes
# viridis: even in lightness, so the order survives colour blindness and a grey printer. Its ends are cut where they
# would fade into the page: the yellow one on white, the purple one on black.
RAMP = [to_hex(colormaps["viridis"](x)) for x in np.linspace(0.0, 0.8, STEPS)]
# The same for letters, which are thinner than marks: darker the lighter the colour is.
LETTERS = {c: to_hex([(1 - 0.4 * i / STEPS) * v for v in to_rgb(c)]) for i, c in enumerate(RAMP)}
DARK = dict(zip(RAMP, [to_hex(colormaps["viridis"](x)) for x in np.linspace(0.42, 1.0, STEPS)], strict=True))
DARK |= {LETTERS[c]: DARK[c] for c in RAMP}
DARK |= {INK: "#e8eaed", MUTED: "#a2abb5", RULE: "#363c44", PAPER: "#15181c", ACCENT: "#ff9a55"}

RC = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 10,
    "axes.labelsize": 10, "axes.titlesize": 10,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.7,
    "axes.axisbelow": True, "axes.titlelocation": "left", "axes.titleweight": "bold", "lines.linewidth": 1.6,
    "mathtext.default": "regular",
    "svg.fonttype": "path", "svg.hashsalt": "ditscale", "pdf.fonttype": 42, "savefig.dpi": 200,
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One drawing: a function that fills a matplotlib figure, its size in inches, and its content in words."""

    draw: Callable
    width: float
    height: float
    alt: str


@dataclass(frozen=True)
class Plot:
    """A figure of the report. Panels stand side by side, `columns` to a row, where the page is wide enough."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int = 1


def sequence(n: int) -> list[str]:
    """n colours in order, dark to light; the darkest and the lightest for two, the middle for one."""
    if n == 1:
        return [RAMP[STEPS // 2]]
    return [RAMP[round(i * (STEPS - 1) / (n - 1))] for i in range(n)]


# ------------------------------------------------------------------------------------------------------------- axes


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between low and high, at least three where the range allows, as dense as `most` allows."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    families = [(1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(1, 10)]
    families += [[x / n for x in range(n, 10 * n)] for n in (2, 5, 10, 50)]
    found = []
    for family in families:
        ticks = [float(f"{m * 10.0**d:.6g}") for d in decades for m in family]
        ticks = [t for t in ticks if low <= t <= high]
        if len(ticks) > most and len(found) >= 3:
            break
        found = ticks
        if len(found) >= 4:
            break
    return found[:: max(1, -(-len(found) // most))]


def log_axis(axis, low: float, high: float, label: str, form=compact, most: int = 7):
    """Make a matplotlib axis logarithmic from low to high, with ticks a person would choose."""
    axes = axis.axes
    if axis is axes.xaxis:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
    ticks = log_ticks(low, high, most)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([form(t) for t in ticks]))
    axis.set_minor_locator(NullLocator())
    axis.set_label_text(label)


def limits(*values, margin: float = 0.06) -> tuple[float, float]:
    """The range of all positive finite values, widened by a fraction `margin` of its logarithm."""
    x = np.concatenate([np.atleast_1d(np.asarray(v, dtype=float)).ravel() for v in values])
    x = np.log(x[np.isfinite(x) & (x > 0)])
    pad = max(margin * (x.max() - x.min()), 0.02)
    return math.exp(x.min() - pad), math.exp(x.max() + pad)


def label_lines(axes, entries, gap: float = 0.055, x: float | None = None, **style):
    """Write (x, y, text, colour) beside the ends of lines, pushed apart where they would overlap.

    gap: least distance as a fraction of the axes' height. x: where all labels start, as a fraction of the width;
    without it each starts right of its own x.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted(
        ([*to_axes.transform((ex, ey)), text, colour] for ex, ey, text, colour in entries), key=lambda e: e[1]
    )
    ys = spread([p[1] for p in placed], gap)
    for (own_x, _, text, colour), y in zip(placed, ys, strict=True):
        at = (own_x if x is None else x) + 0.015
        style = {"fontsize": 9, "va": "center", **style}
        halo = [withStroke(linewidth=2.5, foreground=PAPER)]  # a label stays readable on top of a curve
        axes.annotate(
            text,
            (at, y),
            xycoords="axes fraction",
            color=LETTERS.get(colour, colour),
            annotation_clip=False,
            path_effects=halo,
            zorder=9,
            **style,
        )


def spread(ys: list[float], gap: float) -> list[float]:
    """Rising positions moved as little as needed to lie at least `gap` apart: neighbours that collide share a centre.

    All stay within LABELS, clear of what is written outside the axes.
    """
    blocks = []  # [mean of wanted first positions, members]
    for y in ys:
        blocks.append([y, 1])
        while len(blocks) > 1 and blocks[-1][0] < blocks[-2][0] + gap * blocks[-2][1]:
            start, n = blocks.pop()
            first, m = blocks.pop()
            blocks.append([(first * m + (start - gap * m) * n) / (m + n), m + n])
    inside = [(max(LABELS[0], min(start, LABELS[1] - gap * (n - 1))), n) for start, n in blocks]
    return [start + gap * k for start, n in inside for k in range(n)]


# ------------------------------------------------------------------------------------------------------------ output


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def render(plot: Plot) -> tuple[list[str], bytes, bytes]:
    """(SVG text of each panel, PNG of the whole figure, PDF of it)."""
    with matplotlib.rc_context(RC):
        svgs = []
        for i, panel in enumerate(plot.panels):
            figure = _figure(panel.width, panel.height)
            panel.draw(figure)
            svgs.append(themed(_save(figure, "svg").decode(), f"{plot.name}-{i}", panel.alt))
        rows = -(-len(plot.panels) // plot.columns)
        figure = _figure(plot.panels[0].width * plot.columns, plot.panels[0].height * rows)
        for part, panel in zip(
            np.ravel(figure.subfigures(rows, plot.columns, squeeze=False)), plot.panels, strict=False
        ):
            panel.draw(part)
        return svgs, _save(figure, "png"), _save(figure, "pdf")


def _save(figure: Figure, form: str) -> bytes:
    out = io.BytesIO()
    # Without dates and versions the same study gives the same files.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[form]
    figure.savefig(
        out,
        format=form,
        metadata=metadata,
        transparent=form == "svg",
        **({} if form == "svg" else {"facecolor": "white"}),
    )
    return out.getvalue()


def themed(svg: str, name: str, alt: str) -> str:
    """An SVG file as an element of the page: colours become CSS variables, ids unique, everything external goes."""
    from html import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    # A hundredth of a point is enough for a curve; scales keep their digits.
    svg = re.sub(r'\bd="[^"]*"', lambda path: re.sub(r"(\d\.\d\d)\d+", r"\1", path[0]), svg)
    for colour in DARK:
        svg = svg.replace(colour, f"var(--c{colour[1:]})")
    width, height = (float(v) for v in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    head = (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width:g} {height:g}"'
        f' style="max-width:{width * 1.4:.0f}px">'
    )
    return head + svg[svg.index(">") + 1 :]


def css_variables(dark: bool) -> str:
    """The colours as CSS variables, for one of the two modes."""
    return "".join(f"--c{light[1:]}:{other if dark else light};" for light, other in DARK.items())
