"""Results as a notebook shows them: a few lines, a small table, a DataFrame, a figure."""

import dataclasses
from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import UserError, one_of
from ..result import Result
from .estimates import Estimate
from .text import cells, columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = 10  # of a repr


class Shown(Result):
    """A base of the results that people look at. Each gives a heading (its sentence, if it has one) and its main
    numbers; the rest follows."""

    def heading(self) -> str:
        return getattr(self, "sentence")

    def main(self) -> dict[str, Estimate]:
        """The numbers to look at first, by name."""
        raise NotImplementedError

    def __repr__(self) -> str:
        lines = columns([[name, *cells(e)] for name, e in self.main().items()])
        if len(lines) >= LINES:
            lines[LINES - 2 :] = [f"  ... and {len(lines) - LINES + 2} more; summary() has all"]
        return "\n".join([self.heading(), *lines])

    def _repr_html_(self) -> str:
        numbers = (map(escape, (name, *cells(e))) for name, e in self.main().items())
        rows = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in numbers)
        return f"<p>{escape(self.heading())}</p><table><tr><th></th><th>value</th><th>95 %</th></tr>{rows}</table>"

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Rows by name: the main numbers, and each field that is a list of results."""
        out = {"main": [{"name": name, **e.to_dict()} for name, e in self.main().items()]}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, field.name)
            if isinstance(value, tuple) and value and isinstance(value[0], Result):
                out[field.name] = [_flat(part.to_dict()) for part in value]
        return out

    def to_frame(self, part: str = "main") -> Any:
        """A pandas DataFrame of one of `tables`. Raises UserError without pandas."""
        tables = self.tables()
        one_of(part, tuple(tables), "to_frame")
        return frame(tables[part])

    def plot(self) -> "Figure":
        """A matplotlib figure of the main numbers and their intervals."""
        from matplotlib.figure import Figure

        numbers = self.main()
        figure = Figure(figsize=(6, 1.2 + 0.35 * len(numbers)), layout="constrained")
        axes = figure.subplots()
        for y, e in enumerate(numbers.values()):
            low, high = (0.0 if end is None else abs(e.value - end) for end in (e.low, e.high))
            axes.errorbar(e.value, -y, xerr=[[low], [high]], fmt="o", capsize=3, color="black")
        axes.set_yticks([-y for y in range(len(numbers))], list(numbers))
        axes.set_title(self.heading(), fontsize=9)
        return figure


def frame(rows: list[dict[str, Any]]) -> Any:
    """A pandas DataFrame of rows. Raises UserError without pandas."""
    try:
        import pandas
    except ImportError:
        raise UserError("to_frame: pandas is not installed; `pip install pandas`, or use to_dict()") from None
    return pandas.DataFrame(rows)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose estimates are three columns: x, x_low and x_high."""
    out: dict[str, Any] = {}
    for name, value in row.items():
        is_estimate = isinstance(value, dict) and value.keys() == {"value", "low", "high"}
        out |= {name + f"_{k}" * (k != "value"): v for k, v in value.items()} if is_estimate else {name: value}
    return out
