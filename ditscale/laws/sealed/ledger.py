"""`ledger`: the forecasts and verdicts of several studies in one file, and how often the intervals held."""

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from ... import __version__
from ...errors import UserError, command
from ...files import read_mapping, write_text
from ...logs import log
from ...naming import StudyPaths
from ...result import Result
from ...units import compact
from ..estimates import Estimate
from ..findings import rehearsed
from ..notebook import Shown
from ..text import columns, ends, short
from .forecast import AT_TARGET, load_forecast, own_hash
from .verdict import Verdict, read_verdict

HEAD = ["name", "metric", "at", "beyond", "forecast", "95 %", "width", "measured", "error", ""]
WIDE = 1.5  # An interval whose high / low is above this says little where it holds.
FEWEST = 5  # Fewer verdicts than this say nothing of calibration.
LEANS = 0.05  # p of the two-sided sign test, below which errors are said to lean to one side.
# Distances beyond the grid that are summed up apart, and their ends.
BEYOND, ENDS = ("<= 3x", "3x to 30x", "30x to 300x", "> 300x"), (3, 30, 300)


@dataclass(frozen=True)
class Entry(Result):
    """A forecast as it was sealed (n_params_forecast: N*), and what its probe measured, None while it waits. version:
    of the ditscale that entered it. Relative numbers are to the forecast; an open interval has no width."""

    LAYOUT = 1
    COMPUTED = ("relative_width", "relative_error", "inside")

    name: str
    metric: str
    target_budget_flops: float
    factor: float
    created: str
    level: float
    forecast: Estimate
    n_params_forecast: float
    law: str
    n_runs: int
    rehearsal: bool
    forecast_sha256: str
    inputs_sha256: str
    version: str
    measured: float | None = None
    run_id: str | None = None
    n_params: float | None = None

    def contradiction(self) -> str:
        ranges = self.forecast.value and self.factor > 0 and self.target_budget_flops > 0 and 0 < self.level < 1
        return "" if ranges else "its forecast, its level or how far it is beyond the grid is none that is ever sealed"

    @property
    def relative_width(self) -> float | None:
        low, high = self.forecast.low, self.forecast.high
        return None if low is None or high is None else (high - low) / abs(self.forecast.value)

    @property
    def relative_error(self) -> float | None:
        return None if self.measured is None else self.measured / self.forecast.value - 1

    @property
    def inside(self) -> bool | None:
        return None if self.measured is None else self.forecast.covers(self.measured)

    @property
    def wide(self) -> bool:
        near, far = sorted((self.forecast.low or 0.0, self.forecast.high or 0.0), key=abs)
        return near * far <= 0 or far / near > WIDE

    def cells(self) -> list[str]:
        """The row of the record under HEAD."""
        width, error, measured = self.relative_width, self.relative_error, self.measured
        return [
            self.name, self.metric, compact(self.target_budget_flops), f"{self.factor:.3g}x",
            short(self.forecast.value), ends(self.forecast), "open" if width is None else f"{100 * width:.3g} %",
            "" if measured is None else short(measured), "" if error is None else f"{100 * error:+.2g} %",
            {None: "waiting", True: "held", False: "missed"}[self.inside] + ", wide" * self.wide,
        ]  # fmt: skip


@dataclass(frozen=True)
class Score(Result):
    """What the verdicts of some entries come to. beyond: "all", or their distances beyond the grid. expected: how many
    hold by the intervals' level; chance: of `held` or fewer by it, were they independent; wide: of those held. medians:
    relative, of absolute errors. above: how many were measured above the forecast; one_sided: p of the two-sided sign
    test of that. None: too few verdicts."""

    beyond: str
    verdicts: int
    held: int
    expected: float
    chance: float | None
    wide: int
    median_width: float | None
    median_error: float | None
    above: int
    one_sided: float | None

    @property
    def sentence(self) -> str:
        if not self.verdicts:
            return "no verdict yet"
        text = f"held {self.held} of {self.verdicts}"
        if self.chance is not None:
            level = f"{100 * self.expected / self.verdicts:.3g} % intervals: {self.expected:.3g} expected"
            text += f" ({level}; the chance of {self.held} or fewer is {self.chance:.2g})"
        text += f", {self.wide} of them by an interval so wide that it says little" if self.wide else ""
        for name, x in (("median width", self.median_width), ("median absolute error", self.median_error)):
            text += "" if x is None else f"; {name} {100 * x:.2g} %"
        if self.one_sided is not None and self.one_sided < LEANS:
            most, side = max((self.above, "above"), (self.verdicts - self.above, "below"))
            text += f"; errors lean to one side: {most} lie {side} the forecast (sign test, p = {self.one_sided:.2g})"
        return text


