"""When jobs end, against a simulation in small steps of time and against closed forms."""

import itertools
import random

import pytest

from ditscale.price.schedule import makespan, with_requeues


def simulated(durations, widths, limit):
    """Whole seconds, one after the other: a queue whose head starts as soon as it fits, or when nothing runs."""
    queue, running, now = list(zip(durations, widths)), [], 0
    while queue or running:
        running = [(end, w) for end, w in running if end > now]
        while queue and (not running or sum(w for _, w in running) + queue[0][1] <= limit):
            seconds, width = queue.pop(0)
            running.append((now + seconds, width))
        now += 1
    return now - 1


@pytest.mark.parametrize("seed", range(30))
def test_list_scheduling(seed):
    draw = random.Random(seed)
    n, limit = draw.randint(1, 9), draw.randint(1, 4)
    durations, widths = ([draw.randint(1, most) for _ in range(n)] for most in (12, 4))
    assert makespan(durations, widths, limit) == simulated(durations, widths, limit)


@pytest.mark.parametrize("seed", range(10))
def test_longest_first_is_near_the_best_of_all_assignments(seed):
    """Graham 1969: longest first takes at most 4/3 - 1/(3m) of the shortest schedule, found here by trying all."""
    draw, m = random.Random(seed), 2
    durations = sorted((draw.randint(1, 20) for _ in range(7)), reverse=True)
    sums = ([sum(d for d, at in zip(durations, where) if at == k) for k in range(m)] for where in
            itertools.product(range(m), repeat=len(durations)))  # fmt: skip
    best = min(map(max, sums))
    assert best <= makespan(durations, 1, m) <= (4 / 3 - 1 / (3 * m)) * best


def test_closed_forms():
    assert makespan([], 1, 4) == 0
    assert makespan([3, 5, 2], 1, 1) == 10  # one after the other
    assert makespan([3, 5, 2]) == makespan([3, 5, 2], 1, 9) == 5  # all at once: the longest
    assert makespan([4] * 7, 1, 3) == 12  # three rounds
    assert makespan([6, 5, 1], 1, 2) == 6  # not sum / slots rounded: the short one fills the gap


@pytest.mark.parametrize("work, start, limit, expected", [
    (100, 10, 1000, (110, 1)), (990, 10, 1000, (1000, 1)), (991, 10, 1000, (1011, 2)), (5000, 100, 1100, (5500, 5)),
])  # fmt: skip
def test_requeues(work, start, limit, expected):
    """Each execution begins with a start, and does limit - start of the work."""
    assert with_requeues(work, start, limit) == expected
