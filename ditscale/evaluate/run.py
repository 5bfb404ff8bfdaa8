"""Evaluation of a finished run: metrics on its held-out images and on other data sets, and samples, into evaluation.h5.

What is there with the same settings is not measured again. Whoever starts this with several ranks shares the work among them.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config import Data
from ..errors import UserError, nearest
from ..naming import RunPaths, digest
from ..plan.run import Run
from ..store.evaluation import Result, read_results, write_results
from ..store.lock import RunLock
from ..train.ranks import Ranks, start
from . import fid, samples
from .bound import Bound
from .finished import Finished, load
from .held_out import HeldOut, data_sets
from .likelihood import Likelihood
from .measure import Metric, clear, measure
from .settings import Settings
from .validation import ValidationLoss


@dataclass(frozen=True)
class Evaluation:
    """What is known of a run now: results asked for, whether measured now or before."""

    run: Run
    results: tuple[Result, ...]
    measured: int  # of the results, now
    samples: int
    first: bool  # whether this process is the one of several that speaks

    def summary(self) -> str:
        lines = [f"{self.run.run_id}: {self.run.n_params} parameters, {self.run.n_images} images"]
        lines += [
            f"  {r.dataset}: {r.metric} {r.value:.5f} +- {r.se:.2g} {r.unit} (n = {r.n}, {r.evaluations:.3g} evaluations an image, {r.wall_s:.1f} s)"
            for r in self.results
        ]
        there = len(self.results) - self.measured
        lines.append(f"  {self.samples} samples" + (f"; {there} of {len(self.results)} results were there" if there else ""))
        return "\n".join(lines)


def evaluate(run_dir: Path | str, settings: Settings = Settings()) -> Evaluation:
    """Measure a finished run and draw samples. Raises UserError, and writes nothing, at what cannot be measured."""
    at = RunPaths(run_dir)
    finished = load(at.root)
    run = finished.run
    chosen = _chosen(run, settings.datasets)
    for data in [*chosen, run.data]:  # what cannot be measured is said before anything is written
        held_out = _held_out(run, data, settings, torch.device("cpu"))
        if "fid" in settings.metrics and data in chosen:
            fid.check(held_out, settings)
    read_results(at.evaluation)
    ranks = start(at.root, at.rendezvous)
    try:
        with ExitStack() as held:
            if ranks.first:
                held.callback(RunLock(at.evaluation_lock).release)
            ranks.meet()
            made = _evaluate(at, finished.to(ranks.device), chosen, settings, ranks)
            ranks.meet()
            return made
    finally:
        ranks.close()


def _evaluate(at: RunPaths, finished: Finished, chosen: list[Data], settings: Settings, ranks: Ranks) -> Evaluation:
    run, known, results, measured = finished.run, read_results(at.evaluation), [], 0
    weights, chunk = finished.fingerprint(), settings.batch_size or run.validation.batch_size
    for data in chosen:
        held_out = _held_out(run, data, settings, ranks.device)
        for name in settings.metrics:
            metric = _metric(name, finished, held_out, settings, ranks)
            result = _asked(metric, held_out, weights)
            there = next((r for r in known if r.same(result)), None)
            measured += there is None
            results.append(there or _measured(at, result, metric, chunk, ranks))
    if ranks.first:
        own = _held_out(run, run.data, settings, ranks.device)
        samples.draw(at.evaluation, run.run_id, finished.ema, own, settings.samples, settings.steps, settings.sampler)
    return Evaluation(run, tuple(results), measured, settings.samples, ranks.first)


def _chosen(run: Run, names: tuple[str, ...]) -> list[Data]:
    """The data sets of these names or labels, or all. Raises UserError with the valid names."""
    known = data_sets(run)
    for data in run.validation.also.values():
        for key in ("channels", "resolution", "text_length", "text_vocab", "text_dim"):
            if getattr(data, key) != getattr(run.data, key):
                raise UserError(f"{data.name}: {key} is {getattr(data, key)}, but the run was trained on {getattr(run.data, key)}")
    by_name = {data.name: data for data in known.values()} | known
    for name in names:
        if name not in by_name:
            raise UserError(f"--dataset {name}: the run has no such data set{nearest(name, by_name)}; choose of: {', '.join(by_name)}")
    return [by_name[name] for name in names] or list(known.values())


def _held_out(run: Run, data: Data, settings: Settings, device: torch.device) -> HeldOut:
    n = settings.n or run.validation.n
    seed = run.validation.seed if settings.seed is None else settings.seed
    return HeldOut(data, run.validation, n, seed, device)


def _metric(name: str, finished: Finished, data: HeldOut, settings: Settings, ranks: Ranks) -> Metric:
    run, recipe = finished.run, finished.run.recipe
    if name == "val_loss":
        return ValidationLoss({"ema": finished.ema, "raw": finished.raw}, data, recipe.timesteps, recipe.precision)
    if name == "vlb":
        return Bound(finished.ema, data, recipe.precision, settings.t_min)
    if name == "likelihood":
        return Likelihood(finished.ema, data, settings.trace, settings.probes, settings.tolerance)
    return fid.FID(finished.ema, data, settings, run.data, ranks)


def _asked(metric: Metric, data: HeldOut, weights: str) -> Result:
    """The result to be, all but what is measured."""
    return Result(metric.name, data.name, math.nan, math.nan, "", data.n, data.seed, metric.settings | {"model": weights})


def _measured(at: RunPaths, asked: Result, metric: Metric, chunk: int, ranks: Ranks) -> Result:
    """Measure by all ranks together; rank 0 writes."""
    name = digest({"chunk": chunk, "n": asked.n, "seed": asked.seed, "dataset": asked.dataset, **asked.settings})[:12]
    parts = at.evaluation_parts / f"{asked.metric}-{name}"
    rows, wall_s, evaluations = measure(metric, asked.n, chunk, parts, ranks)
    found = metric.result(rows)
    value, se, unit = (found.pop(key) for key in ("value", "se", "unit"))
    result = replace(asked, value=value, se=se, unit=unit, wall_s=wall_s, evaluations=evaluations, arrays=found)
    if ranks.first:
        write_results(at.evaluation, at.name, [result])
        clear(parts)
    return result
