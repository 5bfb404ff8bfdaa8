"""The text of `Laws.summary`: slices, laws with intervals, the points behind each, backtest and findings."""

from __future__ import annotations

from ..units import compact, count
from .checks.checklist import checklist
from .checks.checklist import lines as lines_of
from .table import describe
from .text import columns, interval


def summarise(laws) -> str:
    parts = [_slices(laws), _approach2(laws), _approach3(laws), _predictions(laws), _backtests(laws)]
    head = f"{describe(laws.table)}, metric {laws.table.metric}"
    findings = ["Findings" if laws.findings else "Findings: none"]
    findings += [f"  {f.severity}: {f.code}: {f.message}" for f in laws.findings]
    lines = [f"REHEARSAL: {laws.table.rehearsal}"] if laws.table.rehearsal else []
    lines += [head]
    for part in (*parts, findings, lines_of(checklist(laws))):
        lines += ["", *part] if part else []
    return "\n".join(lines)


def _slices(laws) -> list[str]:
    rows = [["budget", "runs", "N*", "D*", "L*", "N within 0.1 %", "residual", "status"]]
    for p in laws.approach2.slices:
        near = "-" if p.n_range is None else f"{count(p.n_range[0])} .. {count(p.n_range[1])}"
        shown = ["-"] * 3 if p.n_params is None else [count(p.n_params), count(p.n_tokens), f"{p.loss:.4g}"]
        rms = "-" if p.residual_rms != p.residual_rms else f"{100 * p.residual_rms:.2g} %"
        rows.append([compact(p.budget_flops), str(p.n_runs), *shown, near, rms, p.status])
    return ["Slices", *columns(rows)] if len(rows) > 1 else []


def _coefficients(title: str, found: dict, delta: dict, resampling: str) -> list[str]:
    rows = [["", "value", f"95 % ({resampling})", "95 % (delta)"]]
    for name, e in found.items():
        rows.append([name, "-", "", ""] if e is None else [name, *interval(e), interval(delta[name])[1]])
    return [title, *columns(rows)]


def _approach2(laws) -> list[str]:
    two = laws.approach2
    title = f"Approach 2: power laws N* = k C^a, D* = k C^b, L* = k C^c through {len(two.accepted)} minima"
    if not two.ok:
        return [title, "  refused (see the findings)"]
    how = f"{two.scheme}, {laws.interval}"
    lines = _coefficients(title, two.coefficients(), laws.delta["approach2"], how)
    floor = laws.loss_with_floor()
    if floor is not None:
        lines += [f"  L*(C) = E + k C^a through {len(two.accepted)} minima"]
        lines += columns([[name, *interval(e)] for name, e in floor.items()], "    ")
    return lines + [f"  form of L*(C), by AICc and a held-out budget: {two.loss_law.why}"]


def _approach3(laws) -> list[str]:
    three = laws.approach3
    title = f"Approach 3: L(N, D) = E + A N^-alpha + B D^-beta on {len(laws.table)} runs, objective {laws.objective}"
    if not three.ok:
        return [title, "  refused (see the findings)"]
    how = f"{three.scheme}, {laws.interval}"
    return _coefficients(title, three.coefficients(), laws.delta["approach3"], how)


def _predictions(laws) -> list[str]:
    out = []
    for typed, by in laws.predictions.items():
        rows = [["", "N*", "95 %", "D*", "95 %", laws.table.metric, "95 %"]]
        for name, p in by.items():
            cells = ["refused"] + [""] * 5
            if p is not None:
                cells = interval(p["n_params"], count) + interval(p["n_tokens"], count) + interval(p["loss"])
            rows.append([name.replace("approach", "approach "), *cells])
        out += [f"At {typed} FLOPs", *columns(rows)]
        if typed in laws.n_ranges:
            low, high = ("{} ({})".format(*interval(e, count)) for e in laws.n_ranges[typed])
            out.append(f"  N within 0.1 % of the optimum, by the surface: {low} to {high}")
    return out


def _backtests(laws) -> list[str]:
    if not laws.backtests:
        return []
    rows = [["predicted", "without", "beyond", "law", "N* / measured", "L* error", "interval", "held it"]]
    largest = max(b.budget_flops for b in laws.backtests)
    for b in (b for b in laws.backtests if b.budget_flops == largest):
        for name in ("approach2", "approach3"):
            said = getattr(b, name)
            head = [
                compact(b.budget_flops),
                f"largest {b.held_out}",
                f"{b.factor:.3g}x",
                name.replace("approach", "approach "),
            ]
            cells = ["refused", "", "", ""]
            if said is not None:
                held = {None: "-", True: "yes", False: "NO"}[said.covered]
                cells = [f"{said.n_params_ratio:.3g}", f"{100 * said.loss_error:+.2g} %", interval(said.loss)[1], held]
            rows.append(head + cells)
    return ["Backtests: budgets held out, and predicted from the smaller ones", *columns(rows)]
