"""Columns of a study's table from what `ditscale evaluate` measured on its runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Sequence

from ..config import Study
from ..rundir.evaluation import Result

# metrics of evaluation.h5, and what they are called in the table
COLUMNS = {"val_loss": "loss", "vlb": "vlb", "likelihood": "nll", "fid": "fid"}
# settings that are keys of config.Evaluation
ASKED = ("t_min", "trace", "probes", "tolerance", "sampler", "steps", "guidance", "extractor")


@dataclass(frozen=True)
class Column:
    """What a column's numbers are: their unit, and in words what they were measured on and how."""

    unit: str
    how: str


def evaluated(
    own: str, results: list[list[Result]], study: Study | None = None, roles: Sequence[str] = ()
) -> tuple[list[dict[str, float]], dict[str, Column], list[str]]:
    """One dict a run, the columns by name, and notes. Of a run: vlb, nll, fid and vlb_se, ...; of a data set other than
    the `own`: vlb_<data set>, vlb_se_<data set>, ...

    A column holds what was measured alike, for numbers of unlike n or solver make no law: as the study asks, or else as
    most runs were. What was measured otherwise too has columns of its own, which end in what is different:
    fid:guidance=2, fid_se:guidance=2. The notes say how many runs lack a column; by their `roles`, those of a sweep of
    rates are not counted, for no study has them evaluated.
    """
    rows, columns, notes = [{} for _ in results], {}, []
    counted = [i for i in range(len(results)) if not roles or roles[i] != "rate"]
    # by metric and data set, by way of measuring: number of the run to its result
    ways = defaultdict(lambda: defaultdict(dict))
    for i, run in enumerate(results):
        for result in run:
            if result.metric in COLUMNS:
                ways[result.metric, result.dataset][result.of][i] = result
    for (metric, dataset), found in sorted(ways.items()):
        usual, *others = sorted(found.values(), key=lambda runs: _rank(runs, study), reverse=True)
        for runs in (usual, *others):
            name, where = COLUMNS[metric], ("" if dataset == own else f"_{dataset}") + _unlike(_any(runs), _any(usual))
            columns[f"{name}{where}"] = Column(_any(runs).unit, _words(_any(runs)))
            for i, result in runs.items():
                rows[i] |= {f"{name}{where}": result.value, f"{name}_se{where}": result.se}
            have = sum(i in runs for i in counted)
            if have < len(counted):
                how = "; `ditscale evaluate RUN_DIR` measures" if runs is usual else ""
                notes.append(f"{name}{where}: {have} of {len(counted)} runs have it{how}")
    return rows, columns, notes


def _any(runs: dict[int, Result]) -> Result:
    return next(iter(runs.values()))


def _rank(runs: dict[int, Result], study: Study | None) -> tuple:
    """Of a way of measuring, to be the usual one: that the study asks for it, runs, images."""
    result = _any(runs)
    asked = study.evaluation.get(result.metric) if study else None
    as_asked = asked and (result.n, result.seed) == (asked.n or study.validation.n, study.validation.seed)
    for key in ASKED if as_asked else ():
        made = result.settings.get(key, getattr(asked, key))
        # its name, without the hash of its weights
        as_asked &= (made.split()[0] if key == "extractor" else made) == getattr(asked, key)
    return bool(as_asked), len(runs), result.n, result.of


def _unlike(result: Result, usual: Result) -> str:
    """What is different in how it was measured: ":n=512+sampler=heun"; nothing for the usual way."""
    keys = [*result.how, *(key for key in usual.how if key not in result.how)]
    changed = {key: result.how.get(key, "none") for key in keys if result.how.get(key) != usual.how.get(key)}
    return f":{'+'.join(f'{key}={_short(value)}' for key, value in changed.items())}" if changed else ""


def _short(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "-")


def _words(result: Result) -> str:
    n, *settings = result.how.items()
    rest = "; ".join(f"{key} {value}" for key, value in settings)
    return f"{result.dataset}: {n[1]} images; {rest}; the same for every run"
