import pytest

from ditscale import units
from ditscale.errors import UserError


@pytest.mark.parametrize("text, value", [("1e17", 1e17), ("6e+18", 6e18), ("1.5e21", 1.5e21), (" 3 ", 3.0), (7, 7.0)])
def test_number_reads_what_people_type(text, value):
    assert units.number(text, "x") == value


@pytest.mark.parametrize("bad", ["abc", "", None, True, "nan", "inf", [1]])
def test_number_refuses(bad):
    with pytest.raises(UserError, match="budget"):
        units.number(bad, "budget")


def test_limits_are_said():
    with pytest.raises(UserError, match="at least 2"):
        units.number(1, "x", low=2)
    with pytest.raises(UserError, match="above 0"):
        units.number(0, "x", above=0)
    with pytest.raises(UserError, match="whole"):
        units.whole("1.5", "x")


@pytest.mark.parametrize(
    "x, text", [(1.44e12, "1.44e12"), (1e17, "1e17"), (1.5e21, "1.5e21"), (0.25, "0.25"), (1e-7, "1e-7")]
)
def test_compact(x, text):
    assert units.compact(x) == text
    assert float(text) == x


def test_count_and_duration():
    assert [units.count(x) for x in (197184, 958.3e6, 12, 999999)] == ["197k", "958M", "12", "1M"]
    assert [units.duration(x) for x in (5, 75, 7300)] == ["5s", "1m15s", "2h01m"]
