"""The report's tables, as HTML. Every number can be followed to a run directory."""

from html import escape

import numpy as np

from ..config import plain
from ..laws import Estimate, Laws, Trend
from ..laws.text import ends, short
from ..units import compact, count
from .html import NAMES, mark, superscripts, table
from .read import StudyResults
from .sentences import SURFACE, digits, exponent, plural
from .trends import METRICS, gap_sentences, metric_trends, noise_trends

TREND_HEAD = ("exponent of C (95 %)", "forecast at the probe (95 %)", "measured there")


def run_link(run_id: str) -> str:  # To its directory, from report/index.html.
    return f'<a href="../runs/{escape(run_id)}/"><code>{escape(run_id)}</code></a>'


LAWS = (("model", "N"), ("data", "D"), ("loss", "L"))


def laws_table(laws: Laws) -> str:
    """Coefficients and exponents of all laws, with the number of points behind each."""
    minima = plural(sum(s.ok for s in laws.slices), "minimum")
    two, three = (vars(part) if part else {} for part in (laws.approach2, laws.approach3))
    answer: dict[str, Estimate | None] = (
        {f"exponent of {n}*": laws.exponent(law) for law, n in LAWS} if laws.answer else {}
    )
    sections: dict[str, dict[str, Estimate | None]] = {"answer beyond the grid": answer} | {
        f"{symbol} = k C^a": {name: two.get(f"{law}_{name.split()[0]}") for name in ("exponent a", "coefficient k")}
        for law, symbol in (("model", "N*"), ("data", "D*"), ("loss", "L*"))
    }
    sections[f"L = {SURFACE}"] = {NAMES.get(name, name): e for name, e in three.items()}
    rows = []
    for law, numbers in sections.items():
        points = plural(laws.n_runs, "run") if law.startswith(("L = ", "answer")) else minima
        shown = [(name, digits(e.value), ends(e, compact, " to ") or "no interval") for name, e in numbers.items() if e]
        rows += [[superscripts("" if i else law), *map(escape, (*row, points))] for i, row in enumerate(shown)]
    return table(["law", "number", "value", "95 % interval", "based on"], rows, left=2)


def trend_cells(trend: Trend, at_probe: np.ndarray, measured: np.ndarray) -> list[str]:
    """The cells of TREND_HEAD; at_probe: the budgets of the probe, measured: its values."""
    predicted = trend.predict(float(at_probe[0])) if len(at_probe) else None
    shown = [(trend.exponent, exponent), (predicted, short)]
    cells = [f"{form(e.value)} ({ends(e, form, ' to ')})".removesuffix(" ()") if e else "" for e, form in shown]
    return [*cells, short(measured[0]) if len(at_probe) and np.isfinite(measured[0]) else ""]


def metrics_section(results: StudyResults) -> str:
    """The trends of other metrics than the loss, and how far out of domain lies from in domain."""
    at_probe, rows = results.table.budget_flops[results.probe], []
    for m in metric_trends(results):
        for dataset, trend in m.trends.items() if m.metric != "loss" else ():
            shown = trend_cells(trend, at_probe, results.points[m.columns[dataset]][results.probe])
            rows.append([escape(c) for c in (METRICS[m.metric], dataset, *shown)])
    if not rows:
        return ""
    head = ["metric", "data set", *TREND_HEAD]
    gaps = "".join(f"<p>{escape(sentence)}</p>" for sentence in gap_sentences(results))
    return f"<h2>Other metrics at the loss's optimum</h2>{table(head, rows, left=2)}{gaps}"


def noise_section(results: StudyResults) -> str:
    if not (found := noise_trends(results)):
        return ""
    at_probe, rows = results.table.budget_flops[results.probe], []
    for i, trend in enumerate(found.trends):
        first, last = (short(trend.at[k].value) for k in (0, -1))
        shown = trend_cells(trend, at_probe, found.probe[:, i])
        rows.append([escape(c) for c in (found.between(i), first, last, *shown)])
    low, high = (compact(results.budgets[k]) for k in (0, -1))
    head = ["noise level", f"loss at {low}", f"at {high}", *TREND_HEAD]
    return f"<h2>Loss by noise level, at the loss's optimum</h2>{table(head, rows)}"


