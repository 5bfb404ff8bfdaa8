"""Speeds from what runs recorded, and where a study finds its own."""

import statistics
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from ..config import Cluster
from ..errors import UserError, command
from ..naming import RunPaths, StudyPaths
from ..plan.run import Run, read_run
from ..rundir.attempts import read_attempts as read_claims
from ..rundir.evaluation import Result, read_results
from ..rundir.record import open_record, read_attempts, read_steps, read_validation
from .speed import ELSEWHERE, MEASURED, VALIDATION, Bench, Source, Speed, Speeds

FIRST_STEPS = 16  # The speed in a record leaves out the steps up to the first sync (train/throughput.py).
ENOUGH = 3  # Runs of one size that are read: reading each of thousands would take minutes.


def read_speeds(paths: StudyPaths | None, cluster: Cluster, own: tuple[Speed, ...] | None = None) -> Speeds:
    """What is known of a study's speeds: its bench, files of cluster.speeds, its own runs, then studies named in
    cluster.speeds. own: speeds of its runs, as `of_study` read them before. Raises UserError where a named place holds
    no speeds."""
    files = [paths.bench] if paths and paths.bench.is_file() else []
    named = [Path(name) for name in cluster.speeds or ()]
    studies = [path for path in named if path.is_dir()]
    files += [StudyPaths(path).bench for path in studies if StudyPaths(path).bench.is_file()]
    files += [path for path in named if not path.is_dir()]
    sources = [_bench(file) for file in files]
    if paths and (speeds := of_study(paths) if own is None else own):
        sources.append(Source("runs of this study", speeds, MEASURED))
    for path in studies:
        speeds = of_study(StudyPaths(path))
        if not speeds and not StudyPaths(path).bench.is_file():
            raise UserError(f"cluster.speeds: {path} holds no trained run and no bench.json; {command('bench', path)}")
        sources += [Source(f"runs of {path}", speeds, ELSEWHERE)] * bool(speeds)
    return Speeds(tuple(sources))


def _bench(file: Path) -> Source:
    if not file.is_file():
        raise UserError(f"cluster.speeds: {file}: no such file or directory; `ditscale bench --out FILE` measures one")
    bench = Bench.from_file(file, "bench", "measure again with `ditscale bench`")
    if not bench.speeds:
        raise UserError(f"{file}: holds no speeds; measure again with `ditscale bench`")
    return Source(f"ditscale bench of {bench.date}", bench.speeds, MEASURED)


def of_study(paths: StudyPaths) -> tuple[Speed, ...]:
    """Speeds of what a study has trained, up to ENOUGH runs of each size, the longest first."""
    sizes: dict[tuple, list[tuple[RunPaths, Run]]] = {}
    for at in paths.run_dirs():
        with suppress(UserError):  # Whoever launches or collects says what is wrong with it.
            run = read_run(at.run)
            if not run.within and not run.rehearsal and at.metrics.exists():
                key = run.n_params_matmul, run.design.name, run.recipe.precision, run.role == "probe"
                sizes.setdefault(key, []).append((at, run))
    speeds = list[Speed]()
    for runs in sizes.values():
        found = filter(None, (of_run(at, run) for at, run in sorted(runs, key=lambda pair: -pair[1].n_images)))
        speeds += islice(found, ENOUGH)
    return tuple(speeds)


def of_run(at: RunPaths, run: Run) -> Speed | None:
    """What the record of a run says of its speed; None where it trained for too short a time, or is damaged."""
    try:
        with open_record(at.metrics) as file:
            attempts, steps = read_attempts(file), read_steps(file)
            validation, finished = read_validation(file), file["state"][()] == b"finished"
        measured = attempts[attempts["flops_per_s"] > 0]
        if not len(measured) or len(steps) < 2 * FIRST_STEPS:
            return None
        row = measured[-1]
        speed = Speed(
            n_params=run.n_params_matmul, design=run.design.name, precision=run.recipe.precision,
            device=row["device"].decode() or "a CPU", flops_per_s=float(row["flops_per_s"] / row["ranks"]),
            threads=run.execution.threads, batch=run.recipe.batch_size, micro_batch=int(row["micro_batch"]),
            micro_batch_asked=run.execution.micro_batch,
        )  # fmt: skip
        if len(attempts) > 1 or attempts["from_images"][0]:
            return speed
        return _with_overheads(speed, at, run, attempts[0], steps, validation if finished else None)
    except (UserError, OSError, RuntimeError, KeyError, ValueError):
        return None


