"""EMA and the standard error against closed forms; what ranks agree on; the training clock."""

import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ditscale.errors import UserError
from ditscale.evaluate.finished import combine
from ditscale.rundir.signals import StopFlag
from ditscale.rundir.strata import standard_error
from ditscale.train.batches import AHEAD, ahead
from ditscale.train.optimizer import EMA
from ditscale.train.segment import SyncPoint
from ditscale.train.throughput import ThroughputMeter

N, WINDOWS = 5000, (0.1, 0.05, 0.5)


@pytest.fixture(scope="module")
def averaged():
    """EMA over WINDOWS and 0.07 of two tensors, w_k = k and a damped oscillation, k from 1 to N."""
    w = torch.zeros(1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    ema = EMA(list(w), (*WINDOWS, 0.07))
    for k in range(1, N + 1):
        w[0].fill_(float(k))
        w[1].copy_(oscillation(k / N))
        ema.set_step(k)
        ema.update(torch.zeros((), dtype=torch.float64))
    return ema


def oscillation(t):
    """Near 5, as a weight that training moves little."""
    return torch.tensor([5 + math.exp(-3 * t) * math.sin(rate * t) for rate in (3, 10, 40)], dtype=torch.float64)


def test_ema_is_the_power_function(averaged):
    """Fed w_k = k, the average of weights ~ k^(1/window - 1) over [0, N] is N / (1 + window), up to one step."""
    for window, (line, _) in zip(averaged.windows, averaged.averages, strict=True):
        assert line.item() == pytest.approx(N / (1 + window), rel=1e-3)


def test_further_windows_change_nothing_of_the_first():
    """To the bit, a skipped step included."""
    torch.manual_seed(0)
    weights = [torch.zeros(7, 5), torch.zeros(33)]
    alone, among = EMA(weights, (0.1,)), EMA(weights, (0.1, 0.0, 0.3))
    for k in range(1, 9):
        for w in weights:
            w.normal_()
        for ema in (alone, among):
            ema.set_step(k)
            ema.update(torch.tensor(float(k == 5)))
    assert all(torch.equal(a, b) for a, b in zip(alone.averages[0], among.averages[0], strict=True))
    assert all(torch.equal(a, w) for a, w in zip(among.averages[1], weights, strict=True))


@pytest.mark.parametrize("kept", [(0.05, 0.1), (0.1, 0.05, 0.0), (0.1, 0.02, 0.05, 0.3)])
def test_between_two_windows(kept):
    """Coefficients and error against least squares on a fine grid; those of kept windows against the obvious."""
    t = (np.arange(100_000) + 0.5) / 100_000
    profile = lambda window: (1 / window) * t ** (1 / window - 1)
    found, error = combine(0.1, kept)
    assert found.tolist() == [float(w == 0.1) for w in kept] and error == 0
    base, *others = used = [w for w in kept if w]
    for window in (0.055, 0.07, 0.09):
        aim = profile(window)
        differences = np.stack([profile(w) - profile(base) for w in others], 1)  # so the coefficients sum to 1
        rest = np.linalg.lstsq(differences, aim - profile(base), rcond=None)[0]
        expected = dict(zip(used, [1 - rest.sum(), *rest])) | {0.0: 0.0}
        found, error = combine(window, kept)
        np.testing.assert_allclose(found, [expected[w] for w in kept], atol=1e-6)
        left = aim - profile(base) - differences @ rest
        assert error == pytest.approx(np.sqrt((left**2).sum() / (aim**2).sum()), rel=1e-4)


def test_the_average_of_another_window_afterwards(averaged):
    """Made of those kept it is as close to the one that was averaged as the profile's error lets it be."""
    kept, direct = averaged.averages[:-1], averaged.averages[-1]
    coefficients, error = combine(0.07, WINDOWS)
    for i, tensor in enumerate(direct):
        made = sum(x * averages[i] for x, averages in zip(coefficients, kept))
        path = [torch.tensor([k / N]) * N if i == 0 else oscillation(k / N) for k in range(1, N + 1)]
        # |<p - q, w>| <= |p - q| |w - c| for any constant c: both profiles integrate to 1
        scatter = torch.stack(path).sub(tensor).square().mean(0).sqrt()
        own = math.sqrt((1 / 0.07) ** 2 / (2 / 0.07 - 1))
        assert ((made - tensor).abs() <= 1.02 * error * own * scatter).all()
    kept_made = sum(x * averages[1] for x, averages in zip(combine(0.05, WINDOWS)[0], kept))
    assert torch.equal(kept_made, averaged.averages[1][1])


@pytest.mark.parametrize(
    "window, kept", [(0.07, (0.1,)), (0.2, (0.05, 0.1)), (0.01, (0.0, 0.05, 0.1)), (0.0, (0.05, 0.1))]
)
def test_a_window_that_cannot_be_had(window, kept):
    with pytest.raises(UserError, match=f"EMA window {window:g}: .*plan with recipe.ema_also"):
        combine(window, kept)


def test_ema_swap_is_its_own_inverse():
    w = torch.nn.Parameter(torch.ones(3))
    ema = EMA([w], (0.1, 0.2))
    with torch.no_grad():
        w.fill_(5.0)
    ema.swap()
    assert (w == 1).all() and (ema.averages[0][0] == 5).all() and (ema.averages[1][0] == 1).all()
    ema.swap()
    assert (w == 5).all() and (ema.averages[0][0] == 1).all()


def test_standard_error_of_strata():
    """Samples with a strong trend over the strata: the error is that of the noise, not of the trend."""
    rng, n, sd = np.random.default_rng(0), 512, 0.3
    trend = np.linspace(0, 10, n)
    draws = trend + sd * rng.normal(size=(2000, n))
    truth = draws.mean(1).std()
    assert np.mean([standard_error(d) for d in draws]) == pytest.approx(truth, rel=0.05)
    assert truth == pytest.approx(sd / np.sqrt(n), rel=0.05)


def test_a_child_outlives_the_signals_that_a_launcher_blocks():
    """Before and after the flag listens they stay blocked, for us and for the squeue that a job starts; meanwhile
    not."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('alive')"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    try:
        flag = StopFlag()
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.raised
        assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGTERM
        flag.restore()
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "alive\n"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_made_ahead():
    """In order, so many before they are asked for, and none after the last that was wanted."""
    begun = []

    def make(n):
        begun.append(n)
        if n == 7:
            raise ValueError(n)
        return n * n

    chunks = ahead(make, range(100))
    assert [next(chunks) for _ in range(5)] == [0, 1, 4, 9, 16]
    chunks.close()
    assert len(begun) <= 5 + AHEAD and begun == list(range(len(begun)))
    with pytest.raises(ValueError, match="7"):
        list(ahead(make, range(100)))
    assert list(ahead(make, [1])) == [1]


def test_ranks_agree_on_each_field_by_its_own_reduction():
    mine = SyncPoint(False, True, False, 8, 0, 0.5, 2**53, 2.25)
    other = SyncPoint(True, False, False, 4, 1, 0.25, 7, 3.5)

    def all_reduce(reports):
        assert reports[1].count_nonzero() == 0  # each rank fills its own row
        reports[1] = torch.tensor(other, dtype=torch.float64)

    two = SimpleNamespace(rank=0, world=2, device=torch.device("cpu"), all_reduce=all_reduce)
    agreed = mine.reduced(two)
    assert agreed == SyncPoint(True, True, False, 4, 1, 0.5, 2**53, 5.75)
    assert [type(value) for value in agreed] == [bool, bool, bool, int, int, float, int, float]


def test_seconds_of_nested_runs_are_not_of_training():
    run = SimpleNamespace(flops_per_image=1, tokens_per_image=1, execution=SimpleNamespace(peak_flops_per_s=0))
    meter = ThroughputMeter(run, 0, SimpleNamespace(world=1, device=torch.device("cpu")))
    time.sleep(0.02)
    with meter.paused():
        time.sleep(0.5)
    assert 0.02 <= meter.seconds() < 0.4
    assert meter.speed(100)["images_per_s"] > 100 / 0.4