def score(entries: Sequence[Entry], beyond: str = "all") -> Score:
    """The score of the entries that have a verdict."""
    judged = [e for e in entries if e.measured is not None]
    n, held, levels = len(judged), [e for e in judged if e.inside], [e.level for e in judged]
    widths = [e.relative_width for e in judged if e.relative_width is not None]
    errors = [abs(e.relative_error) for e in judged if e.relative_error is not None]
    above = sum(e.measured > e.forecast.value for e in judged if e.measured is not None)
    chance, one_sided = at_most(len(held), levels), min(1.0, 2 * at_most(min(above, n - above), [0.5] * n))
    enough = n >= FEWEST
    return Score(
        beyond, n, len(held), sum(levels), chance if enough else None, sum(e.wide for e in held),
        float(np.median(widths)) if widths else None, float(np.median(errors)) if errors else None,
        above, one_sided if enough else None,
    )  # fmt: skip


def at_most(k: int, chances: Sequence[float]) -> float:
    """The chance that k or fewer of independent events happen: the binomial, where all have the same chance."""
    counts = np.ones(1)
    for p in chances:
        counts = np.convolve(counts, [1 - p, p])
    return min(1.0, float(counts[: k + 1].sum()))


@dataclass(frozen=True, repr=False)
class Ledger(Shown):
    """The record: entries by the time they were sealed. scores: of all verdicts, then of each distance beyond the grid
    that has some. Rehearsals are listed and never counted."""

    LAYOUT = 1
    COMPUTED = ("scores",)

    entries: tuple[Entry, ...] = ()

    @property
    def scores(self) -> tuple[Score, ...]:
        parts: dict[str, list[Entry]] = {"all": [], **{name: [] for name in BEYOND}}
        for e in self.entries:
            for name in () if e.rehearsal else ("all", BEYOND[bisect_left(ENDS, e.factor / (1 + AT_TARGET))]):
                parts[name].append(e)
        every, *scores = (score(part, name) for name, part in parts.items())
        return (every, *(s for s in scores if s.verdicts))

    def heading(self) -> str:
        return f"{len(self.entries)} sealed forecasts: {self.scores[0].sentence}"

    def main(self) -> dict[str, Estimate]:
        return {f"{e.name}, {e.metric} at {compact(e.target_budget_flops)}": e.forecast for e in self.entries}

    def summary(self) -> str:
        lines = []
        for title, rehearsal in (("", False), ("Rehearsals, never counted:", True)):
            if rows := [e.cells() for e in self.entries if e.rehearsal == rehearsal]:
                lines += [title] * rehearsal + columns([HEAD, *rows])
        every, *parts = self.scores
        return "\n".join([*lines, every.sentence, *(f"  {part.beyond}: {part.sentence}" for part in parts)])

    def add(self, source: Path | str, name: str = "") -> Self:
        """With the forecast and verdict of a study directory, with a forecast.json, or with a verdict.json whose
        forecast lies beside it or is here. name: of the entry (default: of the directory). Raises UserError where there
        is no forecast, where it was altered, or at a verdict that contradicts it or the ledger."""
        at, held = Path(source), {e.forecast_sha256: e for e in self.entries}
        is_study, body = at.is_dir(), read_mapping(at)
        if not is_study and not body:
            what = "holds no forecast or verdict" if at.exists() else "no such file"
            raise UserError(f"{at}: {what}; give a study directory, a forecast.json or a verdict.json")
        study, alone = StudyPaths(at if is_study else at.parent), "forecast_sha256" in body
        file = at if alone else study.verdict
        verdict = read_verdict(file) if alone or is_study and file.exists() else None
        new = held.get(verdict.forecast_sha256) if verdict and alone else None
        new = new or _waiting(study.forecast if alone or is_study else at)
        new = _completed(new, verdict, file) if verdict else new
        kept = _merged(held.get(new.forecast_sha256, new), new, str(at))
        kept = replace(kept, name=name or kept.name)
        if not kept.name.isprintable():
            raise UserError(f"{at}: {kept.name!r} is no name for a table; give one, as in NAME={at}")
        return type(self)(_by_time((held | {new.forecast_sha256: kept}).values()))


