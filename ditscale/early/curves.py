"""Training curves as the runs' records have them, and their means in bins of ln(images)."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from ..naming import RunPaths, StudyPaths
from ..plan.run import Run, read_run
from ..rundir.record import Damaged, open_record, read_steps, read_validation

BIN = 0.25  # width of a bin in ln(images)
LEAST_STEPS = 4  # of a bin: shorter runs begin later
QUANTITIES = ("loss", "grad_norm")


class Bins(NamedTuple):
    """A curve in bins. place (k,): the bin begins at anchor * e^(BIN * place); t (k,): ln(images) in its middle; value
    (k,): ln of the mean; steps (k,)."""

    place: np.ndarray
    t: np.ndarray
    value: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True, eq=False)
class Curve:
    """One training, up to where its cool-down begins. end: images there, as planned; warmup: images of its warm-up;
    seeds: of the run and of its data; images, loss, grad_norm (steps,); readings: (images before a cool-down, measured
    loss) of the run and of those nested in it, shortest first."""

    run_id: str
    n_params: float
    end: float
    warmup: float
    seeds: tuple[int, int]
    images: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray
    readings: tuple[tuple[float, float], ...] = ()

    @property
    def last(self) -> float:
        """Images so far."""
        return float(self.images[-1]) if len(self.images) else 0.0

    def until(self, images: float) -> Self:
        """The curve as it was after this number of images."""
        n = int(np.searchsorted(self.images, images, side="right"))
        readings = tuple(reading for reading in self.readings if reading[0] <= images)
        cut = {name: getattr(self, name)[:n] for name in ("images", *QUANTITIES)}
        return replace(self, readings=readings, **cut)

    def bins(self, quantity: str, anchor: float) -> Bins:
        """Means over whole bins after the warm-up. Steps whose value is not finite and positive do not count."""
        value = getattr(self, quantity)
        used = (self.images > self.warmup) & np.isfinite(value) & (value > 0)
        images, value = self.images[used], value[used]
        if not len(images):
            return Bins(*(np.zeros(0) for _ in Bins._fields))
        end = np.log(images / anchor) / BIN
        # A step belongs to the bin in which it ends; the first bin is taken as a part, the last is whole at its border.
        bin_of = np.ceil(end - 1e-9).astype(int) - 1
        first, beyond = bin_of[0], math.floor(end[-1] + 1e-9)
        steps, totals = np.bincount(bin_of - first), np.bincount(bin_of - first, value)
        place = np.arange(first, first + len(steps))
        kept = (steps >= LEAST_STEPS) & (place < beyond) & (place > first)
        place, steps, totals = place[kept], steps[kept], totals[kept]
        return Bins(place, math.log(anchor) + BIN * (place + 0.5), np.log(totals / steps), steps)

    def step_noise(self) -> float:
        """Relative variance of one step's loss around its neighbours'."""
        loss = self.loss[(self.images > self.warmup) & np.isfinite(self.loss)][-4000:].astype(float)
        return float(np.mean(np.diff(loss) ** 2) / 2 / np.mean(loss) ** 2) if len(loss) > 1 else 0.0


def read_curve(at: RunPaths, run: Run) -> Curve:
    """What a run's record has so far; the record may be open in the process that trains. Raises Damaged."""
    with open_record(at.metrics) as file:
        rows, validation = read_steps(file), read_validation(file)
    end = float(run.stable_images)
    rows = rows[rows["images"] <= end]
    measured = tuple((end, float(loss)) for loss in validation["loss"][:1] if math.isfinite(loss) and loss > 0)
    return Curve(
        run_id=run.run_id, n_params=float(run.n_params), end=end, warmup=float(run.recipe.warmup_images),
        seeds=(run.seed, run.data.seed), readings=measured,
        **{name: rows[name].astype(float) for name in ("images", *QUANTITIES)},
    )  # fmt: skip


def grid_curves(root: Path | str, run_ids: Collection[str]) -> list[Curve]:
    """One curve for each training that the named runs were read from, with all their readings. Trainings without a
    recorded step are left out."""
    trainings: dict[str, list[Curve]] = {}
    for at in StudyPaths(root).run_dirs():
        if at.name in run_ids:
            run = read_run(at.run)
            try:
                curve = read_curve(at, run)
            except Damaged:
                continue
            trainings.setdefault(run.within or run.run_id, []).append(curve)
    joined = [_joined(curves) for curves in trainings.values()]
    return [curve for curve in joined if len(curve.images)]


def _joined(curves: Iterable[Curve]) -> Curve:
    """The longest of the curves of one training, with the readings of all."""
    *shorter, longest = sorted(curves, key=lambda curve: curve.last)
    readings = sorted({reading for curve in (*shorter, longest) for reading in curve.readings})
    return replace(longest, readings=tuple(readings))
