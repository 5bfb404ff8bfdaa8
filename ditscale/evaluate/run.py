"""Evaluation of a trained run: metrics on its held-out images and on other data sets, and samples, into evaluation.h5.
It happens at the end of a run (train/finalize.py) or on demand. What has been measured with the same settings stays."""

import math
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable

import torch

from ..config import METRICS, Data, Evaluation
from ..config import check as check_fields
from ..config.mapping import Fraction, NonNegativeInt, PositiveInt
from ..distributed.ranks import Ranks, start
from ..errors import UserError, nearest, one_of
from ..image_file import check_makers
from ..naming import RunPaths, digest
from ..plan.run import Run
from ..rundir.evaluation import Result, read_results, write_results
from ..rundir.lock import RunLock
from . import fid, samples
from .finished import Finished, load_finished
from .held_out import HeldOut, data_sets, with_files
from .measure import Metric, Unmeasurable, Workers, clear, measure
from .metrics import Bound, Likelihood, ValidationLoss


@dataclass(frozen=True)
class Settings:
    """What to measure on a finished run, and how. Raises UserError, naming the option, at a value beyond its limits."""

    metrics: dict[str, Evaluation] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()  # Names or labels. Empty: the run's own and all of its study's validation.also.
    files: dict[str, str] = field(default_factory=dict)  # of further data sets by label, where `datasets` names them
    seed: NonNegativeInt | None = None  # Seed of the noise. None: validation.seed, which the runs of a study share.
    batch_size: PositiveInt | None = None  # Images in a chunk. None: validation.batch_size.
    samples: NonNegativeInt = 16  # Samples to draw for people to look at.
    ema: Fraction | None = None  # Window of the EMA weights to measure. None: the run's own.

    def __post_init__(self):
        for name, how in self.metrics.items():
            one_of(name, METRICS, "--metrics")
            check_fields(how, "")
        check_fields(self, "")


@dataclass(frozen=True)
class EvaluationResults:
    """The results that were asked for. n_new: how many were measured now. window, profile_error: of Finished."""

    run: Run
    results: tuple[Result, ...]
    n_new: int
    samples: int
    window: float | None = None
    profile_error: float = 0.0

    def summary(self) -> str:
        lines = [f"{self.run.run_id}: {self.run.n_params} parameters, {self.run.n_images} images"]
        if self.window is not None:
            kept = ", ".join(f"{w:g}" for w in self.run.recipe.windows if w)
            of = f", combined of those over {kept}: error of the profile {self.profile_error:.2%}"
            lines.append(f"  EMA weights over {self.window:g} of the run{of if self.profile_error else ''}")
        for r in self.results:
            cost = f"(n = {r.n}, {r.evaluations:.3g} evaluations per image, {r.wall_s:.1f} s)"
            lines.append(f"  {r.dataset}: {r.metric} {r.value:.5f} +- {r.se:.2g} {r.unit} {cost}")
        old, n = len(self.results) - self.n_new, len(self.results)
        lines.append(f"  {self.samples} samples" + (f"; {old} of {n} results were measured before" if old else ""))
        return "\n".join(lines)


def evaluate(run_dir: Path | str, settings: Settings | None = None) -> EvaluationResults:
    """Measure a finished run and draw samples; without settings as its study says, or else its validation loss. Raises
    UserError, and writes nothing, at what cannot be measured."""
    at = RunPaths(run_dir)
    finished = load_finished(at.root, settings.ema if settings else None)
    settings = settings or Settings(finished.run.evaluation or {"val_loss": Evaluation()})
    finished = replace(finished, run=with_files(finished.run, settings.files))
    check(finished.run, settings)
    read_results(at.evaluation)  # A damaged file is refused now rather than after the work.
    ranks, orderly = start(at.root, at.rendezvous), False
    try:
        with ExitStack() as lock:
            if ranks.first:
                lock.callback(RunLock(at.evaluation_lock).release)
            ranks.barrier()
            results = measure_all(at, finished.to(ranks.device), settings, ranks)
            ranks.barrier()
            orderly = True
            return results
    except RuntimeError as error:
        if not ranks.peer_died(error):
            raise
        raise UserError(f"{at.root}: another rank has ended; rerun the same command to resume") from None
    finally:
        ranks.close(orderly)


