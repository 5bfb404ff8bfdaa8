"""The rate's course, and how long it is that of a longer run, by looking at every step."""

import pytest

from ditscale.config import Recipe
from ditscale.plan.schedule import rate_factor, stable_images


def recipe(**kw):
    return Recipe(aspect=16, batch_size=10, lr_scale=1, **kw)


@pytest.mark.parametrize("schedule, at, factor", [
    ("constant", 0, 0.1), ("constant", 40, 0.5), ("constant", 90, 1), ("constant", 990, 1),
    ("wsd", 500, 1), ("wsd", 800, 1), ("wsd", 900, 0.5), ("wsd", 990, 0.05),
    ("cosine", 100, 1), ("cosine", 550, 0.5), ("cosine", 1000, 0),
])  # fmt: skip
def test_schedules(schedule, at, factor):
    assert rate_factor(recipe(schedule=schedule, warmup_images=100), at, 1000) == pytest.approx(factor)


@pytest.mark.parametrize("decay", [0, 0.05, 0.1, 0.2, 0.25, 1 / 3, 0.5, 0.9, 1])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 99, 100, 1000, 12345])
def test_as_long_as_the_rates_are_those_of_a_longer_run(decay, steps):
    how = recipe(schedule="wsd", warmup_images=30, decay=decay)
    rates, longer = ([rate_factor(how, 10 * i, 10 * n) for i in range(steps)] for n in (steps, 20 * steps + 100))
    first = next((i for i in range(steps) if rates[i] != longer[i]), steps)
    assert stable_images(how, 10 * steps) == (10 * first if decay < 1 else 10)


def test_of_other_schedules():
    assert stable_images(recipe(), 990) == 990
    assert stable_images(recipe(schedule="cosine"), 990) == 0
