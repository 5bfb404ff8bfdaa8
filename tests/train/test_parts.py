"""Schedule, EMA and the standard error against closed forms."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from ditscale.config import Recipe
from ditscale.store.strata import standard_error
from ditscale.train.ema import EMA
from ditscale.train.schedule import rate_factor
from ditscale.train.signals import StopFlag


def recipe(**kw):
    return Recipe(aspect=16, batch_size=10, lr_scale=1, **kw)


@pytest.mark.parametrize("schedule, at, factor", [
    ("constant", 0, 0.1), ("constant", 40, 0.5), ("constant", 90, 1), ("constant", 990, 1),
    ("wsd", 500, 1), ("wsd", 800, 1), ("wsd", 900, 0.5), ("wsd", 990, 0.05),
    ("cosine", 100, 1), ("cosine", 550, 0.5), ("cosine", 1000, 0),
])
def test_schedules(schedule, at, factor):
    assert rate_factor(recipe(schedule=schedule, warmup_images=100), at, 1000) == pytest.approx(factor)


@pytest.mark.parametrize("window", [0.05, 0.1, 0.5])
def test_ema_is_the_power_function(window):
    """Fed w_k = k, the average of weights ~ k^(1/window - 1) over [0, n] is n / (1 + window), up to one step."""
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    ema = EMA([w], window)
    n = 20000
    for k in range(1, n + 1):
        with torch.no_grad():
            w.fill_(float(k))
        ema.update(k)
    assert ema.averages[0].item() == pytest.approx(n / (1 + window), rel=1e-3)


def test_ema_swap_is_its_own_inverse():
    w = torch.nn.Parameter(torch.ones(3))
    ema = EMA([w], 0.1)
    with torch.no_grad():
        w.fill_(5.0)
    ema.swap()
    assert (w == 1).all() and (ema.averages[0] == 5).all()
    ema.swap()
    assert (w == 5).all() and (ema.averages[0] == 1).all()


def test_standard_error_of_strata():
    """Samples with a strong trend over the strata: the error is that of the noise, not of the trend."""
    rng, n, sd = np.random.default_rng(0), 512, 0.3
    trend = np.linspace(0, 10, n)
    draws = trend + sd * rng.normal(size=(2000, n))
    truth = draws.mean(1).std()
    assert np.mean([standard_error(d) for d in draws]) == pytest.approx(truth, rel=0.05)
    assert truth == pytest.approx(sd / np.sqrt(n), rel=0.05)


def test_a_child_outlives_the_signals_that_a_launcher_blocks():
    """Before and after the flag listens they stay blocked, for us and for the squeue that a job starts; meanwhile not."""
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
