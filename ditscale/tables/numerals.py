"""Numbers as people type them into tables, and one message about all the cells that hold none."""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from ..result import short

# Powers of ten. M is a million in either case, as no count is in thousandths; P, E and Z stand before FLOP alone, since
# 1.5E may be what is left of 1.5E+18.
POWERS = {"k": 3, "m": 6, "mn": 6, "g": 9, "b": 9, "bn": 9, "t": 12, "tn": 12, "p": 15, "e": 18, "z": 21}
POWERS |= {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
SIZED = re.compile(
    r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+))(?:e([+-]?\d+))?\s*"
    rf"((?![pez](?!flop))(?:{'|'.join(POWERS)}))?\s*(?:param(?:eter)?s?|tokens?|flops?)?",
    re.IGNORECASE,
)
# Cells of runs that have no number: signs alone, errors of a spreadsheet, and words.
NOTHING = re.compile(
    r"[^\w.,+]*[-.?+]*|#[^\d].*|<?na>?|n/a|nan|null|none|nil|missing|undefined|tbd|todo|oom|diverged?|crash(ed)?|fail(ed)?"
    r"|killed|error|aborted|timeout|running|pending|unfinished",
    re.IGNORECASE,
)
SHOWN, PASTED = 4, 40  # Cells that a message names, and runs that its --exclude line names.


class Fault(NamedTuple):
    """A cell that cannot be used: its row from 0, its column, what is wrong and what to write. cure: "" where only the
    user knows, None where the run has no result."""

    row: int
    column: str
    text: str
    cure: str | None = ""


def parse(value: Any) -> float | None:
    """The number that a cell says, to the last digit: 16.12M is 16120000.0. None where it says none."""
    try:
        return None if isinstance(value, bool) else float(value)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        sized = SIZED.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        return float(f"{sized[1]}e{int(sized[2] or 0) + POWERS.get((sized[3] or '').lower(), 0)}") if sized else None
    except ValueError:  # 1__0M
        return None


def floats(values: Sequence[Any]) -> tuple[np.ndarray, str]:
    """(a column as floats, nan where a cell says none; how many cells have suffixes, with the first)."""
    with suppress(TypeError, ValueError, OverflowError):
        if {*map(type, values)} <= {str, int, float, NoneType}:  # Not true, nor lists, which JSON can hold.
            return np.array(values, dtype=float), ""
    numbers = np.array([parse(value) for value in values], dtype=float)
    sized = [i for i in map(int, np.flatnonzero(np.isfinite(numbers))) if str(values[i]).strip()[-1].isalpha()]
    said = f"{len(sized)} with suffixes, as {values[sized[0]]} = {numbers[sized[0]]:.17g}" if sized else ""
    return numbers, said


def first_repeat(values: Iterable[Any]) -> tuple[int, int] | None:
    """(where a value stands first, where it stands again) of the first that repeats; None where none does."""
    first: dict[Any, int] = {}
    values = list(values)
    if len(set(values)) == len(values):
        return None
    return next(((first[v], i) for i, v in enumerate(values) if first.setdefault(v, i) != i), None)


def lacks(value: Any, metric: bool = False) -> bool:
    """Whether a cell says that there is no number; of a metric, any word does."""
    text = "" if value is None else str(value).strip()
    return bool(NOTHING.fullmatch(text)) or metric and not any(map(str.isdigit, text))


def fault(row: int, column: str, value: Any, metric: bool) -> Fault:
    """What is wrong with the cell of a number that must be finite and positive."""
    number, text, nothing = parse(value), "" if value is None else str(value), None if metric else ""
    if number is not None and np.isfinite(number):
        return Fault(row, column, f"{number:g} is not positive")
    if number is not None or not text.strip():
        return Fault(row, column, "the cell is empty" if number is None else f"{number:g} is not finite", nothing)
    return Fault(row, column, f"{short(text)!r} is not a number", nothing if lacks(value, metric) else _cure(text))


