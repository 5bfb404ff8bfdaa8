"""The parts that figures are made of."""

import json

import numpy as np
import pytest

from ditscale import laws
from ditscale.report.powerlaws import curves, powerlaws_plot, surface_optimum
from ditscale.report.read import read_material
from ditscale.report.samples import pictures
from ditscale.report.slices import of_slice, parabola, slices_plot
from ditscale.report.style import LABELS, LETTERS, RAMP, log_ticks, render, sequence, spread


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


def test_curves_are_the_fit(held):
    """What is drawn equals what the library gives: parabolas, surface optimum, power laws."""
    table = laws.read_table(held.root)
    fitted = laws.fit(table, bootstrap=0)
    material = read_material(held.root)
    for s, own in zip(material.laws["slices"], fitted.fits.approach2.slices, strict=True):
        rows = of_slice(material, s)
        assert {material.points["run_id"][i] for i in rows} == set(fitted.fits.table.run_id[own.rows])
        order = [list(fitted.fits.table.run_id).index(material.points["run_id"][i]) for i in rows]
        at = [list(own.rows).index(i) for i in order]
        assert parabola(s, material.points["n_params"][rows], raw=True) == pytest.approx(own.fitted[at], rel=1e-9)
    budget = np.array([1e11, 7.2e12])
    n, d, loss = fitted.fits.approach3.surface.optimum(budget)
    ours = surface_optimum(fitted.to_dict(), budget)
    assert (
        ours["n_params"] == pytest.approx(n)
        and ours["n_tokens"] == pytest.approx(d)
        and ours["loss"] == pytest.approx(loss)
    )
    drawn = dict((name.split("\n")[0], values) for name, values, *_ in curves(fitted.to_dict(), "loss", "loss", budget))
    assert drawn["power law"] == pytest.approx(fitted.fits.approach2.loss.at(budget))
    assert drawn["with floor"] == pytest.approx(fitted.fits.approach2.floor.at(budget))


def test_bands_and_intervals_of_minima_are_drawn_where_given(held):
    material = read_material(held.root)
    found = json.loads(json.dumps(material.laws))
    grid = np.geomspace(1e11, 1e13, 5)
    for s in found["slices"]:
        s |= {"log_n_se": 0.05, "loss_se": 0.002}
    bands = {}
    for name, values in surface_optimum(found, grid).items():
        bands[name] = [{"value": v, "low": 0.9 * v, "high": None if v == values[-1] else 1.1 * v} for v in values]
    found["bands"] = {"budget_flops": list(grid)} | bands
    from dataclasses import replace

    with_bands = replace(material, laws=found)
    assert "95 % bands (200 bootstrap replicates)" in powerlaws_plot(with_bands).caption
    assert "95 % intervals in N by the delta method" in slices_plot(with_bands).caption
    svgs, *_ = render(powerlaws_plot(with_bands))
    assert all("PolyCollection" in svg or "FillBetween" in svg for svg in svgs[:3])


def test_latents_become_false_colours():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 8, 8, 4)).astype("f4")
    made = pictures(latents, latents)
    assert made.shape == (2, 8, 8, 3) and made.dtype == np.uint8 and made.min() == 0 and made.max() == 255
    assert pictures(latents[..., :1], latents[..., :1]).shape == (2, 8, 8, 3)
    grey = np.full((1, 4, 4, 1), 7, np.uint8)
    assert (pictures(grey, grey) == 7).all() and pictures(grey, grey).shape == (1, 4, 4, 3)
