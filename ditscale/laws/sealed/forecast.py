"""`forecast`: what a new run at a larger budget will measure, said before it exists. `seal` writes it to a file, once,
and `load_forecast` reads it with suspicion."""

import datetime
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import UserError, command
from ...files import write_once
from ...naming import StudyPaths, digest
from ...result import Result, optional
from ...tables.read import Source, read_table
from ...tables.table import SAME_BUDGET, Point, Table
from ...units import compact, count, number
from ..checks.runs import check_rehearsal, check_units, refuse_units
from ..estimates import LEVEL, Estimate
from ..findings import Finding, finding, listed, rehearsed
from ..notebook import Shown
from ..predictor.identify import ask
from ..text import spelled

# The law of a forecast by the predictor, as its JSON names it, and of one by the older rule.
MIXTURE, OLD_MIXTURE = "mixture", "average"
# A probe, or a run that gives the forecast away, is one whose budget is this near to the target.
AT_TARGET = 0.01
RULE = (
    "One family of laws is fitted to the runs near the optimum of their slices: the surface E + A N^-alpha + B "
    "D^-beta; the same with the frontier, its slope and the slices' curvature each off the surface's (relaxed); and "
    "with a bend of N*(C) (bent). A slice, a size and a trajectory may share errors, and the level and N* may drift "
    "beyond the grid, each as far as the runs say. Floors and forms are averaged by their posterior weight. The "
    "forecast is the median, and its interval the central 95 %, of that mixture for one new run at the optimum, its "
    "scatter included."
)


@dataclass(frozen=True)
class Form(Result):
    """One form's forecast of one new run, None when it was refused. Only forecasts by the older rule say the rest:
    held_out_error: relative error of L* at the largest budget when fitted without it; admissible; reasons."""

    law: str
    loss: Estimate | None
    held_out_error: float | None = None
    held_out_se: float | None = None
    admissible: bool = True
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs(Result):
    """What a forecast was made from: rows by run_id, the slices' budgets, the (run_id, reason) pairs that were left
    out, and the probes near the target that had been measured already."""

    n_runs: int
    budgets: tuple[float, ...]
    rows: tuple[Point, ...]
    exclusions: tuple[tuple[str, str], ...]
    measured_probes: tuple[str, ...]


@dataclass(frozen=True)
class Probe(Result):
    """The run that is to test a study's forecast, and its price. device: "GPU" or "core", whose hours are counted;
    disk_bytes: that stay; sources: of the speed."""

    run_id: str
    seed: int
    data_seed: int
    device: str
    device_hours: Estimate
    hours: Estimate
    disk_bytes: int
    sources: tuple[str, ...]

    def summary(self) -> str:
        cost = f"{spelled(self.device_hours, compact)} {self.device}-hours, {spelled(self.hours, compact)} hours"
        disk = f"{self.disk_bytes / 2**20:.3g} MiB of disk"
        return f"{self.run_id}, seed {self.seed}, data seed {self.data_seed}: {cost}, {disk}"


