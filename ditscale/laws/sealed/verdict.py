"""`verdict`: the sealed forecast against the probe's measured loss, in a sentence generated from the numbers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import UserError, nearest
from ...units import compact, count
from ..estimates import Estimate
from ..result import Result, read_result
from ..table import Table
from .forecast import AT_TARGET, AVERAGE, Forecast
from .hashes import inputs_hash, own_hash


@dataclass(frozen=True)
class LawVerdict(Result):
    """What one form of law predicted, None when it was refused; `inside`: whether its own interval held."""

    law: str
    predicted: float | None
    relative_error: float | None
    inside: bool | None

    def contradiction(self) -> str:
        return (
            "predicted stands alone"
            if self.predicted is not None and None in (self.relative_error, self.inside)
            else ""
        )


@dataclass(frozen=True)
class Verdict(Result):
    """measured and predicted loss, relative_error = measured / predicted - 1, whether the interval held.

    interval: [low, high] as sealed (None is open). n_params, n_params_forecast: the probe's N and the forecast N*.
    by_law: the same of each form of law. inputs_unchanged: whether the grid runs of the
    table given now are the very rows the forecast was made from. sentence: what all this says.
    """

    LAYOUT = 1

    run_id: str
    metric: str
    budget_flops: float
    n_params: float
    n_params_forecast: float
    measured: float
    predicted: float
    interval: tuple[float | None, float | None]
    relative_error: float
    inside: bool
    by_law: tuple[LawVerdict, ...]
    inputs_unchanged: bool
    forecast_sha256: str
    forecast_created: str
    sentence: str

    def summary(self) -> str:
        lines = [self.sentence]
        for law in self.by_law:
            if law.predicted is None or law.relative_error is None:
                lines.append(f"  {law.law:<21} refused")
                continue
            where = "inside" if law.inside else "outside"
            lines.append(
                f"  {law.law:<21} {law.predicted:.4g}   measured is {100 * law.relative_error:+.2g} % from it, {where} "
                "its interval"
            )
        if not self.inputs_unchanged:
            lines.append("  The grid runs of this table are not the rows the forecast was made from.")
        lines.append(f"  forecast sealed {self.forecast_created}, sha256 {self.forecast_sha256[:16]}")
        return "\n".join(lines)


def verdict(forecast: Forecast, table: Table, run_id: str | None = None) -> Verdict:
    """Judge `forecast` (from `load_forecast`) by the probe in `table`.

    The probe is the run named `run_id`, else the one with role probe at the target budget, else (a table without roles)
    the only run there. Raises UserError when the forecast was altered or never sealed, when its inputs held the probe
    (under whatever name) or any run at the target budget, when there is no measured probe, when the probe is more than
    1 % off the target budget, or when the table was read for another metric.
    """
    if forecast.sha256 is None:
        raise UserError("this forecast was never sealed; seal it to a file before the probe runs")
    if own_hash(forecast.to_dict()) != forecast.sha256:
        raise UserError("this forecast was altered after it was sealed: its content does not match its sha256")
    if table.metric != forecast.metric:
        raise UserError(
            f"the forecast is of {forecast.metric!r}, the table was read for {table.metric!r}; read the same metric"
        )
    target = forecast.target_budget_flops
    i = _find_probe(table, target, run_id)
    name = str(table.run_id[i])
    (probe,) = table.take([i]).points()
    for row in forecast.inputs.rows:
        if row.run_id == name:
            raise UserError(f"the forecast saw the probe: run {name} is among its inputs; it cannot be judged by it")
        if dataclasses.replace(row, run_id=name, role=probe.role) == probe:
            raise UserError(
                f"the forecast saw the probe: its input {row.run_id} has the very numbers of run {name}; it cannot be "
                "judged by it"
            )
        if abs(row.budget_flops / target - 1) <= AT_TARGET:
            raise UserError(
                f"the forecast saw run {row.run_id} at its target budget {compact(target)}; it cannot be judged there"
            )
    if abs(table.budget_flops[i] / target - 1) > AT_TARGET:
        raise UserError(
            f"probe {name} has budget {compact(table.budget_flops[i])}, more than 1 % off the forecast's "
            f"{compact(target)}; give the probe that was run at the target"
        )
    measured = float(table.loss[i])
    if not math.isfinite(measured):
        raise UserError(f"probe {name} has no measured {table.metric} yet; wait until it is finished and collect again")
    error, inside = _against(forecast.loss, measured)
    laws = []
    for form in forecast.forms:
        said = form.loss
        off, held = (None, None) if said is None else _against(said, measured)
        laws.append(LawVerdict(form.law, said and said.value, off, held))
    return Verdict(
        run_id=name,
        metric=forecast.metric,
        budget_flops=float(table.budget_flops[i]),
        n_params=float(table.n_params[i]),
        n_params_forecast=forecast.n_params.value,
        measured=measured,
        predicted=forecast.loss.value,
        interval=(forecast.loss.low, forecast.loss.high),
        relative_error=error,
        inside=inside,
        by_law=tuple(laws),
        inputs_unchanged=inputs_hash(_inputs(table, i, forecast)) == forecast.inputs_sha256,
        forecast_sha256=forecast.sha256,
        forecast_created=forecast.created,
        sentence=_sentence(forecast, table, i, error, inside),
    )


def read_verdict(path: Path | str) -> Verdict:
    """The verdict in a verdict.json. Raises UserError, in one line, where it is missing or damaged."""
    return read_result(Verdict, path, "verdict")


def _inputs(table: Table, probe: int, forecast: Forecast) -> Table:
    """The rows that the forecast should have been made from: all but probes and what it left out by name."""
    left_out = {run for run, _ in forecast.inputs.exclusions}
    mine = [k for k in range(len(table)) if k != probe and table.run_id[k] not in left_out]
    return table.take(np.array(mine, dtype=int)).grid()


def _find_probe(table: Table, target: float, run_id: str | None) -> int:
    """The row of the probe: the named run, the only probe at (else: off) the target, or without roles the run there."""
    if run_id is not None:
        rows = [i for i in range(len(table)) if table.run_id[i] == run_id]
        if not rows:
            raise UserError(f"{table.source or 'table'}: there is no run {run_id!r}{nearest(run_id, table.run_id)}")
        return rows[0]
    probes = [i for i in range(len(table)) if table.role[i] == "probe"]
    near = [i for i in range(len(table)) if abs(table.budget_flops[i] / target - 1) <= AT_TARGET]
    at_target = [i for i in near if i in probes] if probes else near
    if not probes and not near:
        raise UserError(
            f"{table.source or 'table'}: no run has role probe or lies at the target budget {compact(target)}; add the "
            "probe's row, with `probe` in a column role"
        )
    if len(at_target) > 1:
        names = ", ".join(str(table.run_id[i]) for i in at_target)
        raise UserError(
            f"{table.source or 'table'}: {len(at_target)} runs lie at the target; name one by --run: {names}"
        )
    return (at_target or probes)[0]


def _against(said: Estimate, measured: float) -> tuple[float, bool]:
    return measured / said.value - 1, said.covers(measured)


def _sentence(forecast: Forecast, table: Table, i: int, error: float, inside: bool) -> str:
    low, high = ("open" if x is None else f"{x:.4g}" for x in (forecast.loss.low, forecast.loss.high))
    side = "above" if error > 0 else "below"
    level = f"{100 * forecast.level:g} %"
    outcome = (
        f"The forecast held: the measured value lies inside the {level} interval [{low}, {high}]."
        if inside
        else f"The forecast FAILED: the measured value lies outside the {level} interval [{low}, {high}]."
    )
    ratio = float(table.n_params[i]) / forecast.n_params.value
    size = f"the probe's N = {count(table.n_params[i])} is {ratio:.2g}x the forecast optimum"
    return (
        f"{'REHEARSAL: at' if table.rehearsal else 'At'} {compact(forecast.target_budget_flops)} FLOPs, "
        f"{forecast.factor:.3g}x beyond the largest budget, "
        f"{forecast.metric} = {float(table.loss[i]):.4g} was measured and {forecast.loss.value:.4g} forecast by the "
        f"{'mixture of laws' if forecast.law == AVERAGE else forecast.law.replace('_', ' ')} "
        f"({100 * abs(error):.2g} % {side}; {size}). {outcome}"
    )
