"""The report's tables, as HTML. Every number can be followed to a run directory."""

from __future__ import annotations

import re
from html import escape

import numpy as np

from ..config import plain
from ..units import compact, count, duration
from .read import Material, number
from .sentences import digits, interval, plural

SURFACE = {
    "alpha": "α",
    "beta": "β",
    "model_exponent": "exponent of N*, β/(α+β)",
    "loss_floor_exponent": "exponent of L* − E, −αβ/(α+β)",
}


def code(text: str) -> str:
    """Escaped text in which `words` between backticks are code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))


def superscripts(text: str) -> str:
    """Escaped text in which C^0.5 and N^-alpha are powers."""
    greek = {"alpha": "α", "beta": "β"}

    def power(found):
        text = found[1].lstrip("-")
        return f"<sup>{'−' * found[1].startswith('-')}{greek.get(text, text)}</sup>"

    return re.sub(r"\^(-?(?:\d+(?:\.\d+)?|[a-z]+))", power, escape(text))


def table(head: list[str], rows: list[list[str]], left: int = 1, kind: str = "") -> str:
    """A table that scrolls sideways on a narrow page. Cells are HTML already; the first `left` columns are text."""
    if not rows:
        return ""

    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}{' class=t' * (i < left)}>{c}</{tag}>" for i, c in enumerate(cells)) + "</tr>"

    return (
        f'<div class="wide {kind}" tabindex="0"><table><thead>{line([escape(h) for h in head], "th")}</thead>'
        f"<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table></div>"
    )


def run_link(run_id: str) -> str:
    """A run's id, leading to its directory from report/index.html."""
    return f'<a href="../runs/{escape(run_id)}/"><code>{escape(run_id)}</code></a>'


def laws_table(material: Material) -> str:
    """Coefficients and exponents of all laws, with the number of points behind each."""
    laws, rows, first = material.laws, [], []

    def row(law, name, e, points):
        same = bool(rows) and rows[-1][0] == law
        rows.append([law, name, digits(e.value), escape(interval(e)), points])
        first.append("" if same else superscripts(law))

    minima = plural(sum(s["status"] == "ok" for s in laws["slices"]), "minimum")
    for law, symbol in (("model", "N*"), ("data", "D*"), ("loss", "L*")):
        if laws["approach2"] and laws["approach2"][f"{law}_exponent"]:
            row(f"{symbol} = k C^a", "exponent a", number(laws["approach2"][f"{law}_exponent"]), minima)
            row(f"{symbol} = k C^a", "coefficient k", number(laws["approach2"][f"{law}_coefficient"]), minima)
    for key, name in (("E", "floor E"), ("coefficient", "coefficient k"), ("exponent", "exponent a")):
        if laws["loss_with_floor"]:
            row("L* = E + k C^a", name, number(laws["loss_with_floor"][key]), minima)
    for key, e in (laws["approach3"] or {}).items():
        row("L = E + A N^-alpha + B D^-beta", SURFACE.get(key, key), number(e), plural(laws["n_runs"], "run"))
    cells = [[law, *row[1:]] for law, row in zip(first, rows, strict=True)]
    return table(["law", "number", "value", "95 % interval", "stands on"], cells, left=2)


def slices_table(material: Material) -> str:
    rows = []
    for s in material.laws["slices"]:
        none = s["n_params"] is None
        near = s["n_params_within_0.1_percent"]
        rows.append([
            compact(s["budget_flops"]), str(s["n_runs"]),
            *([""] * 3 if none else [count(s["n_params"]), count(s["n_tokens"]), digits(s["loss"])]),
            "" if not near else f"{count(near[0])} to {count(near[1])}",
            "" if s["residual_rms"] is None else f"{100 * s['residual_rms']:.2g} %",
            f"<span class={s['status']}>{escape(s['status'])}</span>", escape("; ".join(s["reasons"])),
        ])  # fmt: skip
    head = ["budget", "runs", "N*", "D*", "L*", "N within 0.1 % of L*", "residual", "status", "reasons"]
    if not any(row[-1] for row in rows):
        return table(head[:-1], [row[:-1] for row in rows])
    return table(head, rows, kind="slices")


