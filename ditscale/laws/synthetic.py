"""Tables of runs whose truth is known: for examples, for tests, and to try a fit on a study before it is run.

    table, truth = synthetic_study("asymmetric", noise=0.003, seed=0)
    python -m ditscale.laws.synthetic asymmetric --noise 0.003 --seed 0 --out runs.csv

The truth is written here from the equations alone and shares nothing with the fitter, so it can test the fitter."""

import argparse
import csv
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError, nearest
from ..tables.table import Table
from ..units import number, whole

# The budgets of Liang et al. 2024 (arXiv 2410.08184), and the one their law was tested at.
PAPER_BUDGETS = (1e17, 3e17, 6e17, 1e18, 3e18, 6e18)
PAPER_TARGET = 1.5e21
# Their FID law; an out-of-domain loss lies above by GAP at 1e17 FLOPs, and stays there or grows as C^0.1.
FID_COEFFICIENT, FID_EXPONENT = 2.2566e6, -0.234
GAP, GAP_EXPONENT = 0.05, 0.1
METRICS = ("loss", "fid", "ood_loss", "ood_loss_growing")


@dataclass(frozen=True)
class Truth:
    """L(N, D) = E + A N^-alpha + B D^-beta with C = kappa N D: Hoffmann et al. 2022 (arXiv 2203.15556), equation 2."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    kappa: float = 6.0

    @classmethod
    def anchored(
        cls, E: float, alpha: float, beta: float, n_params: float, loss: float, budget_flops: float = PAPER_TARGET,
        kappa: float = 6.0,
    ) -> Self:  # fmt: skip
        """The surface whose optimum at `budget_flops` is a model of `n_params` with that `loss`. At an optimum the two
        terms are as beta to alpha, because alpha A N^-alpha = beta B D^-beta there."""
        rest, n_tokens = (loss - E) / (alpha + beta), budget_flops / (kappa * n_params)
        return cls(E, beta * rest * n_params**alpha, alpha * rest * n_tokens**beta, alpha, beta, kappa)

    @property
    def model_exponent(self) -> float:
        """Of N* in C."""
        return self.beta / (self.alpha + self.beta)

    @property
    def loss_floor_exponent(self) -> float:
        """Of L* - E in C, negative."""
        return -self.alpha * self.beta / (self.alpha + self.beta)

    def loss_at(self, n_params: ArrayLike, n_tokens: ArrayLike) -> np.ndarray:
        """L(N, D), broadcast over both."""
        return self.E + self.A * np.power(n_params, -self.alpha) + self.B * np.power(n_tokens, -self.beta)

    def optimum(self, budget_flops: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N*, D*, L*) at a budget in FLOPs, broadcast. With D = C / (kappa N), dL/dN = 0 at the N* below."""
        nd = np.asarray(budget_flops, dtype=float) / self.kappa
        ratio = self.alpha * self.A / (self.beta * self.B)
        n_params = (ratio * nd**self.beta) ** (1 / (self.alpha + self.beta))
        return n_params, nd / n_params, self.loss_at(n_params, nd / n_params)


