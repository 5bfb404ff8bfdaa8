"""What a report is made from: everything a study directory holds, read once, and what it does not hold yet."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ..config import Study
from ..errors import UserError
from ..laws import Estimate, Table, load_forecast, read_table
from ..naming import StudyPaths
from ..plan.study import read_study
from ..quantities import METRICS

# What a report reads of the file that each verb writes.
PARTS = {
    "fit": ("approach2", "approach3", "backtests", "bootstrap", "exclusions", "findings", "kappa", "loss_law",
            "loss_with_floor", "metric", "n_runs", "objective", "points", "slices"),
    "verdict": ("by_law", "inputs_unchanged", "inside", "interval", "measured", "n_params", "n_params_forecast",
                "predicted", "relative_error", "run_id"),
    "rates": ("cells", "overrides", "params", "reasons", "scale", "status", "tokens"),
}  # fmt: skip
STANDARD_ERROR = re.compile(r"[a-z]+_se([_:]|$)")  # a column of study.h5 that holds those of another


@dataclass(frozen=True)
class Samples:
    """Pictures a run generated beside held-out ones of the same captions: uint8 or float32 [n, R, R, C], text [n]."""

    run_id: str
    generated: np.ndarray
    reference: np.ndarray
    captions: tuple[str, ...]
    settings: str


@dataclass(frozen=True)
class Missing:
    """A part the report cannot show: what it is, and the command that gives it (between backticks)."""

    what: str
    command: str


@dataclass(frozen=True)
class NoiseLevels:
    """The validation loss between timesteps: borders [L + 1] in t, loss [runs, L] of the runs of `Material.points`."""

    borders: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class Material:
    """All that a report shows.

    points: columns of study.h5, arrays of one entry a run, but for the runs of a learning-rate sweep, which `rates`
    tells of; units: of its columns, "" where they say none; curves: run id to rows (images, loss, loss_ema); laws,
    forecast, verdict, rates: the JSON objects, None when absent; missing: what is not there yet.
    """

    root: Path
    study: Study
    points: dict[str, np.ndarray]
    units: dict[str, str]
    excluded: tuple[tuple[str, str], ...]
    curves: dict[str, np.ndarray]
    laws: dict | None
    forecast: dict | None
    verdict: dict | None
    samples: Samples | None
    # by budget, of its run with the lowest loss, where runs have the same captions and sampler
    grids: dict[float, Samples]
    missing: tuple[Missing, ...]
    rates: dict | None = None
    noise_levels: NoiseLevels | None = None

    def __len__(self) -> int:
        return len(self.points["run_id"])

    @property
    def probe(self) -> np.ndarray:
        """Mask of the probe's rows."""
        return self.points["role"] == "probe"

    @property
    def best(self) -> str:
        """The run with the lowest validation loss."""
        return str(self.points["run_id"][int(np.argmin(self.points["loss"]))])

    @property
    def fitted(self) -> np.ndarray:
        """Mask of the rows that the laws stand on."""
        used = {p["run_id"] for p in self.laws["points"]} if self.laws else set()
        return np.array([r in used for r in self.points["run_id"]], dtype=bool)

    def table(self, metric: str = "loss", also: tuple[str, ...] = ()) -> Table:
        """Of study.h5, less the runs that were excluded from the fit by name. Raises UserError as `read_table` does."""
        exclusions = self.laws["exclusions"] if self.laws else ()
        exclude = {e["run_id"]: e["reason"] for e in exclusions if e["run_id"] in self.points["run_id"]}
        return read_table(StudyPaths(self.root).table, metric, exclude, also=also)

    @property
    def budgets(self) -> list[float]:
        """Budgets of the grid in FLOPs, rising."""
        return sorted({float(b) for b in self.points["budget_flops"][~self.probe]})

    @property
    def out_of_domain(self) -> list[str]:
        """Names of the other data sets the runs were measured on."""
        return [
            name.removeprefix("loss_")
            for name in self.points
            if name.startswith("loss_") and not STANDARD_ERROR.match(name)
        ]

    def flops_per_image(self) -> np.ndarray:
        """Training FLOPs of one image, of each run, counted as the budget is."""
        return self.points["achieved_flops"] / self.points["n_images"]


def number(entry: dict | None) -> Estimate | None:
    """{"value", "low", "high"} as an Estimate."""
    return None if entry is None else Estimate(entry["value"], entry.get("low"), entry.get("high"))