def _with_overheads(
    speed: Speed, at: RunPaths, run: Run, attempt: np.void, steps: np.ndarray, validation: np.ndarray | None
) -> Speed:
    """The speed with what else the run's only attempt took: to start, to wait for data, to be measured."""
    train_s = float(steps["elapsed_s"][-1])
    first_s = FIRST_STEPS * run.recipe.batch_size * run.flops_per_image / (speed.flops_per_s * attempt["ranks"])
    start_s = max(0.0, float(steps["elapsed_s"][FIRST_STEPS - 1]) - first_s)  # Compiling, and the first of all.
    if claims := read_claims(at):
        start_s += max(0.0, float(attempt["started_unix"]) - claims[0].started_unix)
    speed = replace(
        speed, start_s=start_s, data_wait=float(attempt["data_wait_s"]) / max(train_s, 1e-9),
        watts=float(attempt["energy_j"]) / max(train_s * attempt["ranks"], 1e-9),
    )  # fmt: skip
    if validation is None or not len(validation):
        return speed
    forward, ranks = run.flops_per_image / 3, int(attempt["ranks"])
    validation_s, results = float(validation["elapsed_s"].sum()), _results(at, run)
    passes = {VALIDATION: float((1 + len(validation)) * run.validation.n)}
    passes |= {m: how.passes(m) * sum(r.n for r in results if r.metric == m) for m, how in run.evaluation.items()}
    took_s = {VALIDATION: validation_s * ranks}
    took_s |= {m: sum(r.wall_s for r in results if r.metric == m) for m in run.evaluation}
    rates = {metric: n * forward / took_s[metric] for metric, n in passes.items() if n and took_s[metric]}
    nested = [_spans(RunPaths(at.root.parent / run_id), run) for run_id in run.readings]
    own_s = float(attempt["ended_unix"] - attempt["started_unix"]) - train_s - sum(span for span, _ in nested)
    fixed_s = max(0.0, own_s - validation_s - sum(r.wall_s for r in results) / ranks)
    # The first evaluation of the process was a nested run's: it imports, and loads what the others find loaded.
    once_s = max(0.0, nested[0][1] - fixed_s) if nested else 0.0
    return replace(speed, start_s=start_s + once_s, fixed_s=fixed_s, metric_flops_per_s=rates)


def _results(at: RunPaths, run: Run) -> list[Result]:
    """The results of what the study measures at a run's end."""
    return [r for r in read_results(at.evaluation) if r.metric in run.evaluation] if run.evaluation else []


def _spans(at: RunPaths, parent: Run) -> tuple[float, float]:
    """Seconds that a parent run spent on a nested run, with its cool-down; and those without training, validation and
    what grows with the images of an evaluation."""
    with open_record(at.metrics) as file:
        attempt, steps, validation = read_attempts(file)[0], read_steps(file), read_validation(file)
    span_s = max(0.0, float(attempt["ended_unix"] - attempt["started_unix"]))
    begun = int(attempt["from_images"]) // parent.recipe.batch_size
    trained_s = float(steps["elapsed_s"][-1] - steps["elapsed_s"][begun - 1]) if 0 < begun < len(steps) else 0.0
    known_s = trained_s + float(validation["elapsed_s"].sum()) + sum(r.wall_s for r in _results(at, parent))
    return span_s, max(0.0, span_s - known_s)


def merged(copies: list[Speed]) -> Speed:
    """One speed of several copies of a run that were measured side by side."""
    mean = lambda name: statistics.mean(getattr(s, name) for s in copies)
    names = ("flops_per_s", "data_wait", "start_s", "fixed_s", "watts")
    keys = {key for s in copies for key in s.metric_flops_per_s}
    rates = {k: statistics.mean(s.metric_flops_per_s[k] for s in copies if k in s.metric_flops_per_s) for k in keys}
    return replace(copies[0], **{name: mean(name) for name in names}, at_once=len(copies), metric_flops_per_s=rates)