# DiT-like: losses of 0.6-0.9 and N* = 958M, L* = 0.63 at 1.5e21 FLOPs, as in Liang et al.
SYMMETRIC = Truth.anchored(0.585, 0.35, 0.35, 958.3e6, 0.63)
ASYMMETRIC = Truth.anchored(0.53, 0.45, 0.15, 958.3e6, 0.63)
# Besiroglu et al. 2024 (arXiv 2404.10102), the refit of Hoffmann et al.'s approach 3.
CHINCHILLA = Truth(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
# Two designs with the paper's model exponents; the second is 1 % better at the target.
DESIGNS = {
    "in_context": Truth.anchored(0.585, 0.3024, 0.3976, 958.3e6, 0.6325),
    "cross_attention": Truth.anchored(0.585, 0.322, 0.378, 850e6, 0.626),
}


@dataclass(frozen=True)
class Case:
    """A study: in each slice `sizes` log-spaced N within `half_width` of `shift` times the optimum, D = C / (kappa N).
    raises: the codes of the findings it must raise. drift: factor by which the centre moves from the smallest to the
    largest budget. missing: share of absent runs. jitter: standard deviation of log(achieved / planned FLOPs). misfit:
    relative excess of the loss at 1e9 tokens, falling as 1/D. one_sided, downward: of one slice; diverged: a run."""

    about: str
    raises: tuple[str, ...] = ()
    truth: Truth = SYMMETRIC
    budgets: tuple[float, ...] = PAPER_BUDGETS
    sizes: int = 14
    half_width: float = 8.0
    shift: float = 1.0
    drift: float = 1.0
    missing: float = 0.0
    jitter: float = 0.0
    misfit: float = 0.0
    diverged: float = 0.0
    one_sided: bool = False
    downward: bool = False


CASES = {
    "symmetric": Case("alpha = beta: parabolas and the surface agree"),
    "chinchilla": Case("the Chinchilla surface", truth=CHINCHILLA),
    "asymmetric": Case("alpha = 3 beta: parabolas are biased", ("asymmetric_surface",), truth=ASYMMETRIC),
    "off_centre": Case("every grid centred 3x above the optimum", ("one_sided_grid",), shift=3.0, half_width=5.0),
    "drifting": Case("grids centred 2.2x below, later 2.2x above the optimum", ("drifting_centring",), drift=5.0),
    "wide": Case("grids reach 32x to either side", ("wide_grid",), half_width=32.0),
    "narrow": Case("grids reach 1.8x to either side: hardly any curvature", ("parabola_flat",), half_width=1.8),
    "at_edge": Case("every minimum in the outermost interval", ("minimum_at_edge",), sizes=7, shift=6.5),
    "minimum_outside": Case("one slice has only sizes below its optimum", ("minimum_outside",), one_sided=True),
    "downward": Case("one slice bends the wrong way", ("parabola_downward",), downward=True),
    "missing_cells": Case("a quarter of the runs is missing at random", missing=0.25),
    "diverged": Case("one run lies 30 % above the surface", ("outlier_run",), diverged=0.3),
    "short_run_misfit": Case("short runs lie above the surface, as if warm-up took a share", ("lack_of_fit",),
                             misfit=0.05),
    "budget_jitter": Case("runs miss their budget by 3 %", ("budget_mismatch",), jitter=0.03),
    "few_runs": Case("three sizes per budget", ("too_few_runs",), sizes=3),
    "one_budget": Case("a single slice", ("too_few_budgets",), budgets=(1e18,)),
    "two_budgets": Case("two slices: nothing checks the form", ("saturated_fit",), budgets=(1e17, 6e18)),
}  # fmt: skip


def synthetic_study(
    case: str | Case = "symmetric", noise: float = 0.003, seed: int = 0, metric: str = "loss",
    probe: float | None = None,
) -> tuple[Table, Truth]:  # fmt: skip
    """A table of runs and the truth behind it. case: of CASES; noise: log-normal scatter of a run; metric: of METRICS;
    probe: a budget in FLOPs, at whose true optimum a probe is added. Raises UserError on an unknown case or metric."""
    columns, truth = synthetic_columns(case, noise, seed, probe)
    if metric not in METRICS:
        raise UserError(f"metric: there is no {metric!r}{nearest(metric, METRICS)}; choose from {', '.join(METRICS)}")
    names = ("run_id", "role", "n_params", "n_tokens", "budget_flops", "achieved_flops")
    fields: dict[str, Any] = {name: columns.get(name) for name in names}
    return Table.of(**fields, loss=columns[metric], metric=metric, source="synthetic"), truth


def synthetic_columns(
    case: str | Case = "symmetric", noise: float = 0.003, seed: int = 0, probe: float | None = None
) -> tuple[dict[str, np.ndarray], Truth]:
    """({column: (n_runs,)}, truth): all that `write_csv` writes; the metrics scatter independently of each other."""
    if isinstance(case, str):
        if case not in CASES:
            raise UserError(f"there is no case {case!r}{nearest(case, CASES)}; choose from {', '.join(CASES)}")
        case = CASES[case]
    rng, truth, budgets = np.random.default_rng(seed), case.truth, np.array(case.budgets, dtype=float)
    centre = truth.optimum(budgets)[0] * case.shift * case.drift ** np.linspace(-0.5, 0.5, len(budgets))
    n_params = centre[:, None] * np.geomspace(1 / case.half_width, case.half_width, case.sizes)
    middle = len(budgets) // 2
    if case.one_sided:
        n_params[middle] = centre[middle] * np.geomspace(case.half_width**-2, case.half_width**-0.5, case.sizes)
    budget = np.broadcast_to(budgets[:, None], n_params.shape)
    n_tokens = budget / (truth.kappa * n_params) * np.exp(case.jitter * rng.standard_normal(n_params.shape))
    loss = truth.loss_at(n_params, n_tokens) * (1 + case.misfit * 1e9 / n_tokens)
    if case.downward:
        loss[middle] = loss[middle].max() + loss[middle].min() - loss[middle]
    if case.diverged:
        loss[middle, 3 * case.sizes // 4] *= 1 + case.diverged
    kept = rng.permutation(n_params.size) >= round(case.missing * n_params.size)
    n_params, n_tokens, budget, loss = (a.ravel()[kept] for a in (n_params, n_tokens, budget, loss))
    role = ["grid"] * len(loss)
    if probe is not None:
        optimum = truth.optimum(probe)
        n_params, n_tokens, loss = (np.append(a, x) for a, x in zip((n_params, n_tokens, loss), optimum, strict=True))
        budget, role = np.append(budget, probe), [*role, "probe"]
    scatter = np.exp(noise * rng.standard_normal((len(METRICS), len(loss))))
    # The FID follows the loss: Liang et al.'s at each optimum, off it that of the budget whose optimum has the loss.
    excess = (loss - truth.E) / (truth.optimum(budget)[2] - truth.E)
    fid = FID_COEFFICIENT * np.power(budget, FID_EXPONENT) * excess ** (FID_EXPONENT / truth.loss_floor_exponent)
    metrics = (loss, fid, loss + GAP, loss + GAP * (budget / 1e17) ** GAP_EXPONENT)
    ids = [f"c{c:.3g}-n{n:.4g}".replace("e+", "e") for c, n in zip(budget, n_params, strict=True)]
    columns = {"run_id": np.array(ids), "role": np.array(role)}
    columns |= {"n_params": n_params, "n_tokens": n_tokens, "budget_flops": budget}
    columns |= {"achieved_flops": truth.kappa * n_params * n_tokens} if case.jitter else {}
    return columns | dict(zip(METRICS, metrics * scatter, strict=True)), truth


def write_csv(
    out: Any, case: str | Case = "symmetric", noise: float = 0.003, seed: int = 0, probe: float | None = None
) -> Truth:
    """Write the runs of a case to `out`, a path or an open text file, as CSV; `read_table` reads any metric of it."""
    columns, truth = synthetic_columns(case, noise, seed, probe)
    with nullcontext(out) if hasattr(out, "write") else open(out, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        # repr, the default of Python's csv for floats, keeps every digit: the table read back is the table made.
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return truth


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m ditscale.laws.synthetic", description="Print a table of runs whose truth is known, as CSV.",
        epilog="\n".join(["cases:", *(f"  {name:17} {case.about}" for name, case in CASES.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    noise, seed = partial(number, what="--noise", low=0), partial(whole, what="--seed", low=0)
    probe = partial(number, what="--probe", above=0)
    parser.add_argument("case", help="the kind of study")
    parser.add_argument("--noise", type=noise, default=0.003, help="log-normal scatter of one run (0.003 = 0.3 %%)")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--probe", type=probe, help="a budget in FLOPs: a run at its true optimum is added as a probe")
    parser.add_argument("--out", default=sys.stdout, help="file to write; without it the table is printed")
    try:
        write_csv(**vars(parser.parse_args(argv)))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
