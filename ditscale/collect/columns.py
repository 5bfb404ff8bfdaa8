"""Columns of a study's table from what `ditscale evaluate` measured on its runs."""

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple, Sequence

from ..config import Study
from ..quantities import METRICS, ColumnInfo
from ..rundir.evaluation import Result

# Settings that are keys of config.Evaluation.
ASKED = ("t_min", "trace", "probes", "tolerance", "sampler", "steps", "guidance", "extractor")


class Columns(NamedTuple):
    rows: list[dict[str, float]]  # One {column: number} for each run.
    columns: dict[str, ColumnInfo]
    how: dict[str, str]  # In words, what a column of values was measured on and how.
    notes: list[str]  # What some runs lack.


def evaluated(own: str, results: list[list[Result]], study: Study | None = None, roles: Sequence[str] = ()) -> Columns:
    """The columns of what was measured: vlb, vlb_se, ...; on another data set than the `own`: vlb_<data set>, ...

    A column holds what was measured alike, as the study asks, or else as most runs were. What was measured otherwise
    has columns that end in what is different: fid:guidance=2, fid_se:guidance=2. The notes say how many runs lack a
    column, without those of a sweep of rates (by their `roles`), which no study has evaluated."""
    found = Columns([{} for _ in results], {}, {}, [])
    counted = [i for i in range(len(results)) if not roles or roles[i] != "rate"]
    # By metric and data set, by way of measuring: number of the run to its result.
    ways: dict[tuple[str, str], dict[tuple, dict[int, Result]]] = defaultdict(lambda: defaultdict(dict))
    for i, run in enumerate(results):
        for result in run:
            if result.metric in METRICS:
                ways[result.metric, result.dataset][result.of][i] = result
    for (metric, dataset), by_way in sorted(ways.items()):
        usual, *others = sorted(by_way.values(), key=lambda runs: _rank(runs, study), reverse=True)
        for runs in (usual, *others):
            one, as_usual = _any(runs).how, _any(usual).how
            # What is different in how it was measured: "n=512+sampler=heun"; nothing for the usual way.
            changed = {k: one.get(k, "none") for k in {**one, **as_usual} if one.get(k) != as_usual.get(k)}
            variant = "+".join(f"{key}={_short(value)}" for key, value in changed.items())
            value = ColumnInfo(METRICS[metric], dataset, variant, "value", _any(runs).unit)
            error = replace(value, quantity="se")
            name, name_se = value.name(own), error.name(own)
            found.columns.update({name: value, name_se: error})
            n, *settings = one.items()
            rest = "; ".join(f"{key} {value}" for key, value in settings)
            found.how[name] = f"{dataset}: {n[1]} images; {rest}; the same for every run"
            for i, result in runs.items():
                found.rows[i].update({name: result.value, name_se: result.se})
            have = sum(i in runs for i in counted)
            if have < len(counted):
                how = "; `ditscale evaluate RUN_DIR` measures" if runs is usual else ""
                found.notes.append(f"{name}: {have} of {len(counted)} runs have it{how}")
    return found


def _any(runs: dict[int, Result]) -> Result:
    return next(iter(runs.values()))


def _rank(runs: dict[int, Result], study: Study | None) -> tuple:
    """Of a way of measuring, to be the usual one: that the study asks for it, runs, images."""
    result, as_asked = _any(runs), False
    asked = study.evaluation.get(result.metric) if study else None
    if study and asked:
        as_asked = (result.n, result.seed) == (asked.n or study.validation.n, study.validation.seed)
        for key in ASKED:
            value = result.settings.get(key, getattr(asked, key))
            # The extractor's name, without the hash of its weights.
            as_asked &= (value.split()[0] if key == "extractor" else value) == getattr(asked, key)
    return as_asked, len(runs), result.n, result.of


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "-")
