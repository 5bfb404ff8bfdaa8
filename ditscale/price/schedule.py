"""When jobs end that a number of slots executes: list scheduling, as local workers and Slurm's arrays do it."""

import heapq
import math
from collections.abc import Sequence


def makespan(durations: Sequence[float], slots: Sequence[int] | int = 0, limit: int = 0) -> float:
    """Seconds until all jobs are done that start in this order, each as soon as there is room. slots: that each job
    takes, or one number for all; limit: slots that there are, 0 for no limit. A job larger than that runs alone."""
    widths = [slots or 1] * len(durations) if isinstance(slots, int) else list(slots)
    free, now, running = limit, 0.0, list[tuple[float, int]]()
    for seconds, width in zip(durations, widths, strict=True):
        width = min(width, limit) if limit else 0
        while limit and free < width:
            now, freed = heapq.heappop(running)
            free += freed
        free -= width
        heapq.heappush(running, (now + seconds, width))
    return max((end for end, _ in running), default=0.0)


def with_requeues(work_s: float, start_s: float, limit_s: float) -> tuple[float, int]:
    """Seconds of a job's all executions, and how many these are, where each starts anew and may take limit_s."""
    usable = max(limit_s - start_s, 0.1 * limit_s)
    times = max(1, math.ceil(work_s / usable))
    return work_s + times * start_s, times


def shares(total: int, counts: list[int]) -> list[int]:
    """Split "at most `total` at once" over arrays of `counts` tasks: in proportion, at least 1 each; 0 is no limit."""
    if not total:
        return [0] * len(counts)
    given = [1] * len(counts)
    while sum(given) < min(total, sum(counts)):
        needy = max((i for i in range(len(counts)) if given[i] < counts[i]), key=lambda i: counts[i] / given[i])
        given[needy] += 1
    return given
