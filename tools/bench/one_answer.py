"""How often the predictor's 95 % intervals hold, and how wide they are beside an oracle's, in many kinds of studies.

    python tools/bench/one_answer.py --studies 300 [--cells independent,slice] [--processes 2]

Each cell draws studies whose law and errors are known, fits them, and asks 250 times beyond the largest budget for the
model exponent, N*, L* and one new run (the sealed forecast). The oracle knows the form, with a free floor, and the
covariance of the errors: its widths are those of generalised least squares at the truth. One line a cell.
"""

import argparse
import math
import multiprocessing
import os
import time
from dataclasses import dataclass

import numpy as np

from ditscale.laws import Table
from ditscale.laws.predictor.predictor import predictor

TARGET = 1.5e21
BUDGETS = np.array([1e17, 3e17, 6e17, 1e18, 3e18, 6e18])
MIDDLE = 8e17
NOISE, SHARED, CHECKPOINT = 3e-3, 1e-3, 5e-4
RNG = np.random.Generator


@dataclass(frozen=True)
class Surface:
    """L = E + A N^-alpha + B D^-beta with C = 6 N D, through N* and L* - E = above at TARGET."""

    alpha: float
    beta: float
    floor: float
    above: float = 0.045
    n_star: float = 958e6

    def coefficients(self) -> tuple[float, float]:
        of_n = self.above * self.beta / (self.alpha + self.beta)
        tokens = TARGET / 6 / self.n_star
        return of_n * self.n_star**self.alpha, (self.above - of_n) * tokens**self.beta

    def parameters(self) -> np.ndarray:
        a, b = self.coefficients()
        return np.array([self.floor, math.log(a), math.log(b), self.alpha, self.beta])

    @staticmethod
    def loss(p: np.ndarray, log_c: np.ndarray, log_n: np.ndarray) -> np.ndarray:
        return p[0] + np.exp(p[1] - p[3] * log_n) + np.exp(p[2] - p[4] * (log_c - math.log(6) - log_n))

    @staticmethod
    def answers(p: np.ndarray, log_c: float) -> np.ndarray:
        """(L*, ln N*, exponent)."""
        a = p[4] / (p[3] + p[4])
        log_n = (math.log(p[3] / p[4]) + p[1] - p[2]) / (p[3] + p[4]) + a * (log_c - math.log(6))
        return np.array([Surface.loss(p, np.array(log_c), np.array(log_n)), log_n, a])


@dataclass(frozen=True)
class Parabolas:
    """L = (E + k C^-g) exp(q (ln N - n0 - a ln C)^2): the paper's laws (arXiv 2410.08184) as parabolas, E = 0."""

    def parameters(self) -> np.ndarray:
        return np.array([0.0, math.log(2.3943), 0.0273, math.log(0.0009), 0.5681, 0.008])

    @staticmethod
    def loss(p: np.ndarray, log_c: np.ndarray, log_n: np.ndarray) -> np.ndarray:
        return (p[0] + np.exp(p[1] - p[2] * log_c)) * np.exp(p[5] * (log_n - p[3] - p[4] * log_c) ** 2)

    @staticmethod
    def answers(p: np.ndarray, log_c: float) -> np.ndarray:
        return np.array([p[0] + math.exp(p[1] - p[2] * log_c), p[3] + p[4] * log_c, p[4]])


Law = Surface | Parabolas
SYMMETRIC = Surface(0.35, 0.35, 0.585)
# The paper's exponents as a surface without a floor: a = beta / (alpha + beta), g = alpha beta / (alpha + beta).
PAPER = Surface(0.0273 / 0.5681, 0.0273 / 0.4319, 0.0, above=0.6325, n_star=0.0009 * TARGET**0.5681)
LAWS: dict[str, Law] = {
    "alpha .18 beta .45": Surface(0.18, 0.45, 0.585), "alpha .5 beta .2": Surface(0.5, 0.2, 0.585),
    "alpha .30 beta .29": Surface(0.30, 0.29, 0.585), "no floor": Surface(0.2, 0.25, 0.0, above=0.63),
    "paper as parabolas": Parabolas(), "paper as surface": PAPER,
}  # fmt: skip
CELLS = (
    "independent", "nested 0", "nested .5", "nested .9", "slice", "checkpoints", "1 seed", "3 seeds", "5 seeds",
    *LAWS, "Student t 2.5", "skewed", "5 % outliers", "noise falls with C", "noise grows with N", "3 x 4",
    "quarter missing", "either sign",
)  # fmt: skip
# Bars of the median width beside the oracle's: of L*, by cell, and of N*.
BAR_LOSS = {"independent": 1.7, "nested 0": 1.7, "nested .5": 1.7, "nested .9": 1.7, "slice": 1.7}
BAR_LOSS_ELSE, BAR_PLACE = 2.2, 3.0