@dataclass(frozen=True, repr=False)
class Forecast(Shown):
    """A forecast. Every `Estimate` is an interval at `level`; an open end is None. n_params, n_tokens: the optimum at
    target_budget_flops. loss: prediction interval of one new run's measured `metric` there. law: "mixture"; why: its
    parts; forms: every form's own forecast; coefficients: {form: its weight and its likeliest parameters, those of
    `predictor.form`}. run_scatter: rms of one run, relative (of a metric of either sign: in its units). inputs_sha256:
    of the rows (`inputs_hash`). created: UTC; None until sealed. probe: of a study, the run that will test it."""

    LAYOUT = 2

    created: str | None
    metric: str
    level: float
    target_budget_flops: float
    factor: float
    n_params: Estimate
    n_tokens: Estimate
    loss: Estimate
    law: str
    why: str
    rule: str
    forms: tuple[Form, ...]
    coefficients: dict[str, dict[str, float]]
    run_scatter: float
    inputs: Inputs
    inputs_sha256: str
    findings: tuple[Finding, ...]
    sha256: str | None = None
    probe: Probe | None = optional()

    def heading(self) -> str:
        sealed = f"sealed {self.created}" if self.created else "not sealed"
        return f"forecast of {self.metric} at {compact(self.target_budget_flops)} FLOPs, {sealed}, by {self.law}"

    def main(self) -> dict[str, Estimate]:
        return {self.metric: self.loss} | {form.law.replace("_", " "): form.loss for form in self.forms if form.loss}

    def summary(self) -> str:
        made = "REHEARSAL: forecast" if rehearsed(self.findings) else "Forecast"
        beyond = f"{self.factor:.3g}x beyond the largest of {self.inputs.n_runs} runs' budgets"
        lines = [
            f"{made} for {compact(self.target_budget_flops)} FLOPs, {beyond}",
            f"  N*    {spelled(self.n_params, count)}",
            f"  D*    {spelled(self.n_tokens, count)}",
            f"  {self.metric}  {spelled(self.loss)}, for one new run",
            f"  law   {self.law}: {self.why}",
        ]
        for form in self.forms:
            said = spelled(form.loss) if form.loss else "refused"
            lines.append(f"    {form.law:<21} {'   '.join([said, *form.reasons])}")
        lines += [f"  probe {self.probe.summary()}"] if self.probe else []
        sealed = [f"  sealed {self.created}, sha256 {self.sha256[:16]}"] if self.sha256 else []
        return "\n".join([*lines, *listed(self.findings), *sealed])


def forecast(
    table: Source, budget_flops: float | str, *, bootstrap: int = 0, seed: int = 0, kappa: float | None = None
) -> Forecast:
    """Forecast one new run at `budget_flops` from the grid runs of `table`, whatever `read_table` reads.

    bootstrap, seed: without effect; older scripts pass them. kappa: C / (N D), estimated when None. Raises UserError
    when a grid run lies at or above the target budget, and (status 3) when the runs do not determine the optimum there.
    `inputs` names the probes near the target that have been measured already, with which `seal` refuses it.

        ds.forecast("runs.csv", "1.5e21").loss
    """
    target, table = number(budget_flops, "target budget", above=0), read_table(table)
    grid = _checked_grid(table, target, kappa)
    asked = ask(grid, target, kappa)
    if (made := asked.whole) is None:
        why = asked.refused and asked.refused.message
        raise UserError(f"{grid.where}: there is no forecast: {why}", status=3)
    best, by_form = made.optimum(target), made.by_form(target)
    findings = check_rehearsal(grid) + check_units(grid) + _check_optimum(grid, target, best.n_params.value)
    # A probe at another budget is history, one near this target gives the answer away.
    near = np.abs(np.log(table.budget_flops / target)) <= np.log(SAME_BUDGET)
    probes = table.run_id[(table.role == "probe") & np.isfinite(table.loss) & near]
    budgets = tuple(budget for budget, _ in grid.slices())
    inputs = Inputs(len(grid), budgets, _rows(grid), grid.exclusions, tuple(sorted(map(str, probes))))
    return Forecast(
        created=None, metric=grid.metric, level=LEVEL, target_budget_flops=target, factor=target / budgets[-1],
        n_params=best.n_params, n_tokens=best.n_tokens, loss=made.one_run(target), law=MIXTURE,
        why=", ".join(f"{name} {100 * part.weight:.0f} %" for name, part in by_form.items()),
        rule=RULE, forms=tuple(Form(name, part.one_run) for name, part in by_form.items()),
        coefficients={name: {"weight": part.weight, **part.parameters} for name, part in by_form.items()},
        run_scatter=made.run_scatter, inputs=inputs, inputs_sha256=inputs_hash(grid), findings=tuple(findings),
    )  # fmt: skip


