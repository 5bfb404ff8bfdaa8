"""`write_report`: the study as one HTML page that needs nothing else, and its figures as PNG and PDF."""

import datetime
from dataclasses import replace
from html import escape
from pathlib import Path

from .. import __version__
from ..files import make_directory, write_bytes, write_text
from ..launch.monitor.status import study_status
from ..laws import Laws, Ledger, read_ledger
from ..laws.text import ends
from ..naming import StudyPaths
from ..price.spent import total
from ..units import compact, duration
from . import sentences, tables
from .html import code, document, superscripts
from .isoflop import powerlaws_plot, slices_plot
from .ledger import ledger_plot, ledger_section
from .read import StudyResults, read_study_results
from .samples import grids_plot, page_list, samples_plot
from .style import DARK, Plot, render
from .training import rates_plot, training_plot
from .trends import metrics_plot, noise_plot, out_of_domain_plot

PLOTS = (
    slices_plot, powerlaws_plot, training_plot, out_of_domain_plot, metrics_plot, noise_plot, rates_plot, samples_plot,
    grids_plot, ledger_plot,
)  # fmt: skip
TILES = (("model", "N*", "optimal model size"), ("data", "D*", "optimal data"), ("loss", "L*", "loss at the optimum"))


def write_report(root: Path | str, ledger: Ledger | Path | str | None = None) -> Path:
    """Write report/index.html and report/figures/ of a study, each file whole or not at all; returns the page's path.
    The page names what the study does not have yet. ledger: a record of several studies' forecasts, or its file, to
    show as well. Raises UserError without study.h5 or a finished run, and at a damaged ledger."""
    record = ledger if isinstance(ledger, Ledger | None) else read_ledger(ledger)
    results, page = replace(read_study_results(root), ledger=record), StudyPaths(root).report / "index.html"
    results = replace(results, spent=str(total(s.spent for s in study_status(StudyPaths(root)))))
    figures = page.parent / "figures"
    make_directory(figures)
    shown = [(plot, *render(plot)) for plot in filter(None, (make(results) for make in PLOTS))]
    files = {f"{plot.name}.{kind}": content for plot, _, kinds in shown for kind, content in kinds.items()}
    for name, content in files.items():
        write_bytes(figures / name, content)
    for old in figures.iterdir():  # A figure of an earlier report that this one no longer has.
        if old.suffix in (".png", ".pdf") and old.name not in files:
            old.unlink()
    write_text(page, html(results, [(plot, svgs) for plot, svgs, _ in shown]))
    return page


def html(results: StudyResults, shown: list[tuple[Plot, list[str]]]) -> str:
    title = f"{'REHEARSAL of ' * bool(results.study.rehearsal)}{results.study.name}: {sentences.title(results)}"
    missing = "".join(f"<li>{escape(what)}: {code(command)}</li>" for what, command in sentences.missing(results))
    head = '<section class="missing"><h2>Not in this report yet</h2><p>DIR is the directory of this study.</p>'
    body = [_head(results), f"{head}<ul>{missing}</ul></section>" * bool(missing)]
    body += [_figure(i, results, plot, svgs) for i, (plot, svgs) in enumerate(shown, 1)]
    body += [ledger_section(results.ledger) if results.ledger else ""]
    body += [_laws(results, results.laws) if results.laws else "", _runs(results)]
    return document(title, "\n".join([*body, _foot(results)]), DARK)


def _head(results: StudyResults) -> str:
    laws, verdict, tiles = results.laws, results.verdict, ""
    out = f'<header><p class="kicker">Scaling study {escape(results.study.name)}</p>'
    out += f"<h1>{superscripts(sentences.title(results))}</h1></header>\n"
    if results.study.rehearsal:
        mark = escape(str(results.study.rehearsal))
        out += f'<section class="verdict outside"><h2>REHEARSAL, not a measurement</h2><p>{mark}.</p></section>\n'
    for law, symbol, what in TILES:
        e = laws.exponent(law) if laws else None
        if e:
            span = ends(e, sentences.exponent, " to ") or "no interval"
            value = f"<p class=big>{symbol} ∝ {superscripts(f'C^{e.value:.3f}')}</p>"
            tiles += f"<div><p>{what}</p>{value}<p><small>95 %: {span}</small></p></div>"
    out += f'<div class="tiles">{tiles}</div>\n' * bool(tiles)
    said = f"<p>{escape(sentences.forecast(results))}</p>"
    if results.forecast:
        state = sentences.WHERE[verdict.inside] if verdict else "open"
        heading = f"The probe is {state} the forecast interval" if verdict else "Not tested yet"
        tested = f"<h2>{heading}</h2><p>{escape(sentences.verdict(results))}</p>"
        said = f'<section class="verdict {state}">{tested}{said}</section>'
    return f"{out}{said}\n" + "".join(f"<p>{superscripts(s)}</p>" for s in sentences.summary(results))


def _figure(i: int, results: StudyResults, plot: Plot, svgs: list[str]) -> str:
    panels = f'<div class="panels n{plot.columns}">{"".join(svgs)}</div>'
    content = page_list(results.samples) if plot.name == "samples" and results.samples else panels
    files = ", ".join(f'<a href="figures/{plot.name}.{kind}">{kind.upper()}</a>' for kind in ("png", "pdf"))
    caption = f"<b>Figure {i}.</b> {superscripts(plot.caption)} <small>figures/{plot.name}: {files}</small>"
    figure = f'<figure id="{plot.name}">{content}<figcaption>{caption}</figcaption></figure>'
    return f"<h2>{escape(plot.title)}</h2>{figure}"


def _laws(results: StudyResults, laws: Laws) -> str:
    out = f"<h2>The laws in numbers</h2>{tables.laws_table(laws)}<p>{escape(sentences.backtest(laws))}</p>"
    out += tables.metrics_section(results) + tables.noise_section(results)
    return f"{out}<h2>Slices</h2>{tables.slices_table(laws)}<h2>Findings</h2>{tables.findings_list(laws)}"


def _runs(results: StudyResults) -> str:
    flops, seconds = (float(results.points[name].sum()) for name in ("achieved_flops", "train_s"))
    counts = "".join(f"<dt>{escape(k)}</dt><dd>{code(v)}</dd>" for k, v in sentences.counting(results))
    spent = f"{compact(flops)} training FLOPs in {duration(seconds)} of training, all runs added up."
    text = f"{sentences.plural(len(results.table), 'run')}, {spent} Each name leads to the run's directory, which holds"
    out = f"<h2>Runs</h2><p>{text} its record.</p>{tables.runs_table(results)}"
    # Of all runs, those that failed too.
    out += f"<h2>What it took</h2><p>{escape(results.spent.capitalize())}.</p>" * bool(results.spent)
    out += f"<h2>What the numbers count</h2><dl>{counts}</dl>\n<h2>Runs left out</h2>{tables.excluded_table(results)}"
    return f"{out}\n<h2>Settings of the study</h2>{tables.settings(results)}"


def _foot(results: StudyResults) -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = f"Written by ditscale {__version__}, {now}"
    if laws := results.laws:
        how = f"(seed {laws.bootstrap.seed}), objective {laws.objective}"
        text += f"; intervals from {laws.bootstrap.replicates} bootstrap replicates {how}"
    if f := results.forecast:
        text += f"; forecast sha256 {f.sha256}, of inputs {f.inputs_sha256}"
    return f"<footer><p>{escape(text)}.</p></footer>"