@dataclass(frozen=True)
class Study:
    """One study: its runs, the covariance of their errors (of a metric of either sign absolute), and its truth."""

    law: Law
    log_c: np.ndarray
    log_n: np.ndarray
    metric: np.ndarray
    covariance: np.ndarray
    relative: bool
    shared: dict[str, np.ndarray]

    def table(self) -> Table:
        n, c = np.exp(self.log_n), np.exp(self.log_c)
        name = "loss" if self.relative else "nll"
        return Table.of(n, c / 6 / n, c, self.metric, metric=name, shared=self.shared)

    def truth(self) -> np.ndarray:
        return self.law.answers(self.law.parameters(), math.log(TARGET)) - (0 if self.relative else [3, 0, 0])

    def oracle(self) -> np.ndarray:
        """95 % widths of ln L* (of either sign: L*), ln N* and the exponent."""
        p = self.law.parameters()
        value = self.law.loss(p, self.log_c, self.log_n)
        steps = 1e-5 * np.maximum(1, np.abs(p))

        def slopes(of) -> np.ndarray:
            return np.stack([(of(p + h) - of(p - h)) / (2 * s) for s, h in zip(steps, np.diag(steps), strict=True)], -1)

        rows = slopes(lambda q: self.law.loss(q, self.log_c, self.log_n)) / (value[:, None] if self.relative else 1)
        asked = slopes(lambda q: self.law.answers(q, math.log(TARGET)))
        asked[0] /= self.truth()[0] if self.relative else 1
        spread = np.linalg.inv(rows.T @ np.linalg.solve(self.covariance, rows))
        return 3.92 * np.sqrt(np.diag(asked @ spread @ asked.T))


