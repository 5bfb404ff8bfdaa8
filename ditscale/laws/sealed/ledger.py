"""`ledger`: the forecasts and verdicts of several studies in one file, and how often the intervals held."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from ... import __version__
from ...errors import UserError, command
from ...files import read_mapping, write_text
from ...logs import log
from ...naming import StudyPaths
from ...units import compact
from ..estimates import Estimate
from ..notebook import Shown
from ..text import columns
from .entry import HEAD, Entry, Score, score
from .forecast import AT_TARGET, load_forecast, own_hash
from .verdict import Verdict, read_verdict

# Distances beyond the grid that are summed up apart: name, above, and up to.
BEYOND = (("<= 3x", 0, 3), ("3x to 30x", 3, 30), ("30x to 300x", 30, 300), ("> 300x", 300, math.inf))


@dataclass(frozen=True, repr=False)
class Ledger(Shown):
    """The record: entries by the time they were sealed. scores: of all verdicts, then of each distance beyond the grid
    that has some. Rehearsals are listed and never counted."""

    LAYOUT = 1
    COMPUTED = ("scores",)

    entries: tuple[Entry, ...] = ()

    @property
    def scores(self) -> tuple[Score, ...]:
        counted, parts = [e for e in self.entries if not e.rehearsal], []
        for beyond, above, up_to in BEYOND:
            there = [e for e in counted if above < e.factor / (1 + AT_TARGET) <= up_to]
            parts += [score(there, beyond)] if any(e.measured is not None for e in there) else []
        return (score(counted), *parts)

    def heading(self) -> str:
        return f"{len(self.entries)} sealed forecasts: {self.scores[0].sentence}"

    def main(self) -> dict[str, Estimate]:
        return {f"{e.name}, {e.metric} at {compact(e.target_budget_flops)}": e.forecast for e in self.entries}

    def summary(self) -> str:
        """Readable text: a row for each forecast, and what the verdicts come to."""
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
        study, body = StudyPaths(at if at.is_dir() else at.parent), read_mapping(at)
        if not at.is_dir() and not body:
            raise UserError(f"{at}: there is no study, forecast or verdict; {command('forecast', at)} seals a forecast")
        alone = "forecast_sha256" in body
        file = at if alone else study.verdict
        verdict = read_verdict(file) if alone or at.is_dir() and file.exists() else None
        entry = held.get(verdict.forecast_sha256) if verdict else None
        if entry is None or not alone:
            entry = _waiting(study.forecast if alone or at.is_dir() else at)
        new = _completed(entry, verdict, str(file)) if verdict else entry
        kept = _merged(held.get(new.forecast_sha256, new), new, str(at))
        if not (name or kept.name).isprintable():
            raise UserError(f"{at}: {name or kept.name!r} is no name for a table; give one, as in NAME={at}")
        held[new.forecast_sha256] = replace(kept, name=name or kept.name)
        return type(self)(_by_time(held.values()))


def ledger(path: Path | str, /, *sources: Path | str, **named: Path | str) -> Ledger:
    """The record in the file `path`, with `sources` (see `Ledger.add`) added, some under names of yours.

    The file has one JSON object a line, and is written whole. Raises UserError as `add` does, and where the file is
    damaged, or missing and there is nothing to add.

        ds.ledger("ledger.jsonl", "study-a", cross="study-b").scores
    """
    path, additions = Path(path), [*((source, "") for source in sources), *((s, name) for name, s in named.items())]
    before = read_ledger(path) if path.exists() or not additions else Ledger()
    after = before
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
            raise UserError(
                f"{where}: no entry of a ledger, or edited since: it does not match its sha256; {again}"
            ) from None
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
        law=sealed.law, n_runs=sealed.inputs.n_runs, rehearsal=any(f.code == "rehearsal" for f in sealed.findings),
        forecast_sha256=sealed.sha256, inputs_sha256=sealed.inputs_sha256, version=__version__,
    )  # fmt: skip


def _completed(entry: Entry, verdict: Verdict, file: str) -> Entry:
    """The entry with the numbers of its verdict. Raises UserError where the verdict is not on this very forecast."""
    said = entry.forecast
    new = replace(entry, measured=verdict.measured, run_id=verdict.run_id, n_params=verdict.n_params)
    of_it = (entry.forecast_sha256, entry.metric, said.value, (said.low, said.high), new.relative_error, new.inside)
    v = verdict
    if of_it != (v.forecast_sha256, v.metric, v.predicted, v.interval, v.relative_error, v.inside):
        again = f"{command('verdict', Path(file).parent)} gives it again"
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