def ledger(path: Path | str, /, *sources: Path | str, **named: Path | str) -> Ledger:
    """The record in the file `path`, with `sources` (see `Ledger.add`) added, some under names of yours.

    The file has one JSON object a line, and is written whole. Raises UserError as `add` does, and where the file is
    damaged, or missing and there is nothing to add.

        ds.ledger("ledger.jsonl", "study-a", cross="study-b").scores
    """
    path, additions = Path(path), [*((source, "") for source in sources), *((s, name) for name, s in named.items())]
    after = before = read_ledger(path) if path.exists() or not additions else Ledger()
    for source, name in additions:
        after = after.add(source, name)
    if after != before:
        bodies = sorted((e.to_dict() for e in after.entries), key=lambda body: body["forecast_sha256"])
        lines = [json.dumps(body | {"sha256": own_hash(body)}, sort_keys=True) + "\n" for body in bodies]
        write_text(path, "".join(lines))
        log.info(f"{path} written: {len(before.entries)} forecasts before, {len(after.entries)} now")
    return after


def read_ledger(path: Path | str) -> Ledger:
    """The record in a file. Two lines of one forecast, as a merge of branches leaves them, are one entry. Raises
    UserError, which names the line, at one that was damaged or edited, and where two contradict each other."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {command('ledger', path, 'mystudy')} starts it") from None
    except IsADirectoryError:
        file_first = command("ledger", "ledger.jsonl", path)
        raise UserError(f"{path}: is a directory; name the ledger's file before it, as in {file_first}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    entries: dict[str, Entry] = {}
    for where, line in ((f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()):
        try:
            body = json.loads(line)
            if not isinstance(body, dict) or own_hash(body) != body.get("sha256"):
                raise ValueError
        except (ValueError, RecursionError):
            again = f"take the file from git, or delete the line and {command('ledger', path, 'STUDY')} adds it again"
            raise UserError(f"{where}: no entry of it, or edited: it does not match its sha256; {again}") from None
        entry = Entry.from_dict(body, where)
        entries[entry.forecast_sha256] = _merged(entries.get(entry.forecast_sha256, entry), entry, where)
    return Ledger(_by_time(entries.values()))


def _by_time(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda e: (e.created, e.forecast_sha256)))


def _waiting(path: Path) -> Entry:
    """The entry of a sealed forecast. Its name is that of its directory, or of its own if it is no forecast.json."""
    sealed = load_forecast(path)
    assert sealed.sha256 and sealed.created  # load_forecast has checked the one against all else
    own = path.resolve().parent.name if path.name == "forecast.json" else path.stem
    return Entry(
        name=own, metric=sealed.metric, target_budget_flops=sealed.target_budget_flops, factor=sealed.factor,
        created=sealed.created, level=sealed.level, forecast=sealed.loss, n_params_forecast=sealed.n_params.value,
        law=sealed.law, n_runs=sealed.inputs.n_runs, rehearsal=rehearsed(sealed.findings),
        forecast_sha256=sealed.sha256, inputs_sha256=sealed.inputs_sha256, version=__version__,
    )  # fmt: skip


def _completed(entry: Entry, v: Verdict, file: Path) -> Entry:
    """The entry with the numbers of its verdict. Raises UserError where the verdict is not on this very forecast."""
    new, said = replace(entry, measured=v.measured, run_id=v.run_id, n_params=v.n_params), entry.forecast
    of_it = (new.forecast_sha256, new.metric, said.value, (said.low, said.high), new.relative_error, new.inside)
    if of_it != (v.forecast_sha256, v.metric, v.predicted, v.interval, v.relative_error, v.inside):
        again = f"{command('verdict', file.parent)} gives it again"
        raise UserError(f"{file}: is of another forecast than the one beside it, or was altered; {again}")
    return new


def _merged(old: Entry, new: Entry, where: str) -> Entry:
    """Two entries of one forecast as one, by the name of the first. Raises UserError where their verdicts differ."""
    if old.measured is None or new.measured is None:
        return old if new.measured is None else replace(new, name=old.name)
    if (old.measured, old.run_id, old.n_params) != (new.measured, new.run_id, new.n_params):
        held = f"the ledger holds {old.measured!r} of run {old.run_id} for the same forecast"
        then = "keep the right one: delete the line of the other in the ledger, then type the command again"
        raise UserError(f"{where}: {new.measured!r} was measured by run {new.run_id}, but {held}; {then}")
    return old
