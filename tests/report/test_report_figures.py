"""The parts that figures are made of."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from ditscale import laws
from ditscale.laws import Estimate
from ditscale.laws.laws import Bands
from ditscale.report.isoflop import curves, groups, powerlaws_plot, slices_plot
from ditscale.report.read import read_study_results
from ditscale.report.samples import pictures
from ditscale.report.style import LABELS, LETTERS, RAMP, bars, limits, log_ticks, render, sequence, spread


@pytest.mark.parametrize(
    "low, high", [(1e10, 2e13), (17232, 575696), (0.3, 0.82), (0.41, 0.43), (1e17, 6e18), (0.0912, 0.35), (1.0, 1.001)]
)
def test_log_ticks(low, high):
    ticks = log_ticks(low, high)
    assert ticks == sorted(set(ticks)) and all(low <= t <= high for t in ticks) and len(ticks) <= 7
    assert len(ticks) >= 3 or high / low < 1.03
    assert all(float(f"{t:.3g}") == t for t in ticks)


def test_labels_are_spread_and_stay_in_place_when_apart():
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    found = spread([0.5, 0.5, 0.52, 0.9], 0.1)
    assert np.diff(found).min() >= 0.1 - 1e-12 and np.mean(found[:3]) == pytest.approx(
        np.mean([0.5, 0.5, 0.52]), abs=0.01
    )
    assert min(spread([0.0, 0.01], 0.1)) >= LABELS[0]


def test_colours_are_ordered_by_lightness():
    for n in range(1, 25):
        assert len(set(sequence(n))) == n
    lightness = [sum(int(c[i : i + 2], 16) * w for i, w in ((1, 0.3), (3, 0.6), (5, 0.1))) for c in RAMP]
    assert (np.diff(lightness) > 0).all() and set(LETTERS) == set(RAMP)


def test_limits_and_bars_of_any_numbers():
    assert limits([np.nan, -1.0, 0.0, np.inf], []) == (1.0, 10.0)
    low, high = limits([1e-289, 1e289], margin=0.5, right=0.5)
    assert 0 < low < 1e-289 and 1e289 < high < np.inf and log_ticks(low, high)
    assert bars([Estimate(2.0, 1.5, 4.0), Estimate(2.0, None, 3.0), Estimate(2.0, 2.5, 1.0)]) == [
        [0.5, 0.0, 0.0],
        [2.0, 1.0, 0.0],
    ]


def test_curves_are_the_fit(held):
    """What is drawn equals what the library gives: parabolas, surface optimum, power laws."""
    results = read_study_results(held.root)
    fitted = laws.fit(laws.read_table(held.root), bootstrap=0)
    table, two = fitted.fits.table, fitted.fits.approach2
    for g, own in zip(groups(results), two.slices, strict=True):
        assert set(results.table.run_id[g.rows]) == set(table.run_id[own.rows])
        order = [list(table.run_id[own.rows]).index(run) for run in results.table.run_id[g.rows]]
        assert g.minimum.parabola(results.table.n_params[g.rows]) == pytest.approx(own.fitted[order], rel=1e-9)
        assert g.minimum.n_params.value == own.n_params and g.minimum.loss.value == own.loss
    budget = np.array([1e11, 7.2e12])
    optima = [fitted.fits.approach3.surface.optimum(b) for b in budget]
    surface = dict(zip(("model", "data", "loss"), np.transpose(optima), strict=True))
    for law, optimum in surface.items():
        drawn = {name.split("\n")[0]: values for name, values, *_ in curves(fitted, law, budget)}
        assert drawn["surface"] == pytest.approx(optimum)
        ok = [s for s in two.slices if s.ok]
        minima = [s.loss if law == "loss" else getattr(s, {"model": "n_params", "data": "n_tokens"}[law]) for s in ok]
        line = np.polyfit(np.log([s.budget_flops for s in ok]), np.log(minima), 1)
        assert drawn["power law"] == pytest.approx(np.exp(np.polyval(line, np.log(budget))))


def test_intervals_of_minima_are_by_the_delta_method(held):
    results = read_study_results(held.root)
    s = replace(results.laws.slices[0], log_n_se=0.05, loss_se=0.002)
    m = groups(replace(results, laws=replace(results.laws, slices=(s,))))[0].minimum
    assert np.log([m.n_params.low, m.n_params.high]) - np.log(s.n_params) == pytest.approx([-0.098, 0.098])
    assert m.n_tokens.high / s.n_tokens == pytest.approx(s.n_tokens / m.n_tokens.low)
    assert (m.loss.low, m.loss.high) == pytest.approx((s.loss - 0.00392, s.loss + 0.00392))


def test_bands_and_intervals_of_minima_are_drawn_where_given(held):
    results = read_study_results(held.root)
    grid = np.geomspace(1e11, 1e13, 5)
    band = tuple(Estimate(v, 0.9 * v, 1.1 * v if v < 1e6 else None) for v in (1e5, 3e5, 9e5, 1e6, 2e6))
    slices = tuple(replace(s, log_n_se=0.05, loss_se=0.002) for s in results.laws.slices)
    bare = replace(
        results, laws=replace(results.laws, slices=tuple(replace(s, log_n_se=None) for s in slices), bands=None)
    )
    drawn = replace(results, laws=replace(results.laws, slices=slices, bands=Bands(tuple(grid), band, band, band)))
    assert "95 % bands (200 bootstrap replicates)" in powerlaws_plot(drawn).caption
    assert "95 % bands" not in powerlaws_plot(bare).caption
    assert "95 % intervals in N by the delta method" in slices_plot(drawn).caption
    assert "by the delta method" not in slices_plot(bare).caption
    svgs, *_ = render(powerlaws_plot(drawn))
    assert all("PolyCollection" in svg or "FillBetween" in svg for svg in svgs[:3])


def test_the_forecast_of_each_form_has_its_name(held):
    figure, results = Figure(), read_study_results(held.root)
    powerlaws_plot(results).panels[3].draw(figure)
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["sealed\nforecast", "surface", "relaxed"]
    assert [len(axes.containers), axes.get_title(loc="center") + axes.get_title(loc="left")] == [
        3,
        "The forecast, magnified",
    ]


def test_latents_become_false_colours():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 8, 8, 4)).astype("f4")
    made = pictures(latents, latents)
    assert made.shape == (2, 8, 8, 3) and made.dtype == np.uint8 and made.min() == 0 and made.max() == 255
    assert pictures(latents[..., :1], latents[..., :1]).shape == (2, 8, 8, 3)
    grey = np.full((1, 4, 4, 1), 7, np.uint8)
    assert (pictures(grey, grey) == 7).all() and pictures(grey, grey).shape == (1, 4, 4, 3)
