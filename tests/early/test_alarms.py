"""Alarms: broken runs are named, and sound ones are not, over the whole of their training."""

from dataclasses import replace

import numpy as np
import pytest
from early_synthetic import grid, probe

from ditscale.early.alarms import LEAST_SIZES, QUANTITIES, alarms_of, deviations


def watched(runs, run, shares=(0.03, 0.4)):
    """Alarms at any of these shares of the run; each looks back to its start."""
    seen = [{q: deviations(runs, run.until(share * run.end), q) for q in QUANTITIES} for share in shares]
    return [alarm for of in seen for alarm in alarms_of(of, run.end)]


def broken(run, loss=0.0, norm=0.0):
    """The run with its loss and its gradient norm moved, in ln."""
    return replace(run, loss=run.loss * np.exp(loss), grad_norm=run.grad_norm * np.exp(norm))


@pytest.mark.parametrize(
    "loss, norm, quantities, word",
    [
        pytest.param(-0.03, -0.25, {"grad_norm"}, "too high", id="rate doubled"),
        pytest.param(0.03, 0.25, {"grad_norm"}, "too low", id="rate halved"),
        pytest.param(0.25, 0.0, {"loss"}, "damaged", id="damaged images"),
        pytest.param(0.9, 0.3, {"loss", "grad_norm"}, "normalised", id="scaled up"),
        pytest.param(-0.5, -0.3, {"loss", "grad_norm"}, "normalised", id="scaled down"),
    ],
)
def test_a_broken_run_is_named(loss, norm, quantities, word):
    rng = np.random.default_rng(0)
    alarms = watched(grid(rng), broken(probe(rng), loss, norm), (0.03,))
    assert {alarm.deviation.quantity for alarm in alarms} == quantities
    assert any(word in alarm.suggests for alarm in alarms)
    for alarm in alarms:
        truth = {"loss": loss, "grad_norm": norm}[alarm.deviation.quantity]
        assert np.log1p(alarm.deviation.deviation) == pytest.approx(truth, abs=0.1)
        assert alarm.share <= 0.03


def test_sound_runs_raise_no_alarm():
    """At 1 % for a whole run, more than two of forty have a chance of 0.7 %."""
    rung = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rung += bool(watched(grid(rng), probe(rng)))
    assert rung <= 2


def test_it_stops_where_too_few_sizes_trained_as_far():
    rng = np.random.default_rng(0)
    runs, run = grid(rng), probe(rng)
    last = deviations(runs, run, "loss")[-1].images
    reached = sorted(r.last for r in runs)[-LEAST_SIZES]
    assert reached * np.exp(-0.25) < last <= reached
    assert deviations(runs[:3], run, "loss") == []


def test_a_size_beyond_the_grid_needs_more():
    """The line may bend out there, and is less known."""
    rng = np.random.default_rng(0)
    runs, run = grid(rng), probe(rng).until(8000)
    inside, outside = (deviations(runs, replace(run, n_params=n), "grad_norm")[-1].band for n in (1.6e5, 2e6))
    assert outside > 2 * inside