def check(run: Run, settings: Settings):
    """Raise UserError at what cannot be measured, before the run is trained or loaded."""
    cpu = torch.device("cpu")
    for name, how in settings.metrics.items():
        how.check_guidance(run.recipe.caption_dropout, "")
        own = _held_out(run, run.data, how.n, settings.seed, cpu)
        for data in _selected(run, settings.datasets):
            data.check_shape(run.data)
            held_out = _held_out(run, data, how.n, settings.seed, cpu)
            check_makers(own.source, held_out.source, data.name)
            if name == "fid":
                fid.check(held_out, how)


def measure_all(
    at: RunPaths, finished: Finished, settings: Settings, ranks: Ranks, tick: Callable[[], None] = lambda: None
) -> EvaluationResults:
    """Measure everything in the settings, by all ranks together, which call `tick`, in step, after every chunk of
    images. Raises Unmeasurable where a metric has no finite value, once all others are measured."""
    run, workers = finished.run, Workers(ranks, at.evaluation_parts, tick)
    weights, known = finished.settings, read_results(at.evaluation, finished.window)
    results, errors, n_new = [], [], 0
    for data in _selected(run, settings.datasets):
        for name, how in settings.metrics.items():
            held_out = _held_out(run, data, how.n, settings.seed, ranks.device)
            metric = _metric(name, how, finished, held_out, workers)
            key = metric.settings | held_out.settings | weights
            planned = Result(metric.name, data.name, math.nan, math.nan, "", held_out.n, held_out.seed, key)
            result = next((r for r in known if r.same(planned)), None)
            try:
                if result is None:
                    n_new += 1
                    result = _measure(at, planned, metric, settings.batch_size, workers, finished)
                results.append(result)
            except Unmeasurable as error:
                errors.append(f"{data.name}: {error}")
    if ranks.first and settings.samples:
        own = _held_out(run, run.data, settings.samples, settings.seed, ranks.device)
        how = settings.metrics.get("fid") or next(iter(settings.metrics.values()), Evaluation())
        samples.draw(at.evaluation, finished, own, how)
    if errors:
        raise Unmeasurable("; ".join(errors))
    return EvaluationResults(run, tuple(results), n_new, settings.samples, finished.window, finished.profile_error)


def _selected(run: Run, names: tuple[str, ...]) -> list[Data]:
    by_label = data_sets(run)
    by_name = {data.name: data for data in by_label.values()} | by_label
    for name in names:
        if name not in by_name:
            hint = f"{nearest(name, by_name)}; choose from: {', '.join(by_name)}"
            raise UserError(f"--dataset {name}: the run has no such data set{hint}")
    return [by_name[name] for name in names] or list(by_label.values())


def _held_out(run: Run, data: Data, n: int, seed: int | None, device: torch.device) -> HeldOut:
    return HeldOut(data, run.validation, n or run.validation.n, run.validation.seed if seed is None else seed, device)


def _metric(name: str, how: Evaluation, finished: Finished, data: HeldOut, workers: Workers) -> Metric:
    run, recipe = finished.run, finished.run.recipe
    if name == "val_loss":
        return ValidationLoss({"ema": finished.ema, "raw": finished.raw}, data, recipe.timesteps, recipe.precision)
    if name == "vlb":
        return Bound(finished.ema, data, recipe.precision, how.t_min)
    if name == "likelihood":
        return Likelihood(finished.ema, data, how.trace, how.probes, how.tolerance)
    assert name == "fid", name
    return fid.FID(finished.ema, data, how, run.data, recipe.precision, workers)


def _measure(
    at: RunPaths, planned: Result, metric: Metric, batch_size: int | None, workers: Workers, finished: Finished
) -> Result:
    chunk = batch_size or finished.run.validation.batch_size
    decides = {"chunk": chunk, "n": planned.n, "seed": planned.seed, "dataset": planned.dataset, **planned.settings}
    name = f"{planned.metric}-{digest(decides)[:12]}"
    rows, wall_s, evaluations = measure(metric, planned.n, chunk, name, workers)
    result = replace(planned, wall_s=wall_s, evaluations=evaluations, **metric.result(rows)._asdict())
    if workers.ranks.first:
        write_results(at.evaluation, at.name, [result], finished.window)
        clear(workers.parts / name)
    return result
