"""`verdict`: the sealed forecast against the probe's measured loss, in a sentence generated from the numbers."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import UserError, nearest
from ...result import Result
from ...tables.read import Source, read_table
from ...tables.table import Point, Table
from ...units import compact, count
from ..estimates import Estimate
from ..notebook import Shown
from ..text import ends, short
from .forecast import AT_TARGET, MIXTURE, OLD_MIXTURE, Forecast, inputs_hash, own_hash


@dataclass(frozen=True)
class LawVerdict(Result):
    """What one form of law predicted, None when it was refused; `inside`: whether its own interval held."""

    law: str
    predicted: float | None = None
    relative_error: float | None = None
    inside: bool | None = None

    def contradiction(self) -> str:
        alone = self.predicted is not None and None in (self.relative_error, self.inside)
        return "predicted stands alone" if alone else ""

    def line(self) -> str:
        if self.predicted is None or self.relative_error is None:
            return f"  {self.law:<21} refused"
        off = f"{100 * self.relative_error:+.2g} % from it, {'inside' if self.inside else 'outside'} its interval"
        return f"  {self.law:<21} {self.predicted:.4g}   measured is {off}"


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """relative_error: measured / predicted - 1; interval: [low, high] as sealed (None: open); inside: whether it held.
    n_params, n_params_forecast: the probe's N and the forecast N*. by_law: the same of each form of law.
    inputs_unchanged: whether the table's grid runs are the very rows the forecast was made from."""

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

    def main(self) -> dict[str, Estimate]:
        said = {"measured": Estimate(self.measured), "forecast": Estimate(self.predicted, *self.interval)}
        return said | {law.law: Estimate(law.predicted) for law in self.by_law if law.predicted is not None}

    def summary(self) -> str:
        lines = [self.sentence, *(law.line() for law in self.by_law)]
        if not self.inputs_unchanged:
            lines.append("  The grid runs of this table are not the rows the forecast was made from.")
        return "\n".join([*lines, f"  forecast sealed {self.forecast_created}, sha256 {self.forecast_sha256[:16]}"])


def read_verdict(path: Path | str) -> Verdict:
    """The verdict in a verdict.json. Raises UserError, in one line, where it is missing or damaged."""
    return Verdict.from_file(path, "verdict")


def verdict(forecast: Forecast, table: Source, run_id: str | None = None) -> Verdict:
    """The verdict on `forecast` (from `load_forecast`) by the probe in `table`, whatever `read_table` reads.

    The probe is the run named `run_id`, else the one with role probe at the target budget, else the only run there.
    Raises UserError when the forecast was altered or never sealed, when its inputs held the probe (under whatever name)
    or any run at the target, without a measured probe within 1 % of the target, or on a table of another metric.

        ds.verdict(sealed, "runs.csv").inside
    """
    if forecast.sha256 is None or forecast.created is None:
        raise UserError("this forecast was never sealed; seal it to a file before the probe runs")
    if own_hash(forecast.to_dict()) != forecast.sha256:
        raise UserError("this forecast was altered after it was sealed; read it from its file again, by load_forecast")
    table = read_table(table, forecast.metric)
    if table.metric != forecast.metric:
        raise UserError(f"the forecast is of {forecast.metric!r}, not {table.metric!r}; read the same metric")
    probe = table.points()[_find_probe(table, forecast.target_budget_flops, run_id)]
    _check_probe(forecast, probe)
    predicted, error, inside = _against(forecast.loss, probe.loss)
    by_law = (LawVerdict(f.law, *(_against(f.loss, probe.loss) if f.loss else ())) for f in forecast.forms)
    # The rows that the forecast should have been made from: all but probes and what it left out by name.
    left_out = [probe.run_id, *(run for run, _ in forecast.inputs.exclusions)]
    inputs = table.take(~np.isin(table.run_id, left_out)).grid()
    return Verdict(
        run_id=probe.run_id, metric=forecast.metric, budget_flops=probe.budget_flops, n_params=probe.n_params,
        n_params_forecast=forecast.n_params.value, measured=probe.loss, predicted=predicted,
        interval=(forecast.loss.low, forecast.loss.high), relative_error=error, inside=inside, by_law=tuple(by_law),
        inputs_unchanged=inputs_hash(inputs) == forecast.inputs_sha256, forecast_sha256=forecast.sha256,
        forecast_created=forecast.created, sentence=_sentence(forecast, bool(table.rehearsal), probe, error, inside),
    )  # fmt: skip