def read_material(root: Path | str) -> Material:
    """Read a study directory. Raises UserError without study.yaml, study.h5 or a finished run of the grid, or at a
    damaged file."""
    paths = StudyPaths(root)
    study = read_study(root)
    if not paths.table.is_file():
        raise UserError(f"{root}: holds no study.h5; `ditscale collect {root}` makes it from the runs")
    points, units, excluded, curves, levels = _read_table(paths.table)
    swept = points["role"] == "rate"
    sweep = set(points["run_id"][swept])
    points = {name: column[~swept] for name, column in points.items()}
    levels = levels and NoiseLevels(levels.borders, levels.loss[~swept])
    if not (points["role"] == "grid").any():
        raise UserError(f"{root}: study.h5 holds no finished run of the grid; `ditscale launch {root}` trains them")
    laws, verdict = _read_json(paths.laws, "fit"), _read_json(paths.verdict, "verdict")
    rates = _read_json(paths.rates, "rates")
    # What is published as sealed must be what was sealed.
    forecast = load_forecast(paths.forecast).to_dict() if paths.forecast.exists() else None
    best = str(points["run_id"][int(np.argmin(points["loss"]))])
    samples = _read_samples(paths.run(best).evaluation, best)
    grids = _grids(paths, points, samples)
    probed = bool((points["role"] == "probe").any())
    missing = []
    if laws is None:
        missing.append(Missing("The laws (laws.json)", "`ditscale fit DIR`"))
    elif not _same_runs(laws, points, excluded):
        missing.append(
            Missing(
                "Laws of these runs: laws.json was fitted to other runs or losses than study.h5 holds",
                "`ditscale fit DIR`",
            )
        )
    if forecast is None:
        missing.append(Missing("The sealed forecast (forecast.json)", "`ditscale forecast DIR`"))
    if verdict is None:
        first = "" if probed else "`ditscale launch DIR` (trains the probe), then "
        missing.append(Missing("The verdict on the forecast (verdict.json)", f"{first}`ditscale verdict DIR`"))
    if samples is None:
        missing.append(Missing(f"Samples of the best run ({best})", f"`ditscale evaluate DIR/runs/{best}`"))
    if sweep and sweep != {run for cell in (rates or {"cells": ()})["cells"] for run in cell["swept"]}:
        what = (
            "The learning-rate law of these runs: rates.json was made from others" if rates else "The learning-rate law"
        )
        missing.append(Missing(f"{what} (rates.json)", "`ditscale rates DIR`"))
    missing += _unmeasured(study, points)
    curves = {name: rows for name, rows in curves.items() if name not in sweep}
    return Material(
        Path(root),
        study,
        points,
        units,
        excluded,
        curves,
        laws,
        forecast,
        verdict,
        samples,
        grids,
        tuple(missing),
        rates,
        levels,
    )


def _unmeasured(study: Study, points: dict[str, np.ndarray]) -> list[Missing]:
    """Metrics that the study asks for and some runs lack."""
    found = []
    for metric in study.evaluation:
        values = points.get(METRICS.get(metric, metric))
        lacking = points["run_id"] if values is None else points["run_id"][~np.isfinite(values)]
        if metric in METRICS and len(lacking):
            what = f"{METRICS[metric].upper()} of {len(lacking)} of {len(points['run_id'])} runs"
            found.append(
                Missing(what, f"`ditscale evaluate DIR/runs/{lacking[0]}` and so on, then `ditscale collect DIR`")
            )
    return found


def _read_table(path: Path):
    """(points, units, excluded, curves, noise levels) of study.h5."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            points, units = {}, {}
            for name, column in file["points"].items():
                values = column[()]
                units[name] = str(column.attrs.get("unit", ""))
                points[name] = (
                    np.array([v.decode() for v in values], dtype=object) if values.dtype == object else values
                )
            pairs = zip(file["excluded/run_id"][()], file["excluded/reason"][()], strict=True)
            excluded = tuple((run.decode(), reason.decode()) for run, reason in pairs)
            curves = {name: rows[()] for name, rows in file["curves"].items()} if "curves" in file else {}
            levels = file.get("noise_levels")
            levels = levels and NoiseLevels(levels["borders"][()], levels["loss"][()])
    except (OSError, KeyError):
        raise UserError(
            f"{path}: is damaged or not of ditscale; `ditscale collect {path.parent}` makes it anew"
        ) from None
    return points, units, excluded, curves, levels


def _read_json(path: Path, verb: str) -> dict | None:
    """What `ditscale VERB` wrote, None where it has not. Raises UserError at anything else."""
    if not path.is_file():
        return None
    again = f"`ditscale {verb} {path.parent}` makes it again"
    try:
        body = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise UserError(f"{path}: is not JSON; {again}") from None
    if not isinstance(body, dict) or not body.keys() >= set(PARTS[verb]):
        raise UserError(f"{path}: is not what `ditscale {verb}` writes; {again}")
    return body


def _read_samples(path: Path, run_id: str) -> Samples | None:
    if not path.is_file():
        return None
    try:
        with h5py.File(path, "r", locking=False) as file:
            made = file["samples"]
            captions = tuple(c.decode() for c in made["captions"][()])
            settings = (
                f"{file.attrs.get('sampler', '?')} sampler, {file.attrs.get('steps', '?')} steps, guidance"
                f" {file.attrs.get('guidance', 1.0):g}, seed {file.attrs.get('seed', '?')}"
            )
            return Samples(run_id, made["generated"][()], made["reference"][()], captions, settings)
    except (OSError, KeyError):
        raise UserError(f"{path}: is damaged; move it away, then `ditscale evaluate {path.parent}`") from None


def _grids(paths: StudyPaths, points: dict, best: Samples | None) -> dict[float, Samples]:
    """Samples of each budget's best run, as far as they are drawn like those of the best of all."""
    found = {}
    for budget in sorted({float(b) for b in points["budget_flops"]}) if best else ():
        there = np.flatnonzero(points["budget_flops"] == budget)
        run = str(points["run_id"][there[np.argmin(points["loss"][there])]])
        samples = _read_samples(paths.run(run).evaluation, run)
        if samples and (samples.captions, samples.settings) == (best.captions, best.settings):
            found[budget] = samples
    return found


def _same_runs(laws: dict, points: dict, excluded) -> bool:
    """Whether laws.json was fitted to the grid runs and losses that study.h5 now holds."""
    metric = laws.get("metric", "loss")
    if metric not in points:
        return False
    here = {
        r: x for r, role, x in zip(points["run_id"], points["role"], points[metric], strict=True) if role != "probe"
    }
    there = {p["run_id"]: p["loss"] for p in laws["points"]}
    left_out = {e["run_id"] for e in laws["exclusions"]}
    return there == {r: float(x) for r, x in here.items() if r not in left_out}
