"""The page of a decision: what `decide` says, with the frontier drawn by hand, so that no figure library is loaded."""

import datetime
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from .. import __version__
from ..decision.answer import Decision, change_cells
from ..files import make_directory, write_text
from ..laws.estimates import Estimate
from ..laws.text import cells, ends, short
from ..quantities import at_optimum
from ..tables.table import Table
from ..units import compact, count
from .html import ACCENT, INK, MUTED, RULE, document, superscripts, table

WIDTH, HEIGHT = 460, 280  # of a drawing, in its own units
LEFT, RIGHT, BOTTOM, TOP = 62, 26, 36, 14
Points = Sequence[tuple[float, float]]
Form = Callable[[float], str]


def write_decision(made: Decision, runs: Table, path: Path | str) -> Path:
    """Write the page of a decision, whole or not at all. runs: the table that it was made from."""
    path = Path(path)
    make_directory(path.parent)
    write_text(path, html(made, runs))
    return path


def html(made: Decision, runs: Table) -> str:
    heading = escape(made.heading())
    body = [f'<header><p class="kicker">Decision by the law of {escape(made.source)}</p><h1>{heading}</h1></header>']
    if runs.rehearsal:
        body.append('<section class="verdict outside"><h2>REHEARSAL, not a measurement</h2></section>')
    body.append(_tiles(made))
    for title, text in (("Train", made.train), ("It costs", made.costs)):
        body.append(f"<p><b>{title}</b> {escape(text)}.</p>" if text else "")
    body.append(f"<p>{escape(made.regrets)}</p>" if made.regrets else "")
    body.append(_figure(made, runs))
    rows = [[escape(name), *map(escape, cells(e, form))] for name, e, form in made.numbers]
    body += ["<h2>In numbers</h2>", table(("", "value", "95 % interval"), rows)]
    changes = [[*map(escape, change_cells(c))] for c in made.changes]
    head = ("if this were so", "N*", "of the answer's", made.metric, "this size would lose")
    body += ["<h2>What would change the answer</h2>", table(head, changes), f"<p>{escape(made.turns_on)}</p>"]
    body.append(f"<p>{superscripts(made.add)}</p>")
    body += [f"<p>{escape(note)}</p>" for note in made.notes]
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    foot = f"Written by ditscale {__version__}, {now}. Intervals are 95 %; those of hours and days are as far as the"
    body.append(f"<footer><p>{foot} speed is trusted.</p></footer>")
    return document(made.heading(), "\n".join(filter(None, body)))


def _tiles(made: Decision) -> str:
    def tile(what: str, value: str, below: str) -> str:
        return f"<div><p>{what}</p><p class=big>{value}</p><p><small>{below}</small></p></div>"

    def interval(e: Estimate, form: Form) -> str:
        return f"95 %: {ends(e, form, ' to ') or 'no interval'}"

    m, c = made.model, made.cost
    shown = [tile("model", f"{m.width} x {m.depth}", f"N = {count(m.n_params)}, D = {count(m.n_tokens)}")] if m else []
    shown.append(tile("optimal size", f"N* = {count(made.n_params.value)}", interval(made.n_params, count)))
    loss = made.loss or made.optimum
    shown.append(tile(made.metric, short(loss.value), interval(loss, short)))
    if c:
        shown.append(tile(f"{c.device}-hours", compact(c.device_hours.value), ends(c.device_hours, compact, " to ")))
        shown.append(tile("days", compact(c.days.value), ends(c.days, compact, " to ")))
    return f'<div class="tiles">{"".join(shown)}</div>'


def _figure(made: Decision, runs: Table) -> str:
    """N* and the metric at the optimum against the budget: the runs, the law with its interval, and the decision."""
    grid, xs = runs.grid(), [place.budget_flops for place in made.frontier]
    budgets = grid.budget_flops.tolist()
    size = float(made.model.n_params) if made.model else made.n_params.value
    panels = (
        ("N*", [p.n_params for p in made.frontier], list(zip(budgets, grid.n_params.tolist())), size, count),
        (at_optimum(made.metric), [p.loss for p in made.frontier], list(zip(budgets, grid.loss.tolist())),
         (made.loss or made.optimum).value, short),
    )  # fmt: skip
    drawn = "".join(_panel(name, xs, law, points, value, form) for name, law, points, value, form in panels)
    caption = "The runs (grey), the optimum by the law with its 95 % interval, and what is decided (orange)."
    return f'<figure><div class="panels n2">{drawn}</div><figcaption>{caption}</figcaption></figure>'


def _panel(
    name: str,
    xs: Sequence[float],
    law: Sequence[Estimate],
    points: Points,
    decided: float,
    form: Form,
) -> str:
    """One drawing on logarithmic axes, or on a linear one where a value is not positive."""
    lows = [e.value if e.low is None else e.low for e in law]
    highs = [e.value if e.high is None else e.high for e in law]
    ys = [*lows, *highs, *(y for _, y in points), decided]
    scale: Callable[[float], float] = math.log if min(ys) > 0 else float
    y_low, y_high = scale(min(ys)), scale(max(ys))
    x_low, x_high = math.log(min(xs[0], *(x for x, _ in points))), math.log(xs[-1])

    def at(x: float, y: float) -> str:
        across = (math.log(x) - x_low) / (x_high - x_low or 1)
        up = (scale(y) - y_low) / (y_high - y_low or 1)
        return f"{LEFT + across * (WIDTH - LEFT - RIGHT):.1f},{HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP):.1f}"

    def dot(x: float, y: float, radius: float, colour: str) -> str:
        cx, cy = at(x, y).split(",")
        return f'<circle cx="{cx}" cy="{cy}" r="{radius}" fill="{_colour(colour)}"/>'

    band = [at(x, y) for x, y in zip(xs, lows)] + [at(x, y) for x, y in zip(reversed(xs), reversed(highs))]
    line = " ".join(at(x, e.value) for x, e in zip(xs, law))
    label = f'font-size="12" fill="{_colour(MUTED)}"'
    inverse: Callable[[float], float] = math.exp if scale is math.log else float
    marks = [
        f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM - f * (HEIGHT - BOTTOM - TOP) + 4:.1f}" text-anchor="end" {label}>'
        f"{form(inverse(y_low + f * (y_high - y_low)))}</text>"
        for f in (0, 0.5, 1)
    ]
    marks += [
        f'<text x="{LEFT + f * (WIDTH - LEFT - RIGHT):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" {label}>'
        f"{compact(math.exp(x_low + f * (x_high - x_low)))}</text>"
        for f in (0, 0.5, 1)
    ]
    title = f'<text x="{LEFT}" y="{HEIGHT - 4}" font-size="12" fill="{_colour(INK)}">{escape(name)} by FLOPs</text>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)} against the budget in FLOPs">'
        f'<polygon points="{" ".join(band)}" fill="{_colour(RULE)}"/>'
        + "".join(dot(x, y, 2.2, MUTED) for x, y in points)
        + f'<polyline points="{line}" fill="none" stroke="{_colour(INK)}" stroke-width="1.6"/>'
        + dot(xs[-1], decided, 5, ACCENT) + "".join(marks) + title + "</svg>"
    )  # fmt: skip


def _colour(colour: str) -> str:
    """The variable of style.css that follows light and dark."""
    return f"var(--c{colour[1:]})"
