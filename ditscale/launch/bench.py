"""`ditscale bench`: how fast this node trains and evaluates the sizes of a study. It trains real runs of those sizes,
for seconds, as many side by side as the study's cluster would, and writes bench.json, which prices are made of."""

import datetime
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import units
from ..config import Study
from ..errors import UserError
from ..files import write_text
from ..logs import log
from ..naming import RunPaths, StudyPaths
from ..plan.run import Run, read_run
from ..plan.study import write_run
from ..price.price import with_probe
from ..price.records import FIRST_STEPS, merged, of_run
from ..price.resources import Machine, place_of
from ..price.speed import Bench, Speed, Speeds
from ..process import GPUS, RUNS_PER_GPU
from ..rundir.record import open_record, read_attempts
from .afford import machine_of
from .backends.preamble import importing_from
from .job import gpus
from .job.bench import LONGER
from .snapshot import PACKAGE

STEPS = 2 * FIRST_STEPS  # of the first run of each size
MOST_S, LEAST_S = 20.0, 3.0  # of training at one size
TIMES = 4  # Start, evaluation and the first steps take about this many times the training that is measured.


@dataclass(frozen=True)
class Measurement:
    """One measurement: a short run, so many of it at once, each on `ranks` ranks."""

    run: Run
    at_once: int
    ranks: int
    gpu: bool