def seal(path: Path | str, made: Forecast) -> Forecast:
    """Write `made` (from `forecast`) to `path`, once, with the time and its own hash; returns what lies there.

    The same inputs, metric and target again are a no-op, also after the probe has been measured. Raises UserError when
    `path` holds another forecast, which is never overwritten, or when a probe was measured before anything was sealed.

        ds.seal("forecast.json", ds.forecast("runs.csv", "1.5e21"))
    """
    path = Path(path)
    if path.exists():
        sealed = load_forecast(path)
        if all(getattr(sealed, n) == getattr(made, n) for n in ("inputs_sha256", "metric", "target_budget_flops")):
            return sealed
        held = f"of other inputs or target, sealed {sealed.created} for {compact(sealed.target_budget_flops)} FLOPs"
        raise UserError(f"{path} already holds a forecast {held}; it is never overwritten: give another file name")
    if probes := made.inputs.measured_probes:
        raise UserError(f"{path}: the probe {probes[0]} has been measured already; a forecast is sealed before it runs")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    sealed = replace(made, created=now, sha256=None)
    sealed = replace(sealed, sha256=own_hash(sealed.to_dict()))
    try:
        write_once(path, json.dumps(sealed.to_dict(), indent=1, allow_nan=False) + "\n", to_disk=True)
    except FileExistsError:
        raise UserError(f"{path} was written by someone else meanwhile; it is never overwritten") from None
    return sealed


def load_forecast(path: Path | str) -> Forecast:
    """Read a sealed forecast and verify its hash. Raises UserError when it is missing, no forecast, or altered."""
    path = Path(path)
    of_study = StudyPaths(path.parent).study.is_file()
    seals = command("forecast", *((path.parent,) if of_study else ("TABLE", "--budget", "FLOPS", "--out", path)))
    if not path.exists():
        raise UserError(f"{path}: no such file; {seals} seals it")
    again = f"restore it from a copy, or move it away and {seals} seals another"
    sealed, body = Forecast.from_file(path, "forecast", again), json.loads(path.read_text(encoding="utf-8"))
    if sealed.created is None or own_hash(body) != sealed.sha256 or sealed.to_dict() != body:
        raise UserError(f"{path} was altered after it was sealed: its content does not match its sha256; {again}")
    return sealed


def inputs_hash(table: Table) -> str:
    """sha256 over the rows (run_id, role, N, D, C, loss), sorted by run_id, and the metric; their order is no input."""
    return digest({"metric": table.metric, "rows": [point.to_dict() for point in _rows(table)]})


def _rows(table: Table) -> tuple[Point, ...]:
    return tuple(sorted(table.points(), key=lambda point: point.run_id))


def own_hash(body: dict) -> str:
    """sha256 of a JSON object without its own `sha256`."""
    return digest({k: v for k, v in body.items() if k != "sha256"})


def _checked_grid(table: Table, target: float, kappa: float | None) -> Table:
    """The grid's runs. Raises UserError where a forecast at `target` cannot be made from them."""
    grid = table.grid("a forecast")
    near, largest = np.abs(grid.budget_flops - target) <= AT_TARGET * target, grid.largest
    if near.any():
        there = f"run {grid.run_id[near][0]} already lies at the target budget {compact(target)}"
        raise UserError(f"{grid.where}: {there}; forecast a budget that no run has, or mark that run as a probe")
    if target <= largest:
        below = f"the target budget {compact(target)} is not above the largest budget of its runs, {compact(largest)}"
        raise UserError(f"{grid.where}: {below}; forecast a larger one, for example {compact(8 * largest)}")
    refuse_units(grid, kappa)
    return grid


def _check_optimum(grid: Table, target: float, n_params: float) -> list[Finding]:
    """`optimum_unseen`: an N* that no size of the grid speaks for. N* grows with the budget, so below every size it is
    an artefact; above, it may grow as fast as the budget at most."""
    growth, least, largest = target / grid.largest, grid.n_params.min(), grid.n_params.max()
    if least <= n_params <= growth * largest:
        return []
    side, add = ("below", "smaller") if n_params < least else ("too far above", "larger")
    text = f"N* = {count(n_params)} lies {side} the grid's sizes ({count(least)} to {count(largest)}) at {growth:.3g}x"
    text += f" their largest budget; add {add} sizes, until the slices have their minima inside"
    return [finding("optimum_unseen", text, value=min(n_params / least, n_params / (growth * largest)))]
