"""Which speed a run is given: interpolation by closed forms, and the order of the sources."""

from dataclasses import replace

import pytest

from ditscale.config import compose
from ditscale.plan.grid import plan_grid
from ditscale.price.speed import BELOW, VALIDATION, Bench, Source, Speed, Speeds, is_gpu

CPU, GPU = "AMD EPYC 9B45", "NVIDIA H200"


@pytest.fixture(scope="module")
def run():
    return plan_grid(compose(["study=mini"])).runs[0]


def speed(n, flops_per_s, device=CPU, **more):
    return Speed(n, "incontext", "fp32", device, flops_per_s, **more)


def sized(run, n):
    return replace(run, n_params_matmul=n)


def test_powers_are_reproduced(run):
    """FLOP/s = 3 N^0.4 at three sizes gives it at all between; beyond, constant above and N^(1/3) below."""
    points = tuple(speed(n, 3 * n**0.4) for n in (10**4, 10**5, 10**6))
    known = Speeds((Source("x", points, 1.2),))
    at = lambda n: known.of(sized(run, n), False, 1).flops_per_s
    for n in (10**4, 31_000, 10**5, 777_000, 10**6):
        assert at(n) == pytest.approx(3 * n**0.4)
    assert at(10**8) == pytest.approx(at(10**6))
    assert at(10**3) == pytest.approx(at(10**4) * 10**-BELOW)
    inside, outside = (known.of(sized(run, n), False, 1).factor for n in (10**5, 10**8))
    assert inside == 1.2 < outside


def test_copies_of_a_size_are_averaged(run):
    known = Speeds((Source("x", (speed(10**5, 1e9), speed(10**5, 4e9)), 1.2),))
    assert known.of(sized(run, 10**5), False, 1).flops_per_s == pytest.approx(2e9)  # in the logarithm


def test_the_first_source_that_knows_the_kind_is_asked(run):
    gpu_bench, other, mine = (Source(name, points, 1.2) for name, points in (
        ("gpu", (speed(10**5, 1e14, GPU),)), ("bf16", (replace(speed(10**5, 7e9), precision="bf16"),)),
        ("cpu", (speed(10**5, 1e9),)),
    ))  # fmt: skip
    known = Speeds((gpu_bench, other, mine))
    assert known.of(run, False, 1).source == f"cpu, {CPU}"
    assert known.of(run, True, 1).flops_per_s > 1e12
    stated = Speeds((gpu_bench,)).of(run, False, 1, stated=5e8)
    assert (stated.flops_per_s, "cluster.sizes" in stated.source) == (5e8, True)
    assert "shipped" in Speeds().of(run, False, 1).source


def test_threads_design_and_micro_batch(run):
    one, two = speed(10**5, 1e9), speed(10**5, 1.5e9, threads=2)
    at = lambda points, r=run, threads=1: Speeds((Source("x", points, 1.2),)).of(sized(r, 10**5), False, threads)
    assert at((one, two), threads=2).flops_per_s == pytest.approx(1.5e9)
    assert at((one,), threads=4).flops_per_s == pytest.approx(2e9)  # root of the threads
    cross = replace(run, design=replace(run.design, name="crossattention"))
    assert at((one,), cross).flops_per_s == pytest.approx(1e9) and at((one,), cross).factor > at((one,)).factor
    split = replace(speed(10**5, 3e9), micro_batch_asked=4)
    assert at((one, split)).flops_per_s == pytest.approx(1e9)
    asked = replace(run, execution=replace(run.execution, micro_batch=4))
    assert at((one, split), asked).flops_per_s == pytest.approx(3e9)


def test_measuring_takes_its_passes(run):
    """Two passes over own triples, one over another set; each metric at its own speed, if it is known."""
    point = replace(speed(10**5, 1e9), fixed_s=2.0, metric_flops_per_s={VALIDATION: 3e9, "vlb": 5e8})
    estimate = Speeds((Source("x", (point,), 1.2),)).of(sized(run, 10**5), False, 1)
    forward, n = run.flops_per_image / 3, run.validation.n
    also = len(run.validation.also)
    expected = 2.0 + (2 + also) * n * forward / 3e9 + (1 + also) * 256 * forward / 5e8
    expected += (1 + also) * forward * (16 * 180 + 256 * 8) / 1e9
    assert estimate.measure_s(run, 1) == pytest.approx(expected)


def test_a_bench_reads_back(tmp_path):
    bench = Bench("2026-11-30", (replace(speed(5, 1e9), metric_flops_per_s={"fid": 2.0}),))
    assert Bench.from_dict(bench.to_dict()) == bench


@pytest.mark.parametrize("name, gpu", [(GPU, True), ("NVIDIA A100-SXM4-80GB", True), ("AMD Instinct MI300X", True),
                                       (CPU, False), ("Intel(R) Xeon(R) Processor", False), ])  # fmt: skip
def test_devices(name, gpu):
    assert is_gpu(name) == gpu
