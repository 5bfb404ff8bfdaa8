"""Numbers with their intervals, and aligned columns, as text."""

from typing import Callable

from .estimates import Estimate

Format = Callable[[float], str]
short: Format = "{:.4g}".format


def columns(rows: list[list[str]], indent: str = "  ") -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell; the first left, the rest right aligned."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True)) if rows else (0,)
    padded = ([row[0].ljust(first), *map(str.rjust, row[1:], others)] for row in rows)
    return [f"{indent}{'  '.join(row)}".rstrip() for row in padded]


def ends(e: Estimate, form: Format = short, between: str = " .. ", unbounded: str = "?") -> str:
    """'low .. high', with an end that the runs do not bound named so; "" where there is no interval."""
    shown = [unbounded if end is None else form(end) for end in (e.low, e.high)]
    return "" if e.low is None and e.high is None else between.join(shown)


def cell(x: float | None, form: Format = short, none: str = "-") -> str:
    """A number as a cell of a table."""
    return none if x is None else form(x)


def cells(e: Estimate | None, form: Format = short, none: str = "-") -> list[str]:
    """[value, "low .. high"]: two cells of a table."""
    return [form(e.value), ends(e, form) or "no interval"] if e else [none, ""]


def spelled(e: Estimate, form: Format = short) -> str:
    """'value (95 % low to high)', in a sentence."""
    between = ends(e, form, " to ")
    return f"{form(e.value)} (95 % {between})" if between else form(e.value)