def bench(
    study: Study, runs: Sequence[Run], minutes: float, device: str, micro_batches: Sequence[int], out: Path,
    tell: Callable[[Speed], None],
) -> Bench:  # fmt: skip
    """Measure the sizes of these runs for at most about so many minutes, the most telling first, and write `out`.
    device: cpu, gpu, or "" for what the study's cluster uses. tell: called with each speed. Raises UserError."""
    given = gpus.visible()
    machine = machine_of(study) if study.cluster.name == "local" else Machine(1, 0)
    planned = [_measurement(run, study, machine, device) for run in _sizes(with_probe(study, runs)[0])]
    if any(each.gpu for each in planned) and not given:
        here = "there is no GPU that torch can use here; run it on a node (`ditscale sbatch bench` prints a script)"
        raise UserError(f"bench: {here}, or add --device cpu")
    longest, speeds = 0.0, list[Speed]()
    seconds = min(MOST_S, max(LEAST_S, 60 * minutes / (TIMES * len(planned))))
    order = [(each, asked) for asked in micro_batches or (0,) for each in _spread(planned)]
    with tempfile.TemporaryDirectory(prefix="ditscale-bench-") as place:
        paths = StudyPaths(place)
        _prepare(paths, order[0][0])
        until = time.monotonic() + 60 * minutes
        for number, (each, asked) in enumerate(order):
            began = time.monotonic()
            if speeds and until - began < longest:
                log.info(f"bench: {len(order) - number} sizes are left out; more --minutes measure them too")
                break
            speeds.append(_measure(paths, _short(each, number, asked, seconds), seconds, given))
            tell(speeds[-1])
            longest = max(longest, time.monotonic() - began)
    result = Bench(datetime.date.today().isoformat(), tuple(speeds))
    write_text(out, json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
    return result


def _sizes(runs: Sequence[Run]) -> list[Run]:
    """The longest run of each size, and the probe."""
    found: dict[tuple, Run] = {}
    for run in runs:
        key = run.width, run.depth, run.recipe.batch_size, run.role == "probe"
        if key not in found or run.n_images > found[key].n_images:
            found[key] = run
    return sorted(found.values(), key=lambda run: run.n_params)


def _spread(planned: Sequence[Measurement]) -> Iterator[Measurement]:
    """The largest and the smallest first, then whatever lies in the widest gap: the order in which they tell most."""
    left, taken = list(planned), list[Measurement]()
    while left:
        distance = lambda each: min((abs(_log(each) - _log(other)) for other in taken), default=_log(each))
        taken.append(max(left, key=distance))
        left.remove(taken[-1])
        yield taken[-1]


def _log(each: Measurement) -> float:
    return math.log(each.run.n_params_matmul)


def _measurement(run: Run, study: Study, machine: Machine, device: str) -> Measurement:
    """How the study's cluster would execute the run, or this machine's CPU or GPU instead."""
    place = place_of(run, study.cluster, machine)
    gpu = place.gpu if not device else device == "gpu"
    ranks = place.ranks if gpu == place.gpu and study.cluster.name == "local" else 1
    pack = 1
    if study.cluster.name == "slurm":
        pack = next(row.pack for row in study.cluster.sizes if run.n_params <= row.up_to_params)
    elif run.role != "probe":
        pack = machine.workers if not machine.gpus else -(-machine.workers // machine.gpus)
    threads = place.threads
    execution = replace(run.execution, ranks=ranks, threads=threads)
    return Measurement(replace(run, execution=execution, within="", readings=(), branch_images=0), pack, ranks, gpu)


def _short(each: Measurement, number: int, micro_batch: int, seconds: float) -> Measurement:
    """The measurement with a run of STEPS steps, whose batch and evaluation are made smaller where they would take
    much longer than `seconds` by the shipped figures."""
    run, recipe = each.run, each.run.recipe
    rate = Speeds().of(run, each.gpu, run.execution.threads).flops_per_s * each.ranks
    batch = recipe.batch_size
    while batch % (2 * each.ranks) == 0 and STEPS * batch * run.flops_per_image > 2 * seconds * rate:
        batch //= 2
    share = min(1.0, seconds * rate / max(run.evaluation_flops, 1.0))
    fewer = lambda n: min(n, max(64, round(share * n)))
    how = {m: replace(e, n=fewer(e.n or run.validation.n), few=True) for m, e in run.evaluation.items()}
    n_images = STEPS * batch
    recipe = replace(recipe, batch_size=batch, warmup_images=min(recipe.warmup_images, n_images))
    short = replace(
        run, run_id=f"bench-{number}", steps=STEPS, n_images=n_images, n_tokens=n_images * run.tokens_per_image,
        recipe=recipe, evaluation=how, execution=replace(run.execution, micro_batch=micro_batch),
        validation=replace(run.validation, n=fewer(run.validation.n)),
    )  # fmt: skip
    return replace(each, run=short)


def _prepare(paths: StudyPaths, each: Measurement):
    """Make what the measured runs share, before they are timed."""
    at = write_run(paths, replace(each.run, run_id="prepare"))
    _finish([_start(["prepare", str(at.root)], {GPUS: ""})])


def _measure(paths: StudyPaths, each: Measurement, seconds: float, given: Sequence[str]) -> Speed:
    """The speed of a run, of whose copies (seeds) as many train at once as on the cluster."""
    copies = [replace(each.run, run_id=f"{each.run.run_id}-{i}", seed=each.run.seed + i) for i in range(each.at_once)]
    own = ",".join(given[: each.ranks]) if each.gpu else ""
    environment = {GPUS: own, RUNS_PER_GPU: str(each.at_once if each.gpu else 1)}
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={each.ranks}"] if each.ranks > 1 else []
    )
    began = time.time()
    directories = [write_run(paths, run).root for run in copies]
    _finish([_start(["measure", str(at), str(seconds)], environment, launcher) for at in directories])
    return merged([_speed(paths, run, began) for run in copies])


def _speed(paths: StudyPaths, run: Run, began: float) -> Speed:
    """What the records of a short run and of its longer one say."""
    at, longer = paths.run(run.run_id), paths.run(run.run_id + LONGER)
    speed = of_run(at, run)
    if speed is None:
        raise UserError(f"bench: {run.width}x{run.depth} left no speed; see the lines above")
    return replace(_with_longer(speed, longer), start_s=speed.start_s + _until_open(at, began))


def _until_open(at: RunPaths, began: float) -> float:
    with open_record(at.metrics) as file:
        return max(0.0, float(read_attempts(file)["started_unix"][0]) - began)


def _with_longer(speed: Speed, longer: RunPaths) -> Speed:
    found = of_run(longer, read_run(longer.run)) if longer.run.is_file() else None
    if found is None:
        return speed
    # What the first evaluation of a process takes longer than the next happens once, as starting does.
    once_s = max(0.0, speed.fixed_s - found.fixed_s)
    better = {name: getattr(found, name) for name in ("flops_per_s", "data_wait", "watts", "fixed_s")}
    return replace(speed, start_s=speed.start_s + once_s, **better)


def _start(words: Sequence[str], environment: dict[str, str], launcher: Sequence[str] = ()) -> subprocess.Popen:
    """A process that imports this package, whatever its directory."""
    program = [sys.executable, *launcher, "-m", "ditscale.launch.job.bench", *words]
    with importing_from(PACKAGE.parent, environment):
        return subprocess.Popen(
            program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ
        )


def _finish(processes: Sequence[subprocess.Popen]):
    """Wait for all. Raises UserError with the last line of one that failed."""
    printed = [process.communicate()[0].decode(errors="replace") for process in processes]
    for process, text in zip(processes, printed):
        if process.returncode:
            last = ([line for line in text.splitlines() if line.strip()] or ["nothing was printed"])[-1]
            raise UserError(f"bench: a run failed with exit status {process.returncode}: {last.strip()}")


def line(speed: Speed) -> str:
    """A measurement for people."""
    at_once = f"{speed.at_once} at once, " if speed.at_once > 1 else ""
    threads = "" if speed.gpu else f"{speed.threads} thread{'s'[: speed.threads > 1]}, "
    how = f"{at_once}{threads}micro-batch {speed.micro_batch} of {speed.batch}"
    rest = f"{speed.start_s:.1f} s to start, {speed.data_wait:.1%} waiting for data"
    rate = f"{units.compact(speed.flops_per_s)} FLOP/s of a rank"
    return f"{units.count(speed.n_params):>7} {speed.design}: {rate} ({how}; {rest})"
