"""Numbers with their intervals, and aligned columns, as text."""

from __future__ import annotations

from .estimates import Estimate


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
