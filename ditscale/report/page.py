"""`write_report`: the study as one HTML page that needs nothing else, and its figures as PNG and PDF."""

from __future__ import annotations

import datetime
from html import escape
from pathlib import Path

from .. import __version__
from ..files import make_directory, write_bytes, write_text
from ..naming import StudyPaths
from ..units import compact
from . import metrics, noise, sentences, tables
from .domains import domains_plot
from .metrics import metrics_plot
from .noise import noise_plot
from .powerlaws import powerlaws_plot
from .rates import rates_plot
from .read import Material, number, read_material
from .samples import data_uri, grids_plot, pairs, samples_plot
from .slices import slices_plot
from .style import Plot, css_variables, render
from .tables import code, superscripts
from .training import training_plot

PLOTS = (
    slices_plot,
    powerlaws_plot,
    training_plot,
    domains_plot,
    metrics_plot,
    noise_plot,
    rates_plot,
    samples_plot,
    grids_plot,
)


def write_report(root: Path | str) -> Path:
    """Write report/index.html and report/figures/ of a study, each file whole or not at all; returns the page's path.

    Parts that the study does not have yet are named on the page, with the command that gives them. Raises UserError
    when there is no study.h5 or no finished run.
    """
    material = read_material(root)
    paths = StudyPaths(root)
    figures = paths.report / "figures"
    make_directory(figures)
    shown, names = [], set()
    for make in PLOTS:
        plot = make(material)
        if plot is not None:
            svgs, png, pdf = render(plot)
            write_bytes(figures / f"{plot.name}.png", png)
            write_bytes(figures / f"{plot.name}.pdf", pdf)
            names |= {f"{plot.name}.png", f"{plot.name}.pdf"}
            shown.append((plot, svgs))
    for old in figures.iterdir():  # a figure of an earlier report that this one no longer has
        if old.suffix in (".png", ".pdf") and old.name not in names:
            old.unlink()
    page = paths.report / "index.html"
    write_text(page, html(material, shown))
    return page


def html(material: Material, shown: list[tuple[Plot, list[str]]]) -> str:
    """The whole page."""
    title = f"{'REHEARSAL of ' if material.study.rehearsal else ''}{material.study.name}: {sentences.title(material)}"
    style = Path(__file__).with_name("style.css").read_text()
    light, dark = css_variables(False), css_variables(True)
    body = [_head(material), _missing(material)]
    body += [_figure(i, material, plot, svgs) for i, (plot, svgs) in enumerate(shown, 1)]
    if material.laws:
        body.append(
            f"<h2>The laws in numbers</h2>{tables.laws_table(material)}<p>{escape(sentences.backtest(material))}</p>"
        )
        if rows := metrics.rows(material):
            head = [
                "metric",
                "data set",
                "form in C",
                "exponent of C (95 %)",
                "forecast at the probe (95 %)",
                "measured there",
            ]
            said = "".join(f"<p>{escape(s)}</p>" for s in metrics.sentences(material))
            body.append(
                "<h2>Other metrics at the loss's optimum</h2>"
                f"{tables.table(head, [[escape(c) for c in r] for r in rows], left=3)}{said}"
            )
        if rows := noise.rows(material):
            budgets = [compact(b) for b in material.budgets]
            head = [
                "noise level",
                f"loss at {budgets[0]}",
                f"at {budgets[-1]}",
                "exponent of C (95 %)",
                "forecast at the probe (95 %)",
                "measured there",
            ]
            body.append(
                "<h2>Loss by noise level, at the loss's optimum</h2>"
                f"{tables.table(head, [[escape(c) for c in r] for r in rows])}"
            )
        body.append(f"<h2>Slices</h2>{tables.slices_table(material)}")
        body.append(f"<h2>Findings</h2>{tables.findings_list(material)}")
    body.append(_runs(material))
    body.append(f"<h2>Runs left out</h2>{tables.excluded_table(material)}")
    body.append(f"<h2>The study as it was set</h2>{tables.settings(material)}")
    body.append(_foot(material))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>\n'
        f"<style>:root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f"{style}</style></head>\n<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def _head(material: Material) -> str:
    verdict = material.verdict
    out = [
        f'<header><p class="kicker">Scaling study {escape(material.study.name)}</p>'
        f"<h1>{superscripts(sentences.title(material))}</h1></header>"
    ]
    if material.study.rehearsal:
        said = escape(str(material.study.rehearsal))
        out.append(f'<section class="verdict failed"><h2>REHEARSAL, not a measurement</h2><p>{said}.</p></section>')
    two = material.laws and material.laws["approach2"]
    if two:
        tiles = []
        for law, symbol, what in (
            ("model", "N*", "optimal model size"),
            ("data", "D*", "optimal data"),
            ("loss", "L*", "loss at the optimum"),
        ):
            e = number(two[f"{law}_exponent"])
            tiles.append(
                f"<div><p>{what}</p><p class=big>{symbol} ∝ {superscripts(f'C^{e.value:.3f}')}</p>"
                f"<p><small>95 %: {escape(sentences.interval(e, sentences.exponent))}</small></p></div>"
            )
        out.append(f'<div class="tiles">{"".join(tiles)}</div>')
    if material.forecast:
        state, word = "open", "Not tested yet"
        if verdict:
            state, word = ("held", "The forecast held") if verdict["inside"] else ("failed", "The forecast failed")
        out.append(
            f'<section class="verdict {state}"><h2>{word}</h2><p>{escape(sentences.verdict(material))}</p>'
            f"<p>{escape(sentences.said(material))}</p></section>"
        )
    else:
        out.append(f"<p>{escape(sentences.said(material))}</p>")
    out.append("".join(f"<p>{superscripts(s)}</p>" for s in sentences.found(material)))
    return "\n".join(out)


