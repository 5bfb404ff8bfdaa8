"""Numbers in and out: `number` reads every number that a person types (PyYAML reads 1e17 and 6e+18 as text, 1.5e+21 as
a float, and OmegaConf all as floats); the rest write numbers for people."""

from math import inf, isfinite

from .errors import UserError


def number(value: object, what: str, *, low: float = -inf, high: float = inf, above: float = -inf) -> float:
    """Parse a finite float from a number or its text ("1e17", "6e+18", "0.3"). `low` and `high` are inclusive limits,
    `above` an exclusive lower limit. Raises UserError naming `what`."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise TypeError
        x = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{what}: {value!r} is not a number; write for example 1e18") from None
    if not isfinite(x):
        raise UserError(f"{what}: {value!r} is not a finite number")
    if x < low:
        raise UserError(f"{what}: {value} is too small; at least {low:g}")
    if x <= above:
        raise UserError(f"{what}: {value} is too small; it must be above {above:g}")
    if x > high:
        raise UserError(f"{what}: {value} is too large; at most {high:g}")
    return x


def whole(value: object, what: str, *, low: float = -inf, high: float = inf) -> int:
    """Parse a whole number ("1024", 1e3, 16). Limits as of `number`. Raises UserError naming `what`."""
    x = number(value, what, low=low, high=high)
    if x != int(x):
        raise UserError(f"{what}: {value} is not a whole number")
    return int(x)


def compact(x: float) -> str:
    """1.44e12 -> '1.44e12', 1e17 -> '1e17': the shortest form people type, used in names and tables."""
    text = f"{x:.3g}" if 0.01 <= abs(x) < 1000 or x == 0 else f"{x:.2e}"
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def count(x: float) -> str:
    """197184 -> '197k', 958.3e6 -> '958M': parameters, images, tokens."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= 0.9995 * size:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"


def duration(seconds: float) -> str:
    """75 -> '1m15s', 7300 -> '2h02m', 400000 -> '4d15h'."""
    s = int(round(seconds))
    if s < 3600:
        return f"{s}s" if s < 60 else f"{s // 60}m{s % 60:02d}s"
    if s < 100 * 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"
