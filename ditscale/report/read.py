"""Everything that a study directory holds for a report, read once and checked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import numpy as np

from ..config import Study
from ..errors import UserError
from ..laws import Forecast, Laws, RateLaw, Verdict, load_forecast, read_laws, read_rates, read_table, read_verdict
from ..laws.sealed.ledger import Ledger
from ..naming import StudyPaths
from ..plan.study import read_study
from ..tables.table import REQUIRED, Table, check

# Columns of study.h5 that the report needs besides those of every table of runs; the first may be 0, no other.
NEEDED = "loss_se train_s achieved_flops n_images tokens_per_image width depth lr batch_size attempts".split()
LARGEST = 1e40  # Beyond any size, budget or loss of a run; fits overflow far above it.
CURVE = ("images", "loss_ema")  # Fields of a training curve that the report draws.
T = TypeVar("T")


class Samples(NamedTuple):
    """Pictures that a run generated, and held-out ones of the same captions: uint8 or floats [n, R, R, C], n texts."""

    run_id: str
    generated: np.ndarray
    reference: np.ndarray
    captions: tuple[str, ...]
    settings: str


class Records(NamedTuple):
    """study.h5 beside its table. curves: run id to rows (images, loss, loss_ema); sweep: run ids of the rate sweep;
    noise_levels: borders [L + 1] in t, and the validation loss between them [runs, L]."""

    excluded: tuple[tuple[str, str], ...]
    curves: dict[str, np.ndarray]
    noise_levels: tuple[np.ndarray, np.ndarray] | None
    sweep: frozenset[str]


@dataclass(frozen=True, eq=False)
class StudyResults:
    """All that a report shows; None where the study does not have it yet. samples: of the run with the lowest loss;
    grids: budget to the samples of its best run, where these have the same captions and sampler settings; ledger: the
    record of several studies that `write_report` was given."""

    study: Study
    table: Table
    records: Records
    laws: Laws | None
    forecast: Forecast | None
    verdict: Verdict | None
    rates: RateLaw | None
    samples: Samples | None
    grids: dict[float, Samples]
    ledger: Ledger | None = None
    spent: str = ""  # what its runs took, in a sentence

    @property
    def points(self) -> dict[str, np.ndarray]:  # Columns of study.h5 that are numbers.
        return self.table.columns

    @cached_property
    def probe(self) -> np.ndarray:  # Mask of the probe's rows.
        return self.table.role == "probe"

    @property
    def metric(self) -> str:  # The column that the laws are of.
        return self.laws.metric if self.laws else "loss"

    @cached_property
    def fitted(self) -> np.ndarray:  # Mask of the rows that the laws were fitted to.
        return np.isin(self.table.run_id, [p.run_id for p in self.laws.points] if self.laws else [])

    @property
    def probe_in_orange(self) -> str:  # The end of a caption's sentence where there is a probe.
        return ", the probe in orange" * bool(self.probe.any())

    @cached_property
    def budgets(self) -> list[float]:  # Budgets of the grid in FLOPs, rising.
        return np.unique(self.table.budget_flops[~self.probe]).tolist()

    def columns(self, metric: str, out_of_domain: bool = False) -> dict[str, str]:
        """{data set, with what was measured differently: column} of a metric, the usual column first."""
        own, found = self.study.data.name, {}
        for name in sorted(self.points, key=lambda name: (name != metric, name)):
            info = self.table.info_of(name)
            foreign = info.dataset not in ("", own)
            if (info.metric, info.quantity) == (metric, "value") and (foreign or not out_of_domain):
                found[(info.dataset or own) + f":{info.variant}" * bool(info.variant)] = name
        return found

    def fit_table(self, metric: str = "loss") -> Table:
        """The runs as laws of a metric are fitted to them, without those that were excluded by name. Raises UserError
        where the metric is not there for every run of the grid."""
        table = replace(self.table, metric=metric, loss=self.points[metric])
        for exclusion in self.laws.exclusions if self.laws else ():
            if exclusion.run_id in table.run_id:
                table = table.without(exclusion.run_id, exclusion.reason)
        check(table)
        return table


def read_study_results(root: Path | str) -> StudyResults:
    """Raises UserError, one line, without study.yaml, study.h5 or a finished run of the grid, or at a damaged file."""
    paths, study = StudyPaths(root), read_study(root)
    if not paths.table.is_file():
        raise UserError(f"{root}: holds no study.h5; `ditscale collect {root}` makes it from the runs")
    again = f"`ditscale collect {root}` makes it again"
    units, records = _read_h5(paths.table, _records, again)
    try:
        table = read_table(paths.table, also=units)
    except UserError as error:
        raise UserError(f"{error}; {again}") from None
    table = replace(table, info={name: replace(table.info_of(name), unit=unit) for name, unit in units.items()})
    for i, name in enumerate((*NEEDED, *REQUIRED, "loss")):
        values = table.columns[name]
        if not ((values < LARGEST) & (values >= 0) & ((values > 0) | (i < 2))).all():
            raise UserError(f"{paths.table}: column {name} holds what no run has; {again}")
    if not (table.role == "grid").any():
        raise UserError(f"{root}: study.h5 holds no finished run of the grid; `ditscale launch {root}` trains them")
    laws, verdict = _optional(paths.laws, read_laws), _optional(paths.verdict, read_verdict)
    if laws and laws.metric not in table.columns:
        raise UserError(f"{paths.laws}: study.h5 has no column {laws.metric!r}; `ditscale fit {root}` makes it again")
    if verdict and min(verdict.n_params, verdict.n_params_forecast) <= 0:
        raise UserError(f"{paths.verdict}: a model size is not positive; `ditscale verdict {root}` makes it again")
    # The forecast is published as sealed, so its hash is checked.
    rates, forecast = _optional(paths.rates, read_rates), _optional(paths.forecast, load_forecast)
    samples, grids = _read_samples(paths, best_run(table)), {}
    for budget in np.unique(table.budget_flops).tolist() if samples else ():
        own = _read_samples(paths, best_run(table.take(table.budget_flops == budget)))
        if own and samples and (own.captions, own.settings) == (samples.captions, samples.settings):
            grids[budget] = own
    return StudyResults(study, table, records, laws, forecast, verdict, rates, samples, grids)


def best_run(table: Table) -> str:
    return str(table.run_id[int(np.argmin(table.loss))])


def _optional(path: Path, read: Callable[[Path], T]) -> T | None:
    return read(path) if path.exists() else None


def _read_h5(path: Path, read: Callable[[h5py.File], T], remedy: str) -> T:
    try:
        with h5py.File(path, "r", locking=False) as file:
            return read(file)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged, or ditscale did not write it ({error}); {remedy}") from None


def _group(file: h5py.File, name: str) -> dict[str, h5py.Dataset]:
    """The arrays of a group, by name; none where it is not there."""
    group = dict(file.get(name, {}))
    if not all(isinstance(at, h5py.Dataset) and at.shape is not None for at in group.values()):
        raise ValueError(f"{name} holds something else than arrays")
    return group


def _array(group: dict[str, h5py.Dataset], name: str, ndim: int = 1, text: bool = False) -> np.ndarray:
    at = group[name]
    if len(at.shape) != ndim or (h5py.check_string_dtype(at.dtype) is None if text else at.dtype.kind not in "iuf"):
        raise ValueError(f"{at.name} is no array of {'texts' if text else 'numbers'} in {ndim} dimensions")
    return at.asstr()[()] if text else at[()]


def _records(file: h5py.File) -> tuple[dict[str, str], Records]:
    """{column: unit} of the columns that are numbers, and all else that study.h5 holds."""
    points, excluded, curves, levels = (_group(file, name) for name in ("points", "excluded", "curves", "noise_levels"))
    run_id, swept = _array(points, "run_id", text=True), _array(points, "role", text=True) == "rate"
    numbers = {name: at for name, at in points.items() if name not in ("run_id", "role", "trajectory")}
    units = {name: str(at.attrs.get("unit", "")) for name, at in numbers.items()}
    lacking = {"loss", "train_loss", *NEEDED} - units.keys()
    if lacking or len(run_id) != len(swept):
        raise ValueError(f"points has no column {', '.join(lacking) or 'run_id of the length of role'}")
    if any(at.dtype[name].kind not in "iuf" or len(at.shape) != 1 for at in curves.values() for name in CURVE):
        raise ValueError("curves holds something else than rows of images and losses")
    noise_levels = None
    if levels:
        borders, loss = _array(levels, "borders"), _array(levels, "loss", 2)
        if loss.shape != (len(swept), len(borders) - 1) or not (np.diff(borders) > 0).all() or np.isinf(borders).any():
            raise ValueError("noise_levels is of another shape than runs x levels, or its borders do not rise")
        noise_levels = borders, loss[~swept]
    pairs = zip(*(_array(excluded, name, text=True) for name in ("run_id", "reason")), strict=True)
    sweep = frozenset(run_id[swept])
    rows = {name: at[()] for name, at in curves.items() if name not in sweep}
    return units, Records(tuple(pairs), rows, noise_levels, sweep)


def _read_samples(paths: StudyPaths, run_id: str) -> Samples | None:
    at = paths.run(run_id)
    remedy = f"move it away, then `ditscale evaluate {at.root}`"
    return _read_h5(at.evaluation, partial(_samples, run_id), remedy) if at.evaluation.is_file() else None


def _samples(run_id: str, file: h5py.File) -> Samples | None:
    group = _group(file, "samples")
    if not group:
        return None
    generated, reference = (_array(group, name, 4) for name in ("generated", "reference"))
    captions = tuple(_array(group, "captions", text=True))
    if generated.shape != reference.shape or len(captions) != len(generated) or not generated.size:
        raise ValueError("samples differ in number or shape")
    if generated.dtype != reference.dtype or generated.dtype == np.uint8 and generated.shape[-1] not in (1, 3):
        raise ValueError("samples are neither pictures nor latents")
    has: dict[str, Any] = {"sampler": "?", "steps": "?", "guidance": 1.0, "seed": "?"} | dict(file.attrs)
    how = f"{has['sampler']} sampler, {has['steps']} steps, guidance {float(has['guidance']):g}, seed {has['seed']}"
    return Samples(run_id, generated, reference, captions, how)