def _missing(material: Material) -> str:
    if not material.missing:
        return ""
    items = "".join(f"<li>{escape(m.what)}: {code(m.command)}</li>" for m in material.missing)
    return (
        '<section class="missing"><h2>Not in this report yet</h2>'
        f"<p>DIR is the directory of this study.</p><ul>{items}</ul></section>"
    )


def _figure(i: int, material: Material, plot: Plot, svgs: list[str]) -> str:
    if plot.name == "samples":
        cells = []
        for caption, made, held in pairs(material):
            alt = escape(caption, quote=True)
            images = (
                f'<img src="{data_uri(made)}" alt="generated: {alt}"><img src="{data_uri(held)}" alt="held out: {alt}">'
            )
            cells.append(f"<li>{images}<span>{escape(caption)}</span></li>")
        content = f'<ul class="samples">{"".join(cells)}</ul>'
    else:
        content = f'<div class="panels n{plot.columns}">{"".join(svgs)}</div>'
    files = (
        f'<small>figures/{plot.name}: <a href="figures/{plot.name}.png">PNG</a>, '
        f'<a href="figures/{plot.name}.pdf">PDF</a></small>'
    )
    return (
        f'<h2>{escape(plot.title)}</h2><figure id="{plot.name}">{content}'
        f"<figcaption><b>Figure {i}.</b> {superscripts(plot.caption)} {files}</figcaption></figure>"
    )


def _runs(material: Material) -> str:
    counts = "".join(f"<dt>{escape(k)}</dt><dd>{code(v)}</dd>" for k, v in sentences.counting(material))
    return (
        f"<h2>Runs</h2><p>{escape(sentences.plural(len(material), 'run'))}, {escape(tables.total_time(material))}. "
        "Each name leads to the run's directory, which holds its record.</p>"
        f"{tables.runs_table(material)}<h2>What the numbers count</h2><dl>{counts}</dl>"
    )


def _foot(material: Material) -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [f"Written by ditscale {__version__}, {now}"]
    if material.laws:
        b = material.laws["bootstrap"]
        parts.append(
            f"intervals from {b['replicates']} bootstrap replicates (seed {b['seed']}; {b['approach2']}), objective"
            f" {material.laws['objective']}"
        )
    if material.forecast:
        parts.append(f"forecast sha256 {material.forecast['sha256']}, of inputs {material.forecast['inputs_sha256']}")
    return f"<footer><p>{escape('; '.join(parts))}.</p></footer>"