def _cure(text: str) -> str:
    """What to write instead of a text that is no number."""
    plain = re.sub(r"[\s'\u2019_]", "", text).replace("\u2212", "-")
    if percent := re.fullmatch(r"(-?\d+\.?\d*)%", plain):
        return f"write {float(percent[1] + 'e-2'):.15g}, or {percent[1]} in every row for per cent"
    if power := re.fullmatch(r"(?:(\d+\.?\d*)[*x\u00d7\u00b7])?10(?:\^|\*\*)(-?\d+)", plain):
        return f"write {power[1] or 1}e{power[2]}"
    number = re.fullmatch(r"([+-]?)(\d[\d.,]*)(e[+-]?\d+)?", plain, re.IGNORECASE)
    if not number:
        return "write a number such as 3.25 or 1e18"
    sign, digits, exponent = number[1], number[2], number[3] or ""
    signs = re.sub(r"\d", "", digits)
    if re.fullmatch(r"[1-9]\d{0,2},\d{3}", digits):
        return f"write {sign}{digits.replace(',', '')}{exponent}, or {sign}{digits.replace(',', '.')}{exponent}"
    if signs == "," or len(set(signs)) == 2:  # The last of them is the decimal sign.
        before, _, after = digits.rpartition(signs[-1])
        digits = f"{re.sub('[.,]', '', before)}.{after}"
    elif re.fullmatch(r"\d{1,3}([.,]\d{3}){2,}", digits):
        digits = re.sub("[.,]", "", digits)
    elif len(signs) > 1:
        return "write it without separators and with a decimal point"
    return f"write {sign}{digits.rstrip('.')}{exponent}"


def complaint(
    source: str, faults: Sequence[Fault], where: Callable[[int], str], run_id: Any,
    beside: Mapping[str, Sequence[Any]],
) -> UserError:  # fmt: skip
    """One error about all faults of runs `run_id`, with the options to paste; beside: all columns of their table."""
    ordered = sorted(faults, key=lambda f: f.row)
    lost = {f.row: f for f in reversed(ordered) if not f.cure}
    ways = [f"correct {'it' if len(ordered) == 1 else 'them'}"] if any(f.cure == "" for f in ordered) else []
    if lost and len(lost) < len(run_id):
        ways.append(f"leave the run{'s' * (len(lost) > 1)} out with {_options(lost, run_id, beside)}")
    elif None in [f.cure for f in ordered]:
        ways.append("no run is left")
    said, cure = [f"{where(f.row)}, column {f.column}: {f.text}" for f in ordered[:SHOWN]], ", or ".join(ways)
    if len(ordered) == 1:
        return UserError(f"{source}, {said[0]}; {ordered[0].cure or cure}")
    said = [text + f" ({f.cure})" * bool(f.cure) for text, f in zip(said, ordered, strict=False)]
    more = f"and {len(ordered) - SHOWN} more" * (len(ordered) > SHOWN)
    return UserError(f"{source}: {len(ordered)} cells cannot be used: {'; '.join(filter(None, [*said, more, cure]))}")


def _options(lost: Mapping[int, Fault], run_id: Any, beside: Mapping[str, Sequence[Any]]) -> str:
    """--only, where all runs but the lost ones share a word of a column; else --exclude for each of these."""
    good = [i for i in range(len(run_id)) if i not in lost]
    for name, values in beside.items():
        word, *others = {str(values[i]) for i in good} or {""}
        if len(good) > 1 and not others and word not in {str(values[i]) for i in lost}:
            if parse(word) is None and not lacks(word):
                return f"--only {shlex.quote(f'{name}={word}')}"
    if len(lost) > PASTED:
        return f"--exclude RUN=REASON for each of these {len(lost)}, or delete their rows"
    options = []
    for i, f in sorted(lost.items()):
        said = re.match(r"'?([^\W\d]{2,}|-?inf)'? is not", f.text)
        reason = said[1] if said else "empty" if f.cure is None else "unusable"
        options.append(f"--exclude {shlex.quote(f'{run_id[i]}={reason}')}")
    return " ".join(options)