def slices_table(laws: Laws) -> str:
    rows = []
    for s in laws.slices:
        optimum = ((count, s.n_params), (count, s.n_tokens), (digits, s.loss))
        rows.append([
            compact(s.budget_flops), str(s.n_runs), *("" if v is None else form(v) for form, v in optimum),
            "" if s.n_range is None else " to ".join(map(count, s.n_range)),
            "" if s.residual_rms is None else f"{100 * s.residual_rms:.2g} %",
            mark(s.status), escape("; ".join(s.reasons)),
        ])  # fmt: skip
    head = ["budget", "runs", "N*", "D*", "L*", "N within 0.1 % of L*", "residual", "status", "reasons"]
    shown = None if any(row[-1] for row in rows) else -1  # No column of reasons where there is none.
    return table(head[:shown], [row[:shown] for row in rows], kind="" if shown else "slices")


def runs_table(results: StudyResults) -> str:
    others, parts = results.columns("loss", out_of_domain=True), results.table.role.copy()
    parts[results.fitted & (parts == "grid")] = "fit"
    rows = []
    for i, run_id in enumerate(results.table.run_id):
        p = {name: column[i] for name, column in results.points.items()}
        rows.append([
            run_link(run_id), parts[i], compact(p["budget_flops"]),
            f"{compact(p['achieved_flops'])} <small>{p['achieved_flops'] / p['budget_flops'] - 1:+.2%}</small>",
            f"{p['width']:.0f} x {p['depth']:.0f}", f"{p['n_params']:,.0f}", f"{p['n_tokens']:,.0f}",
            f"{p['n_images']:,.0f}", f"{p['lr']:.3g}", f"{p['loss']:.5f} <small>± {p['loss_se']:.5f}</small>",
            f"{p['train_loss']:.5f}", *(f"{p[name]:.5f}" if np.isfinite(p[name]) else "" for name in others.values()),
            f"{p['train_s']:.1f}", f"{p['attempts']:.0f}",
        ])  # fmt: skip
    head = ["run", "part", "budget C", "achieved FLOPs", "width x depth", "N", "D, tokens", "images", "rate"]
    head += ["loss ± se", "training loss", *[f"loss on {name}" for name in others], "seconds", "attempts"]
    return table(head, rows, left=2, kind="runs")


def excluded_table(results: StudyResults) -> str:
    laws = results.laws
    unfitted = [(e.run_id, f"excluded from the fit: {e.reason}") for e in laws.exclusions] if laws else []
    rows = [[run_link(run_id), escape(reason)] for run_id, reason in (*results.records.excluded, *unfitted)]
    return table(["run", "reason"], rows, left=2) or "<p>None: every planned run is in the table above.</p>"


def findings_list(laws: Laws) -> str:
    found = sorted(laws.findings, key=lambda f: ("refused", "warning", "info").index(f.severity))
    items = [f"<li>{mark(f.severity)} {escape(f.message)} <small>{escape(f.code)}</small></li>" for f in found]
    return f'<ul class="findings">{"".join(items)}</ul>' if items else "<p>None.</p>"


def settings(results: StudyResults) -> str:
    study, out = plain(results.study), ""
    parts = {name: keys for name, keys in study.items() if isinstance(keys, dict)}
    for name, keys in {"study": {k: v for k, v in study.items() if k not in parts}, **parts}.items():
        shown = {k: escape(_short(v)) for k, v in keys.items() if v not in ("", {})}
        rows = "".join(f"<dt>{escape(k)}</dt><dd>{v}</dd>" for k, v in shown.items())
        out += f"<section><h3>{escape(name)}</h3><dl>{rows}</dl></section>"
    return f'<div class="settings">{out}</div>'


def _short(value: object) -> str:
    if isinstance(value, float):
        return compact(value) if value == float(compact(value)) else repr(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(f"[{_short(v)}]" if isinstance(v, (list, tuple)) else _short(v) for v in value)
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_short(v)}" for k, v in value.items() if v not in ("", 0))
    return str(value)