def _against(said: Estimate, measured: float) -> tuple[float, float, bool]:
    """(predicted, relative error, whether the interval held)."""
    return said.value, measured / said.value - 1, said.covers(measured)


def _check_probe(forecast: Forecast, probe: Point) -> None:
    """Raise UserError where the probe tests nothing: the forecast saw it, it is elsewhere, or it is not measured."""
    target, name = forecast.target_budget_flops, probe.run_id
    for row in forecast.inputs.rows:
        if row.run_id == name:
            seen = f"the probe: run {name} is among its inputs"
        elif replace(row, run_id=name, role=probe.role) == probe:
            seen = f"the probe: its input {row.run_id} has the very numbers of run {name}"
        elif abs(row.budget_flops / target - 1) <= AT_TARGET:
            seen = f"run {row.run_id} at its target budget {compact(target)}"
        else:
            continue
        raise UserError(f"the forecast saw {seen}; it cannot be tested there")
    if abs(probe.budget_flops / target - 1) > AT_TARGET:
        off = f"{compact(probe.budget_flops)}, more than 1 % off the forecast's {compact(target)}"
        raise UserError(f"probe {name} has budget {off}; give the probe that was run at the target")
    if not math.isfinite(probe.loss):
        raise UserError(f"probe {name} has no measured {forecast.metric} yet; collect again when it is finished")


def _find_probe(table: Table, target: float, run_id: str | None) -> int:
    """The row of the probe: the named run, the only probe at (else: off) the target, or without roles the run there."""
    is_probe, near = table.role == "probe", np.abs(table.budget_flops / target - 1) <= AT_TARGET
    if run_id is not None:
        rows = np.flatnonzero(table.run_id == run_id)
        missing = f"there is no run {run_id!r}{nearest(run_id, table.run_id)}"
    else:
        rows = np.flatnonzero(near & is_probe if is_probe.any() else near)
        rows = rows if len(rows) else np.flatnonzero(is_probe)[:1]
        missing = f"no run has role probe or lies at the target budget {compact(target)}; add the probe's row, with"
        missing += " `probe` in a column role"
    if len(rows) > 1:
        names = ", ".join(map(str, table.run_id[rows]))
        missing = f"{len(rows)} runs lie at the target; name one by --run: {names}"
    if len(rows) != 1:
        raise UserError(f"{table.where}: {missing}")
    return int(rows[0])


def _sentence(forecast: Forecast, rehearsed: bool, probe: Point, error: float, inside: bool) -> str:
    span = f"the {100 * forecast.level:g} % interval [{ends(forecast.loss, short, ', ', 'open') or 'open, open'}]"
    held, where = ("held", "inside") if inside else ("FAILED", "outside")
    law = "mixture of laws" if forecast.law in (MIXTURE, OLD_MIXTURE) else forecast.law.replace("_", " ")
    off = f"{100 * abs(error):.2g} % {'above' if error > 0 else 'below'}"
    size = f"N = {count(probe.n_params)} is {probe.n_params / forecast.n_params.value:.2g}x the forecast optimum"
    return (
        f"{'REHEARSAL: at' if rehearsed else 'At'} {compact(forecast.target_budget_flops)} FLOPs, "
        f"{forecast.factor:.3g}x beyond the largest budget, {forecast.metric} = {probe.loss:.4g} was measured and "
        f"{forecast.loss.value:.4g} forecast by the {law} ({off}; the probe's {size}). The forecast {held}: the "
        f"measured value lies {where} {span}."
    )
