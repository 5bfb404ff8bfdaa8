"""What a study does not have yet, and the commands that make it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..quantities import METRICS
from .read import StudyResults, best_run


class Missing(NamedTuple):
    """A part that the report cannot show, and the command that makes it (between backticks)."""

    what: str
    command: str


def missing(results: StudyResults) -> list[Missing]:
    """All parts that the report cannot show, or that are of other runs than study.h5 holds."""
    found = []
    if results.laws is None:
        found.append(Missing("The laws (laws.json)", "`ditscale fit DIR`"))
    elif not _same_runs(results):
        what = "Laws of these runs: laws.json was fitted to other runs or losses than study.h5 holds"
        found.append(Missing(what, "`ditscale fit DIR`"))
    if results.forecast is None:
        found.append(Missing("The sealed forecast (forecast.json)", "`ditscale forecast DIR`"))
    if results.verdict is None:
        first = "" if results.probe.any() else "`ditscale launch DIR` (trains the probe), then "
        found.append(Missing("The verdict on the forecast (verdict.json)", f"{first}`ditscale verdict DIR`"))
    if results.samples is None:
        best = best_run(results.table)
        found.append(Missing(f"Samples of the best run ({best})", f"`ditscale evaluate DIR/runs/{best}`"))
    sweep, rates = results.records.sweep, results.rates
    if sweep and sweep != {run for cell in (rates.cells if rates else ()) for run in cell.swept}:
        what = "The learning-rate law" + " of these runs: rates.json was made from others" * bool(rates)
        found.append(Missing(f"{what} (rates.json)", "`ditscale rates DIR`"))
    runs = results.table.run_id
    for metric in (METRICS[name] for name in results.study.evaluation if name in METRICS):
        lacking = runs[~np.isfinite(results.points.get(metric, np.full(len(runs), np.nan)))]
        if len(lacking):  # The study asks for this metric.
            command = f"`ditscale evaluate DIR/runs/{lacking[0]}` and so on, then `ditscale collect DIR`"
            found.append(Missing(f"{metric.upper()} of {len(lacking)} of {len(runs)} runs", command))
    return found


def _same_runs(results: StudyResults) -> bool:
    """Whether laws.json was fitted to the grid runs and losses that study.h5 now holds."""
    if results.laws is None:
        return False
    excluded, grid = {e.run_id for e in results.laws.exclusions}, ~results.probe
    here = dict(zip(results.table.run_id[grid], results.points[results.metric][grid].tolist(), strict=True))
    fitted = {p.run_id: p.loss for p in results.laws.points}
    return fitted == {run: loss for run, loss in here.items() if run not in excluded}
