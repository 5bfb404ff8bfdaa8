"""The final loss by the curve so far: on curves that collapse by construction, against the loss that they end at."""

import math
from dataclasses import replace

import numpy as np
import pytest
from early_synthetic import BELOW, BUDGET, SIZES, curve, grid, measured, probe

from ditscale.early.collapse import GAMMA, GAMMA_SE, TAIL, Collapse, final_loss, gamma_of
from ditscale.laws import Estimate

UNKNOWN = Estimate(0.5)  # an exponent without an interval: nothing is learned from it


def test_bins_are_means_at_known_places():
    run = curve(1e5, 64_000, np.random.default_rng(0), noise=0.0, scatter=0.0)
    flat = replace(run, loss=run.images)
    bins = flat.bins("loss", anchor=run.last)
    low, high = run.last * np.exp(0.25 * bins.place), run.last * np.exp(0.25 * (bins.place + 1))
    for value, steps, a, b in zip(bins.value, bins.steps, low, high, strict=True):
        inside = run.images[(run.images > a * (1 + 1e-9)) & (run.images <= b * (1 + 1e-9))]
        assert steps == len(inside) and value == pytest.approx(math.log(inside.mean()), abs=1e-12)
    assert bins.place[-1] == -1  # the newest step ends a whole bin
    assert low[0] >= run.warmup


def test_steps_without_a_value_do_not_count():
    run = probe(np.random.default_rng(0), noise=0.0)
    holes = run.loss.copy()
    holes[1000:1010], holes[2000] = np.nan, np.inf
    whole, holed = (replace(run, loss=loss).bins("loss", run.last) for loss in (run.loss, holes))
    assert holed.steps.sum() == whole.steps.sum() - 11
    np.testing.assert_allclose(holed.value, whole.value, atol=0.01)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_without_noise_the_projection_is_the_loss_it_ends_at(share):
    rng = np.random.default_rng(0)
    runs, run = grid(rng, noise=0.0), probe(rng, noise=0.0)
    made = Collapse(runs, 1.0).project(run.until(share * run.end))
    assert made.covered and made.log_loss == pytest.approx(math.log(measured(1.6e5, run.end)), abs=0.004)


@pytest.mark.parametrize("gamma", [0.75, 1.0, 1.3])
def test_the_law_says_along_which_ratio_curves_collapse(gamma):
    rng = np.random.default_rng(0)
    runs, run = grid(rng, noise=0.0, gamma=gamma), probe(rng, noise=0.0, gamma=gamma)
    a = 1 / (1 + gamma)
    expected, _ = final_loss(runs, run.until(run.end / 4), Estimate(a, a - 0.002, a + 0.002))
    assert expected.value == pytest.approx(measured(1.6e5, run.end, gamma), rel=0.005)


def test_gamma_weighs_the_law_against_what_is_believed():
    assert gamma_of(UNKNOWN) == (GAMMA, pytest.approx(GAMMA_SE))
    # a = .568 +- .01: (1 - a) / a = .7606, and its standard error .01 / 1.96 / a^2 is a tenth of what is believed.
    mean, se = gamma_of(Estimate(0.568, 0.558, 0.578))
    assert mean == pytest.approx(0.7632, abs=1e-3) and se == pytest.approx(0.0157, abs=2e-4)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_interval_holds_the_truth(share):
    """Of twenty intervals of 95 %, fewer than 17 hold with a chance of 1.6 %."""
    held, truth = [], measured(1.6e5, 8 * BUDGET / 1.6e5)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        runs, run = grid(rng), probe(rng)
        expected, covered = final_loss(runs, run.until(share * run.end), UNKNOWN)
        held.append(expected.covers(truth))
        assert covered and abs(math.log(expected.value / truth)) < 0.02
    assert sum(held) >= 17


def test_noise_that_the_grid_shares_cancels():
    """A probe of the grid's seed sees the grid's noise, and one with its own does not: the former is known better."""
    errors = {True: [], False: []}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        shared = rng.standard_normal(20_000)
        runs = []
        for run in grid(rng, noise=0.2, shared=shared):
            tail = run.loss[run.images > run.end * math.exp(-TAIL)].mean()
            runs.append(replace(run, readings=((run.end, tail * math.exp(-BELOW)),)))  # no noise in what lies below
        for same in errors:
            run = probe(rng, (0, 0) if same else (1, 1), noise=0.2, shared=shared if same else None)
            made = Collapse(runs, 1.0).project(run.until(12_000))
            errors[same].append(made.log_loss - math.log(measured(1.6e5, run.end)))
    rms = {same: np.sqrt(np.mean(np.square(values))) for same, values in errors.items()}
    assert rms[True] < 0.8 * rms[False]


def test_it_says_where_no_smaller_run_saw_as_many_images_per_parameter():
    rng = np.random.default_rng(0)
    large = [run for run in grid(rng) if run.n_params > 1e5]
    expected, covered = final_loss(large, probe(rng).until(25_000), UNKNOWN)
    assert not covered and expected.value > 0
    assert final_loss(grid(rng), probe(rng).until(500), UNKNOWN) is None


def test_the_measured_loss_may_lie_anywhere_beside_the_curve():
    """BELOW is read from the grid: another one moves the projection by as much."""
    rng = np.random.default_rng(0)
    runs, run = grid(rng, noise=0.0), probe(rng, noise=0.0)
    moved = [replace(r, readings=tuple((at, loss * math.exp(BELOW)) for at, loss in r.readings)) for r in runs]
    first, second = (Collapse(of, 1.0).project(run.until(run.end / 4)).log_loss for of in (runs, moved))
    assert second - first == pytest.approx(BELOW, abs=1e-9)
    assert len(SIZES) == len(runs)
