"""The text of `Laws.summary`: slices, laws with intervals, the points behind each, backtest and findings."""

from __future__ import annotations

from ..units import compact, count
from .table import describe
from .uncertainty import Estimate


def columns(rows: list[list[str]], indent: str = "  ") -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell; the first left, the rest right aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        (
            indent
            + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        ).rstrip()
        for row in rows
    ]


def interval(e: Estimate, form=lambda x: f"{x:.4g}") -> list[str]:
    """[value, "low .. high"]."""
    if e.low is None and e.high is None:
        return [form(e.value), "no interval"]
    ends = ["?" if end is None else form(end) for end in (e.low, e.high)]
    return [form(e.value), f"{ends[0]} .. {ends[1]}"]


def summarise(laws) -> str:
    two, three = laws.approach2, laws.approach3
    out = [f"{describe(laws.table)}, metric {laws.table.metric}", "", "Slices"]
    rows = [["budget", "runs", "N*", "D*", "L*", "N within 0.1 %", "residual", "status"]]
    for p in two.slices:
        near = "-" if p.n_range is None else f"{count(p.n_range[0])} .. {count(p.n_range[1])}"
        shown = ["-"] * 3 if p.n_params is None else [count(p.n_params), count(p.n_tokens), f"{p.loss:.4g}"]
        rms = "-" if p.residual_rms != p.residual_rms else f"{100 * p.residual_rms:.2g} %"
        rows.append([compact(p.budget_flops), str(p.n_runs), *shown, near, rms, p.status])
    out += columns(rows) + ["", f"Approach 2: power laws through {len(two.accepted)} minima"]
    coefficients = laws.approach2_coefficients()
    if coefficients is None:
        out.append("  refused (see the findings)")
    else:
        rows = [["law", "coefficient", "95 %", "exponent", "95 %", "points"]]
        for name, label in (("model", "N*(C)"), ("data", "D*(C)"), ("loss", "L*(C)")):
            k, a = coefficients[f"{name}_coefficient"], coefficients[f"{name}_exponent"]
            rows.append([label, *interval(k), *interval(a), str(len(two.accepted))])
        out += columns(rows)
        floor = laws.loss_with_floor()
        if floor is None:
            out.append(f"  L*(C) with a floor: refused ({'; '.join(two.floor.reasons)})")
        else:
            rows = [[name, *interval(e)] for name, e in floor.items()]
            out += [f"  L*(C) = E + k C^a through {len(two.accepted)} minima"] + columns(rows, "    ")
    out += [
        "",
        f"Approach 3: L(N, D) = E + A N^-alpha + B D^-beta on {len(laws.table)} runs, objective {laws.objective}",
    ]
    if three.ok:
        out += columns([[name, *interval(e)] for name, e in three.coefficients().items()])
    else:
        out.append("  refused (see the findings)")
    for typed, by in laws.predictions.items():
        out += ["", f"At {typed} FLOPs"]
        rows = [["", "N*", "95 %", "D*", "95 %", "loss", "95 %"]]
        for name, p in by.items():
            label = name.replace("approach", "approach ")
            cells = ["refused"] + [""] * 5
            if p is not None:
                cells = interval(p["n_params"], count) + interval(p["n_tokens"], count) + interval(p["loss"])
            rows.append([label, *cells])
        out += columns(rows)
    if laws.backtest is not None:
        b = laws.backtest
        out += ["", f"Backtest: {compact(b.held_out_budget)} held out ({b.factor:.3g}x beyond the rest)"]
        rows = [["", "N* predicted / measured", "loss error", "interval covered"]]
        for name in ("approach2", "approach3"):
            part = getattr(b, name)
            cells = ["refused", "", ""]
            if part is not None:
                covered = {None: "no interval", True: "yes", False: "NO"}[part["covered"]]
                cells = [f"{part['n_params_ratio']:.3g}", f"{100 * part['loss_error']:+.2g} %", covered]
            rows.append([name.replace("approach", "approach "), *cells])
        out += columns(rows)
    out += ["", "Findings" if laws.findings else "Findings: none"]
    out += [f"  {f.severity}: {f.code}: {f.message}" for f in laws.findings]
    return "\n".join(out)
