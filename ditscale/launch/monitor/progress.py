"""Progress of a study's runs and its ETA: on a terminal a block redrawn in place, otherwise a line now and then."""

import math
import shutil
import sys
import time
from collections import Counter
from typing import TextIO

from ... import units
from .status import DONE, RunStatus, State

LINE_EVERY_S = 10.0
SHOWN = 8  # runs with a line of their own


class Progress:
    """Shows a study's status on `out`. `workers`: of runs at once (0: as many as run); `extra_flops`: later work;
    `speed`: known FLOP/s of one rank, by n_params, until runs show their own."""

    def __init__(
        self, workers: int, extra_flops: float = 0.0, out: TextIO | None = None, speed: dict[int, float] | None = None
    ):
        self.workers, self.extra_flops, self.out = workers, extra_flops, out or sys.stdout
        self.terminal = self.out.isatty()
        self.drawn, self.last = 0, 0.0
        self.speed = dict(speed or {})  # FLOP/s of one rank, by n_params: small models use a core less well.

    def show(self, statuses: list[RunStatus], took_s: float = 0.0, last: bool = False):
        """Draw, if it is time to or this is the last call. `took_s`, how long the status took, is not shown."""
        for s in statuses:
            if s.images_per_s:
                self.speed[s.run.n_params] = s.images_per_s * s.run.flops_per_image / s.run.execution.ranks
        if not self.terminal and not last and time.monotonic() - self.last < LINE_EVERY_S:
            return
        self.last = time.monotonic()
        lines = self.lines(statuses)
        if not self.terminal:
            print(lines[0] + "  " + "; ".join(line.strip() for line in lines[1:]), file=self.out, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        up = f"\x1b[{self.drawn}F" if self.drawn else ""
        self.out.write(up + "".join(f"\x1b[2K{line[:width]}\n" for line in lines) + "\x1b[J")
        self.out.flush()
        self.drawn = len(lines)

    def lines(self, statuses: list[RunStatus]) -> list[str]:
        """The first line is about the whole study, then comes one for each running run."""
        done = sum(s.done_flops for s in statuses)
        total = done + sum(s.left_flops for s in statuses) + self.extra_flops
        fraction = done / total if total else 1.0
        ended = sum(s.state in DONE for s in statuses)
        left = f"  about {units.duration(eta)} left" if (eta := self.eta_s(statuses)) else ""
        lines = [f"[{'#' * round(24 * fraction):<24}] {fraction:>4.0%}  {ended} of {len(statuses)} runs done{left}"]
        running = [s for s in statuses if s.state == State.RUNNING]
        pending = Counter(s.reason for s in statuses if s.state == State.QUEUED)
        for s in running[:SHOWN]:
            run, speed = s.run, s.reason
            if s.images_per_s:
                speed = f"{s.images_per_s * run.flops_per_image / 1e9:.0f} GFLOP/s"
            loss = f"loss {s.loss:.4f} " if s.loss is not None else ""
            size = f"{run.role} {units.compact(run.budget_flops)} {run.width}x{run.depth}"
            lines.append(f"  {size} {s.images / run.n_images:.0%} {loss}{speed}")
        if len(running) > SHOWN:
            lines.append(f"  and {len(running) - SHOWN} more runs")
        lines += [f"  {n} pending ({reason})" for reason, n in pending.most_common(3)]
        return lines

    def eta_s(self, statuses: list[RunStatus]) -> float | None:
        """Seconds left: the work divided by the workers' speed, at least what the longest run alone needs."""
        workers = self.workers or sum(s.run.execution.ranks for s in statuses if s.state == State.RUNNING)
        if not self.speed or not workers:
            return None
        alone = [s.left_flops / (self._speed_of(s.run.n_params) * s.run.execution.ranks) for s in statuses]
        shared = sum(s.left_flops / (self._speed_of(s.run.n_params) * workers) for s in statuses)
        return max([shared, *alone]) + self.extra_flops / (max(self.speed.values()) * workers)

    def _speed_of(self, n_params: int) -> float:
        """The known FLOP/s of the size nearest in log N."""
        return self.speed[min(self.speed, key=lambda n: abs(math.log(n / n_params)))]
