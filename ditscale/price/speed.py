"""How fast runs train and are measured: what was measured, and what it says of a run, with source and uncertainty.

Between measured sizes FLOP/s are linear in logarithms. Beyond the largest they stay; below the smallest they fall with
N^(1/3), as the arithmetic of a pass (depth x width^2) does against its memory traffic (depth x width)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from ..plan.run import Run
from ..result import Result

BELOW = 1 / 3  # Power of N with which FLOP/s fall below the smallest measured size.
THREADS = (
    0.5  # Power of the threads with which the FLOP/s of a rank grow: 1.44 times on two (docs/measured/training.md).
)
# Factors within which a speed is trusted, by where it comes from (docs/measured/price.md).
MEASURED, ELSEWHERE, STATED, SHIPPED = 1.2, 1.3, 2.0, 3.0
NEAR = 2.0  # Sizes up to this ratio apart, with the same number of threads, are asked before all others.
FAR = 0.1  # Power of the ratio of sizes by which the factor grows beyond what was measured.
OTHER_DESIGN = 1.25  # Most by which the two designs differ at one size in docs/measured/training.md, from 20M on.
# Seconds from a process's start until it trains, where nothing is measured: of CPU runs as docs/measured/price.md has
# them; of GPU runs, which compile, an assumption.
START_S = {False: 4.0, True: 60.0}
VALIDATION = "validation"  # The key of `metric_flops_per_s` for the losses that every run has at its end.


@dataclass(frozen=True)
class Speed(Result):
    """What was measured at one size. 0 is unknown."""

    n_params: int  # weights of all matrix products
    design: str
    precision: str
    device: str
    flops_per_s: float  # of one rank in training, exact, the time that it waits for data included
    threads: int = 1
    at_once: int = 1  # runs side by side on the GPU, or on the machine without GPUs
    batch: int = 0
    micro_batch: int = 0  # images of one pass
    micro_batch_asked: int = 0  # cluster.micro_batch then; 0: chosen from free memory
    data_wait: float = 0.0  # share of the time
    # From the start of the process until it trains at this speed, and what its first evaluation takes more than others.
    start_s: float = 0.0
    fixed_s: float = 0.0  # of measuring a finished run, besides what grows with the number of images
    metric_flops_per_s: dict[str, float] = field(default_factory=dict)  # by metric, and VALIDATION
    watts: float = 0.0  # of the GPU

    @property
    def gpu(self) -> bool:
        return is_gpu(self.device)


@dataclass(frozen=True)
class Bench(Result):
    """Content of bench.json: what `ditscale bench` measured."""

    LAYOUT: ClassVar[int | None] = 1
    date: str
    speeds: tuple[Speed, ...]


def is_gpu(device: str) -> bool:
    """Whether a device of this name, as torch or /proc/cpuinfo has it, is a GPU."""
    return any(word in device for word in ("NVIDIA", "Tesla", "GeForce", "Instinct", "Radeon"))


@dataclass(frozen=True)
class Source:
    """Speeds of one origin, and the factor within which they are trusted."""

    name: str
    speeds: tuple[Speed, ...]
    factor: float


@dataclass(frozen=True)
class Estimate:
    """What is known of a run's speed on a rank."""

    flops_per_s: float
    factor: float  # The truth is expected within a factor of this.
    source: str
    start_s: float
    fixed_s: float = 0.0
    metric_flops_per_s: dict[str, float] = field(default_factory=dict)
    watts: float = 0.0

    def measure_s(self, run: Run, ranks: int) -> float:
        """Seconds of a finished run's validation and evaluation."""
        forward = run.flops_per_image / 3  # A forward pass is a third of a training step's FLOPs.
        sets = 1 + len(run.validation.also)
        # Of the run's own data both EMA and raw weights are validated (train/finalize.py).
        passes = {VALIDATION: float((1 + sets) * run.validation.n)}
        passes |= {m: sets * (how.n or run.validation.n) * how.passes(m) for m, how in run.evaluation.items()}
        rate = lambda metric: self.metric_flops_per_s.get(metric, self.flops_per_s) * ranks
        return self.fixed_s + sum(n * forward / rate(metric) for metric, n in passes.items())


@dataclass(frozen=True)
class Speeds:
    """Sources of speeds, the best first: the first that knows a run's device and precision is asked."""

    sources: tuple[Source, ...] = ()

    def of(self, run: Run, gpu: bool, threads: int, stated: float = 0.0) -> Estimate:
        """The estimate for a run on a rank of a GPU, or of so many threads. stated: FLOP/s in the cluster's table."""
        for source in self.sources:
            if found := _estimate(source, run, gpu, threads):
                return found
        if stated:
            return Estimate(stated, STATED, "the table cluster.sizes", START_S[gpu])
        shipped = _estimate(SHIPPED_SPEEDS, run, gpu, threads)
        if shipped is None:  # A precision that nobody has measured on this kind of device.
            points = tuple(s for s in SHIPPED_SPEEDS.speeds if s.gpu == gpu)
            rate = _at(run.n_params_matmul, [(s.n_params, s.flops_per_s) for s in points], BELOW)
            return Estimate(rate, SHIPPED * 2, SHIPPED_SPEEDS.name, START_S[gpu])
        return shipped


