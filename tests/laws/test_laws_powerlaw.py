import numpy as np
import pytest

from ditscale.laws import floor_law, power_law
from ditscale.laws.minima.powerlaw import floor_laws, line

C = np.array([1e17, 3e17, 6e17, 1e18, 3e18, 6e18])


def test_pure_law_is_exact_and_the_line_of_the_textbook():
    law = power_law(C, 0.0009 * C**0.5681)
    assert law.coefficient == pytest.approx(0.0009, rel=1e-10) and law.exponent == pytest.approx(0.5681, abs=1e-12)
    y = np.exp(np.random.default_rng(0).standard_normal(6) * 0.1) * C**0.5
    noisy = power_law(C, y)
    assert [noisy.exponent, np.log(noisy.coefficient)] == pytest.approx(list(np.polyfit(np.log(C), np.log(y), 1)))


def test_lines_leave_out_missing_points():
    y = np.stack([2 + 0.5 * np.log(C)] * 3)
    y[1, 2] = np.nan
    y[2, 1:] = np.nan
    found = line(np.log(C), y)
    np.testing.assert_allclose(found[:2], [[2, 0.5]] * 2, rtol=1e-10)
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize(("floor", "k", "a"), [(0.5, 900.0, 0.2), (1.8, 1070.0, 0.178), (0.08, 5e4, 0.4)])
def test_law_with_a_floor_is_recovered(floor, k, a):
    law = floor_law(C, floor + k * C**-a)
    assert law.ok
    assert [law.floor, law.coefficient, law.exponent] == pytest.approx([floor, k, -a], rel=1e-5)


def test_law_with_a_floor_refuses():
    assert "floor E sits on its bound" in floor_law(C, 3 * C**-0.05).reasons[0]
    assert not floor_law(C, 3 * C**0.05).ok
    assert not floor_law(C[:2], [3, 2]).ok
    assert np.isnan(floor_laws(np.log(C), np.full((1, 6), np.nan))).all()