def runs_table(material: Material) -> str:
    """All runs of study.h5."""
    p, fitted = material.points, material.fitted
    others = material.out_of_domain
    rows = []
    for i, run_id in enumerate(p["run_id"]):
        part = "probe" if material.probe[i] else "fit" if fitted[i] else "grid"
        off = p["achieved_flops"][i] / p["budget_flops"][i] - 1
        rows.append([
            run_link(run_id), part, compact(p["budget_flops"][i]),
            f"{compact(p['achieved_flops'][i])} <small>{off:+.2%}</small>", f"{p['width'][i]} x {p['depth'][i]}",
            *[f"{int(p[name][i]):,}" for name in ("n_params", "n_tokens", "n_images")], f"{p['lr'][i]:.3g}",
            f"{p['loss'][i]:.5f} <small>± {p['loss_se'][i]:.5f}</small>", f"{p['train_loss'][i]:.5f}",
            *[f"{p[f'loss_{name}'][i]:.5f}" if np.isfinite(p[f"loss_{name}"][i]) else "" for name in others],
            f"{p['train_s'][i]:.1f}", str(int(p["attempts"][i])),
        ])  # fmt: skip
    head = ["run", "part", "budget C", "achieved FLOPs", "width x depth", "N", "D, tokens", "images", "rate"]
    head += ["loss ± se", "training loss", *[f"loss on {name}" for name in others], "seconds", "attempts"]
    return table(head, rows, left=2, kind="runs")


def excluded_table(material: Material) -> str:
    """Runs that are in no fit, with the reason."""
    rows = [[run_link(r), escape(reason)] for r, reason in material.excluded]
    if material.laws:
        rows += [
            [run_link(e["run_id"]), "excluded from the fit: " + escape(e["reason"])]
            for e in material.laws["exclusions"]
        ]
    return table(["run", "reason"], rows, left=2) or "<p>None: every planned run is in the table above.</p>"


def findings_list(material: Material) -> str:
    found = material.laws["findings"]
    if not found:
        return "<p>None.</p>"
    order = {"refused": 0, "warning": 1, "info": 2}
    items = [
        f"<li><span class={escape(f['severity'])}>{escape(f['severity'])}</span> {escape(f['message'])}"
        f" <small>{escape(f['code'])}</small></li>"
        for f in sorted(found, key=lambda f: order.get(f["severity"], 3))
    ]
    return f'<ul class="findings">{"".join(items)}</ul>'


def settings(material: Material) -> str:
    """Design, data, recipe and the rest of study.yaml, all of it."""
    study = plain(material.study)
    own = {"study": {k: v for k, v in study.items() if not isinstance(v, dict)}}
    parts = own | {k: v for k, v in study.items() if isinstance(v, dict)}
    out = []
    for name, keys in parts.items():
        rows = "".join(
            f"<dt>{escape(k)}</dt><dd>{escape(_short(v))}</dd>" for k, v in keys.items() if v not in ("", {})
        )
        out.append(f"<section><h3>{escape(name)}</h3><dl>{rows}</dl></section>")
    return f'<div class="settings">{"".join(out)}</div>'


def _short(value) -> str:
    if isinstance(value, float):
        return compact(value) if value == float(compact(value)) else repr(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(f"[{_short(v)}]" if isinstance(v, (list, tuple)) else _short(v) for v in value)
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_short(v)}" for k, v in value.items() if v not in ("", 0))
    return str(value)


def total_time(material: Material) -> str:
    p = material.points
    return (
        f"{compact(float(p['achieved_flops'].sum()))} training FLOPs in {duration(float(p['train_s'].sum()))} of"
        " training, all runs added up"
    )
