"""Columns of a study's table from what `ditscale evaluate` measured on its runs."""

from __future__ import annotations

import json
from collections import Counter

from .evaluation import Result

COLUMNS = {"vlb": "vlb", "likelihood": "nll", "fid": "fid"}  # metrics of evaluation.h5, and what they are called in the table


def evaluated(own: str, results: list[list[Result]]) -> tuple[list[dict[str, float]], list[str]]:
    """One dict a run: vlb, nll, fid and vlb_se, ...; of a data set other than the `own`: vlb_<data set>, vlb_se_<data set>, ...

    A column holds what was measured alike: with the settings of most runs. The notes say what was left out for that, for
    numbers of unlike n or solver make no law.
    """
    rows, notes = [{} for _ in results], []
    kinds = sorted({(r.metric, r.dataset) for run in results for r in run if r.metric in COLUMNS})
    for metric, dataset in kinds:
        there = [next((r for r in run if (r.metric, r.dataset) == (metric, dataset)), None) for run in results]
        ways = Counter(_way(r) for r in there if r)
        usual = ways.most_common(1)[0][0]
        name, where = COLUMNS[metric], "" if dataset == own else f"_{dataset}"
        for row, result in zip(rows, there, strict=True):
            if result and _way(result) == usual:
                row |= {f"{name}{where}": result.value, f"{name}_se{where}": result.se}
        lacking = len(rows) - ways[usual]
        if lacking:
            unlike = ways.total() - ways[usual]
            notes.append(
                f"{name}{where}: {ways[usual]} of {len(rows)} runs have it"
                + (f"; {unlike} were measured with other settings (n, seed, solver, ...) and left out" if unlike else "")
                + "; `ditscale evaluate RUN_DIR` measures"
            )
    return rows, notes


def _way(result: Result) -> str:
    settings = {key: value for key, value in result.settings.items() if key != "model"}
    return json.dumps([result.n, result.seed, settings], sort_keys=True)