def grid(law: Law, span: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """(ln C, ln N): one ladder of sizes for all budgets, of which each takes those within `span` of its optimum."""
    p = law.parameters()
    ladder = law.answers(p, math.log(MIDDLE))[1] + np.arange(-12, 13) / 2 * math.log(2)
    cells = [
        (math.log(c), n) for c in BUDGETS for n in ladder if abs(n - law.answers(p, math.log(c))[1]) < math.log(span)
    ]
    return tuple(np.array(cells).T)


def draw(cell: str, rng: RNG) -> Study:
    law = LAWS.get(cell, SYMMETRIC)
    p = law.parameters()
    shared: dict[str, np.ndarray] = {}
    log_c, log_n = grid(law)
    if cell == "3 x 4":
        optima = [(math.log(c), law.answers(p, math.log(c))[1]) for c in (1e17, 6e17, 3e18)]
        log_c, log_n = np.array([(c, n + off) for c, n in optima for off in np.log([0.25, 0.6, 1.6, 4])]).T
    elif cell == "checkpoints":
        ends = [(law.answers(p, math.log(c))[1], c) for c in (1e17, 6e18)]
        sizes = np.linspace(ends[0][0] - math.log(3), ends[1][0] + math.log(3), 8)
        tokens = [math.log(c / 6) - n for n, c in ends]
        log_d = np.linspace(tokens[0] - math.log(4), tokens[1] + math.log(4), 12)
        log_n, log_d = (part.ravel() for part in np.meshgrid(sizes, log_d, indexing="ij"))
        log_c = math.log(6) + log_n + log_d
    elif cell == "quarter missing":
        keep = rng.random(len(log_c)) > 0.25
        log_c, log_n = log_c[keep], log_n[keep]
    elif "seed" in cell:
        seeds = int(cell[0])
        log_c, log_n = grid(law, 6.0)
        seed = np.repeat(np.arange(seeds), len(log_c))
        log_c, log_n = np.tile(log_c, seeds), np.tile(log_n, seeds)
        shared = {"seed": seed, "data_seed": seed}
    n = len(log_c)
    alone, covariance = NOISE * rng.standard_normal(n), NOISE**2 * np.eye(n)

    def common(labels: np.ndarray, size: float) -> np.ndarray:
        nonlocal covariance
        which = np.unique(labels, return_inverse=True)[1]
        covariance = covariance + size**2 * (which[:, None] == which)
        return size * rng.standard_normal(which.max() + 1)[which]

    if cell.startswith("nested"):
        rho = float(cell.split()[1])
        covariance = (1 - rho) * covariance
        error = math.sqrt(1 - rho) * alone + common(log_n.round(6), math.sqrt(rho) * NOISE)
    elif cell == "slice":
        error = alone + common(log_c.round(3), SHARED)
    elif "seed" in cell:
        error = alone + common(np.round(log_c, 3) * 100 + seed, SHARED)
    elif cell == "checkpoints":
        covariance = CHECKPOINT**2 * np.eye(n)
        error = CHECKPOINT * rng.standard_normal(n) + common(log_n.round(6), NOISE)
    elif cell == "Student t 2.5":
        error, covariance = NOISE * rng.standard_t(2.5, n), covariance * 2.5 / 0.5
    elif cell == "skewed":
        error = NOISE * (rng.exponential(1, n) - 1)
    elif cell == "5 % outliers":
        error = alone + (rng.random(n) < 0.05) * np.abs(rng.standard_normal(n)) * 0.05
        covariance = covariance + (0.05 * 0.05**2 - (0.05 * 0.05) ** 2 * 2 / math.pi) * np.eye(n)
    elif cell.startswith("noise"):
        x = (log_c - math.log(MIDDLE)) / 4 if "C" in cell else (law.answers(p, math.log(MIDDLE))[1] - log_n) / 4
        error, covariance = alone * np.exp(-x), covariance * np.exp(-2 * x)
    else:
        error = alone
    value, relative = law.loss(p, log_c, log_n), cell != "either sign"
    metric = value * np.exp(error) if relative else value - 3 + 0.7 * error
    covariance = covariance if relative else 0.49 * covariance
    return Study(law, log_c, log_n, metric, covariance, relative, shared)


def judge(job: tuple[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """(held (4,), widths (4,), the oracle's (3,), errors (3,), seconds) of a study."""
    cell, number = job
    rng = np.random.default_rng([CELLS.index(cell), number])
    study = draw(cell, rng)
    truth = study.truth()
    new = truth[0] * math.exp(NOISE * rng.standard_normal()) if study.relative else truth[0]
    started = time.perf_counter()
    made = predictor(study.table())
    best, run, a = made.optimum(TARGET), made.one_run(TARGET), made.exponent("model", TARGET)
    seconds = time.perf_counter() - started
    n = best.n_params
    spans = [(best.loss, truth[0]), (n, math.exp(truth[1])), (a, truth[2]), (run, new)]
    held = np.array([e.covers(t) for e, t in spans], dtype=float)
    log = math.log if study.relative else float
    widths = [log(e.high) - log(e.low) for e in (best.loss, run)]
    return (
        held, np.array([widths[0], math.log(n.high / n.low), a.high - a.low, widths[1]]), study.oracle(),
        np.array([log(best.loss.value) - log(truth[0]), math.log(n.value) - truth[1], a.value - truth[2]]), seconds,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print("| cell | L* | width | N* | width | a | width | one run | width | L* error | N* error | s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    with multiprocessing.Pool(options.processes) as pool:
        for cell in options.cells.split(","):
            jobs = [(cell, k) for k in range(options.studies)]
            held, widths, oracle, errors, seconds = (np.array(x) for x in zip(*pool.imap(judge, jobs, 4), strict=True))
            cover, wide = held.mean(0), np.median(widths, 0)
            times = wide[:3] / np.median(oracle, 0)
            bars = (BAR_LOSS.get(cell, BAR_LOSS_ELSE), BAR_PLACE, math.inf)
            shown = []
            for k in range(3):
                # Below 93 % or, where it is wider than its bar, above 99 %: in bold.
                bad = cover[k] < 0.93 or (cover[k] > 0.99 and times[k] > bars[k])
                text = f"{cover[k]:.3f} | {times[k]:.2f}x"
                shown.append(f"**{cover[k]:.3f}** | **{times[k]:.2f}x**" if bad or times[k] > bars[k] else text)
            one = f"{cover[3]:.3f}" if cover[3] >= 0.93 else f"**{cover[3]:.3f}**"
            error = np.median(errors, 0)
            print(
                f"| {cell} | {' | '.join(shown)} | {one} | {100 * wide[3]:.1f} % | {100 * error[0]:+.2f} % | "
                f"{error[1]:+.3f} | {np.mean(seconds):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
