"""Evaluation of a trained run: metrics on its held-out images and on other data sets, and samples, into evaluation.h5.

At the end of a run (train/finalize.py) as its study asks, or on demand. What is there with the same settings is not
measured again. Whoever starts this with several ranks shares the work among them.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

import torch

from ..config import Data, Evaluation
from ..distributed.ranks import Ranks, start
from ..errors import UserError, nearest
from ..naming import RunPaths, digest
from ..plan.run import Run
from ..rundir.evaluation import Result, read_results, write_results
from ..rundir.lock import RunLock
from . import fid, samples
from .finished import Finished, load
from .held_out import HeldOut, check_makers, data_sets, with_files
from .likelihood import Likelihood
from .measure import Metric, Unmeasurable, clear, measure
from .settings import Settings
from .validation import ValidationLoss
from .vlb import Bound


@dataclass(frozen=True)
class Measured:
    """What is known of a run now: results asked for, whether measured now or before."""

    run: Run
    results: tuple[Result, ...]
    measured: int  # of the results, now
    samples: int
    first: bool  # whether this process is the one of several that speaks
    window: float | None = None  # of the EMA weights, where it is not the run's own
    profile_error: float = 0.0  # of that window, where its average is made of others

    def summary(self) -> str:
        lines = [f"{self.run.run_id}: {self.run.n_params} parameters, {self.run.n_images} images"]
        if self.window is not None:
            kept = ", ".join(f"{w:g}" for w in self.run.recipe.windows if w)
            made = f", made of those over {kept}: error of the profile {self.profile_error:.2%}"
            lines.append(f"  EMA weights over {self.window:g} of the run{made if self.profile_error else ''}")
        lines += [
            f"  {r.dataset}: {r.metric} {r.value:.5f} +- {r.se:.2g} {r.unit} (n = {r.n}, {r.evaluations:.3g} "
            f"evaluations an image, {r.wall_s:.1f} s)"
            for r in self.results
        ]
        there = len(self.results) - self.measured
        lines.append(
            f"  {self.samples} samples" + (f"; {there} of {len(self.results)} results were there" if there else "")
        )
        return "\n".join(lines)


def evaluate(run_dir: Path | str, settings: Settings | None = None) -> Measured:
    """Measure a finished run and draw samples; without settings as its study asks, or else its validation loss.

    Raises UserError, and writes nothing, at what cannot be measured.
    """
    at = RunPaths(run_dir)
    finished = load(at.root, settings.ema if settings else None)
    settings = settings or Settings(finished.run.evaluation or {"val_loss": Evaluation()})
    finished = replace(finished, run=with_files(finished.run, settings.files))
    check(finished.run, settings)
    read_results(at.evaluation)
    ranks, orderly = start(at.root, at.rendezvous), False
    try:
        with ExitStack() as held:
            if ranks.first:
                held.callback(RunLock(at.evaluation_lock).release)
            ranks.barrier()
            made = measure_all(at, finished.to(ranks.device), settings, ranks)
            ranks.barrier()
            orderly = True
            return made
    except RuntimeError as error:
        if not ranks.peer_died(error):
            raise
        raise UserError(f"{at.root}: a rank has ended; the same command goes on where this one was") from None
    finally:
        ranks.close(orderly)


def check(run: Run, settings: Settings):
    """Raise UserError at what cannot be measured, before there is anything to measure it on."""
    chosen, cpu = _chosen(run, settings.datasets), torch.device("cpu")
    for name, how in settings.metrics.items():
        if how.guidance != 1 and not run.recipe.caption_dropout:
            raise UserError(
                f"--guidance {how.guidance:g}: run {run.run_id} always saw captions; guidance needs a study with "
                "recipe.caption_dropout=0.1"
            )
        own, *others = [_held_out(run, data, how.n, settings.seed, cpu) for data in [run.data, *chosen]]
        for data in others:
            check_makers(own.source, data.source, data.name)
            if name == "fid":
                fid.check(data, how)


def measure_all(
    at: RunPaths, finished: Finished, settings: Settings, ranks: Ranks, tick: Callable[[], None] = lambda: None
) -> Measured:
    """All that is asked for, by all ranks together. `tick` is called by each of them, in step, every chunk of images.

    Raises Unmeasurable where a metric has no finite value, once all others are measured.
    """
    run, window, results, measured, trouble = finished.run, finished.window, [], 0, []
    known, weights, chunk = (
        read_results(at.evaluation, window),
        finished.settings,
        settings.batch_size or run.validation.batch_size,
    )
    for data in _chosen(run, settings.datasets):
        for name, how in settings.metrics.items():
            held_out = _held_out(run, data, how.n, settings.seed, ranks.device)
            metric = _metric(name, finished, held_out, how, ranks, at.evaluation_parts, tick)
            result = _asked(metric, held_out, weights)
            there = next((r for r in known if r.same(result)), None)
            try:
                results.append(there or _measured(at, result, metric, chunk, ranks, tick, window))
            except Unmeasurable as error:
                trouble.append(f"{data.name}: {error}")
            measured += there is None
    if ranks.first:
        own = _held_out(run, run.data, settings.samples, settings.seed, ranks.device)
        samples.draw(
            at.evaluation, run.run_id, finished.ema, own, settings.samples, settings.drawn, run.recipe.precision, window
        )
    if trouble:
        raise Unmeasurable("; ".join(trouble))
    return Measured(run, tuple(results), measured, settings.samples, ranks.first, window, finished.profile_error)


def _chosen(run: Run, names: tuple[str, ...]) -> list[Data]:
    """The data sets of these names or labels, or all. Raises UserError with the valid names."""
    known = data_sets(run)
    for data in run.validation.also.values():
        for key in ("channels", "resolution", "text_length", "text_vocab", "text_dim"):
            if getattr(data, key) != getattr(run.data, key):
                raise UserError(
                    f"{data.name}: {key} is {getattr(data, key)}, but the run was trained on {getattr(run.data, key)}"
                )
    by_name = {data.name: data for data in known.values()} | known
    for name in names:
        if name not in by_name:
            raise UserError(
                f"--dataset {name}: the run has no such data set{nearest(name, by_name)}; choose of: "
                f"{', '.join(by_name)}"
            )
    return [by_name[name] for name in names] or list(known.values())


def _held_out(run: Run, data: Data, n: int, seed: int | None, device: torch.device) -> HeldOut:
    return HeldOut(data, run.validation, n or run.validation.n, run.validation.seed if seed is None else seed, device)


def _metric(
    name: str, finished: Finished, data: HeldOut, how: Evaluation, ranks: Ranks, parts: Path, tick: Callable[[], None]
) -> Metric:
    run, recipe = finished.run, finished.run.recipe
    if name == "val_loss":
        return ValidationLoss({"ema": finished.ema, "raw": finished.raw}, data, recipe.timesteps, recipe.precision)
    if name == "vlb":
        return Bound(finished.ema, data, recipe.precision, how.t_min)
    if name == "likelihood":
        return Likelihood(finished.ema, data, how.trace, how.probes, how.tolerance)
    return fid.FID(finished.ema, data, how, run.data, recipe.precision, ranks, parts, tick)


def _asked(metric: Metric, data: HeldOut, weights: dict) -> Result:
    """The result to be, all but what is measured."""
    return Result(
        metric.name, data.name, math.nan, math.nan, "", data.n, data.seed, metric.settings | data.settings | weights
    )


def _measured(
    at: RunPaths,
    asked: Result,
    metric: Metric,
    chunk: int,
    ranks: Ranks,
    tick: Callable[[], None],
    window: float | None,
) -> Result:
    """Measure by all ranks together; rank 0 writes."""
    name = digest({"chunk": chunk, "n": asked.n, "seed": asked.seed, "dataset": asked.dataset, **asked.settings})[:12]
    parts = at.evaluation_parts / f"{asked.metric}-{name}"
    rows, wall_s, evaluations = measure(metric, asked.n, chunk, parts, ranks, tick)
    found = metric.result(rows)
    value, se, unit = (found.pop(key) for key in ("value", "se", "unit"))
    result = replace(asked, value=value, se=se, unit=unit, wall_s=wall_s, evaluations=evaluations, arrays=found)
    if ranks.first:
        write_results(at.evaluation, at.name, [result], window)
        clear(parts)
    return result