def _estimate(source: Source, run: Run, gpu: bool, threads: int) -> Estimate | None:
    """What a source says of a run; None where it knows nothing of its kind of device or its precision."""
    points = [s for s in source.speeds if s.gpu == gpu and s.precision == run.recipe.precision]
    own = _preferred(points, lambda s: s.design == run.design.name)
    factor = source.factor * (1 if run.design.name in {s.design for s in own} else OTHER_DESIGN)
    own = _preferred(own, lambda s: s.micro_batch_asked == run.execution.micro_batch)
    alike = [s for s in own if s.threads == threads]
    if not gpu and any(1 / NEAR <= s.n_params / run.n_params_matmul <= NEAR for s in alike):
        own = alike
    if not own:
        return None
    n, sizes = run.n_params_matmul, [s.n_params for s in own]
    scale = lambda s: 1.0 if gpu else (threads / s.threads) ** THREADS
    rate = _at(n, [(s.n_params, s.flops_per_s * scale(s)) for s in own], BELOW)
    names = {name for s in points for name in s.metric_flops_per_s}
    rates = {
        m: _at(n, [(s.n_params, s.metric_flops_per_s[m]) for s in points if m in s.metric_flops_per_s], BELOW)
        for m in names
    }
    fixed = [(s.n_params, s.fixed_s) for s in points if s.fixed_s]
    starts = [(s.n_params, s.start_s) for s in points if s.start_s]
    watts = [s.watts for s in own if s.watts]
    far = max(1.0, min(sizes) / n, n / max(sizes)) ** FAR
    return Estimate(
        rate, factor * far, f"{source.name}, {own[0].device}", _at(n, starts) if starts else START_S[gpu],
        _at(n, fixed) if fixed else 0.0, rates, sum(watts) / len(watts) if watts else 0.0,
    )  # fmt: skip


def _preferred(points: list[Speed], condition: Callable[[Speed], bool]) -> list[Speed]:
    return [s for s in points if condition(s)] or points


def _at(n: float, points: Iterable[tuple[float, float]], below: float = 0.0) -> float:
    """The value at size n: between points (size, value), linear in logarithms; values of one size are averaged."""
    by_size: dict[float, list[float]] = {}
    for size, value in points:
        by_size.setdefault(size, []).append(math.log(value))
    sizes = sorted(by_size)
    means = [sum(by_size[size]) / len(by_size[size]) for size in sizes]
    if n <= sizes[0]:
        return math.exp(means[0] - below * math.log(sizes[0] / n))
    for i in range(1, len(sizes)):
        if n <= sizes[i]:
            part = math.log(n / sizes[i - 1]) / math.log(sizes[i] / sizes[i - 1])
            return math.exp(means[i - 1] + part * (means[i] - means[i - 1]))
    return math.exp(means[-1])


def _shipped() -> tuple[Speed, ...]:
    """What docs/measured/training.md has: steps of batches of 128 (64 at 1B) on an H200 (at 1B an H100), runs of the
    miniature on a core of an AMD EPYC, and steps of 384x12 on two cores of an Intel Xeon."""
    h200, h100, core, xeon = "NVIDIA H200", "NVIDIA H100", "a core of an AMD EPYC", "two cores of an Intel Xeon"
    in_context = {17.5e6: 2.64e14, 19.7e6: 3.11e14, 153e6: 4.25e14}
    cross = {23.2e6: 2.29e14, 26.0e6: 2.74e14, 203e6: 4.06e14}
    mini = {17.1e3: 1.60e10, 44.7e3: 2.36e10, 63.3e3: 2.96e10, 85.0e3: 3.42e10, 159e3: 4.07e10, 246e3: 5.17e10}
    gpu = [("incontext", n, f, h200) for n, f in in_context.items()]
    gpu += [("crossattention", n, f, h200) for n, f in cross.items()]
    gpu += [("incontext", 930e6, 4.28e14, h100), ("crossattention", 1238e6, 3.94e14, h100)]
    of_gpu = [Speed(int(n), design, "bf16", device, f) for design, n, f, device in gpu]
    of_cpu = [Speed(int(n), "incontext", "fp32", core, f, at_once=2) for n, f in mini.items()]
    large = [("incontext", 21.6e6, "fp32", 2.04e11), ("crossattention", 28.6e6, "fp32", 1.97e11)]
    large += [("incontext", 21.6e6, "bf16", 4.32e11), ("crossattention", 28.6e6, "bf16", 4.47e11)]
    of_cpu += [Speed(int(n), design, precision, xeon, f, threads=2) for design, n, precision, f in large]
    return (*of_gpu, *of_cpu)


SHIPPED_SPEEDS = Source("shipped figures", _shipped(), SHIPPED)
