"""Do the fits find the truth, and do they know how well? Prints the acceptance table on synthetic truth, as Markdown.

    python tools/bench/acceptance.py [--part recovery|coverage|error|null|findings|trouble|small] [--replicates 300]

Every study comes from `ditscale.laws.synthetic`, with the same seeds in every row (so rows of one grid share their
noise and differ less than their standard errors), and is fitted with the defaults of the package: Huber objective, 1000
resamples where an interval is tested. Rows appear as they are done. A number outside its required range is in bold.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np

from ditscale.laws import Table, compare, fit, fit_approach2, fit_approach3
from ditscale.laws.synthetic import (
    ASYMMETRIC,
    CASES,
    CHINCHILLA,
    DESIGNS,
    PAPER_TARGET,
    SYMMETRIC,
    Case,
    Truth,
    synthetic_study,
)

FIRST_SEED = 10_000  # the seeds below 1000 served to choose how residuals are widened
NOISES = (0.001, 0.003, 0.01)
SURFACES = {"symmetric": SYMMETRIC, "Chinchilla": CHINCHILLA, "asymmetric": ASYMMETRIC}
PAPER = {"6 x 14": {}}
SMALL = {"6 x 8": {"sizes": 8}, "4 x 7": {"sizes": 7, "budgets": (1e17, 6e17, 1e18, 6e18)}}
TROUBLES = {
    "one diverged run": {"diverged": 0.3},
    "a quarter missing": {"missing": 0.25},
    "budgets off by 3 %": {"jitter": 0.03},
}
# Of a nominal 95 %; of null comparisons; of the mean |L*| error at each noise (none is stated for 0.3 %).
COVERAGE, REJECTED, LOSS_ERROR = (0.93, 0.98), 0.06, {0.001: 0.001, 0.01: 0.005}


def two_designs(noise: float = 0.003, seed: int = 0) -> tuple[dict[str, Table], dict[str, Truth]]:
    """({name: Table}, {name: Truth}) of two designs with model exponents 0.568 and 0.54, the second better."""
    return _pair(DESIGNS, noise, seed)


def null_pair(
    case: str = "symmetric", noise: float = 0.003, seed: int = 0
) -> tuple[dict[str, Table], dict[str, Truth]]:
    """({name: Table}, {name: Truth}) of two tables "first" and "second" that differ in nothing but their noise."""
    return _pair(dict.fromkeys(("first", "second"), CASES[case].truth), noise, seed, CASES[case])


def _pair(
    truths: dict[str, Truth], noise: float, seed: int, case: Case = CASES["symmetric"]
) -> tuple[dict[str, Table], dict[str, Truth]]:
    """One table per truth, each with noise of its own."""
    tables = {
        name: synthetic_study(replace(case, truth=truth), noise, len(truths) * seed + k)[0]
        for k, (name, truth) in enumerate(truths.items())
    }
    return tables, dict(truths)


def percent(x: float, digits: int = 2) -> str:
    return f"{100 * x:.{digits}g} %"


def row(*cells) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(title: str, *columns: str) -> None:
    print(f"\n### {title}\n")
    row(*columns)
    print("|" + "---|" * len(columns))


def share(hits: list[bool], low: float = 0.0, high: float = 1.0) -> str:
    """The share of hits, bold where it is outside [low, high]."""
    if not hits:
        return "-"
    value = float(np.mean(hits))
    return f"{value:.3f}" if low <= value <= high else f"**{value:.3f}**"


def study(surface: str, changes: dict, noise: float, seed: int):
    return synthetic_study(replace(CASES["symmetric"], truth=SURFACES[surface], **changes), noise, seed)


def coverage_table(title: str, studies: dict[str, dict], noises, replicates: int) -> None:
    """Coverage of both approaches, over the studies in which each was given. Approach 2 is shown, not tested."""
    head(title, "surface", "study", "noise", "a (3)", "N* (3)", "L* (3)", "L* error", "mean abs", "RMS", "given (3)",
         "a (2)", "N* (2)", "given (2)")  # fmt: skip
    for (name, changes), surface, noise in itertools.product(studies.items(), SURFACES, noises):
        hits: dict[str, list[bool]] = {k: [] for k in ("a3", "N3", "L3", "a2", "N2")}
        errors = []
        for seed in range(FIRST_SEED, FIRST_SEED + replicates):
            table, truth = study(surface, changes, noise, seed)
            n_params, _, loss = truth.optimum(PAPER_TARGET)
            three, two = fit_approach3(table, seed=seed), fit_approach2(table, seed=seed)
            if three.ok:
                at = three.predict(PAPER_TARGET)
                hits["a3"].append(three.coefficients()["model_exponent"].covers(truth.model_exponent))
                hits["N3"].append(at["n_params"].covers(n_params))
                hits["L3"].append(at["loss"].covers(loss))
                errors.append(at["loss"].value / loss - 1)
            if two.ok:
                hits["a2"].append(two.coefficients()["model_exponent"].covers(truth.model_exponent))
                hits["N2"].append(two.predict(PAPER_TARGET)["n_params"].covers(n_params))
        tested, shown = [share(hits[k], *COVERAGE) for k in ("a3", "N3", "L3")], [share(hits[k]) for k in ("a2", "N2")]
        row(surface, name, percent(noise), *tested, *error_cells(errors, noise), given(errors, replicates), *shown,
            given(hits["a2"], replicates))  # fmt: skip


def given(found: list, replicates: int) -> str:
    return percent(len(found) / replicates, 3)


def error_cells(errors: list[float], noise: float) -> tuple[str, str, str]:
    """Signed mean (bold where it is too large), mean absolute and root mean square error."""
    mean = float(np.mean(errors))
    text = f"{100 * mean:+.3f} %"
    text = f"**{text}**" if abs(mean) > LOSS_ERROR.get(noise, math.inf) else text
    return text, percent(np.mean(np.abs(errors))), percent(np.sqrt(np.mean(np.square(errors))))


def coverage(replicates: int) -> None:
    coverage_table("Coverage of 95 % intervals at 1.5e21 FLOPs, 6 budgets x 14 sizes", PAPER, NOISES, replicates)


def small(replicates: int) -> None:
    coverage_table("Coverage on smaller grids", SMALL, NOISES, replicates)


def trouble(replicates: int) -> None:
    coverage_table("Coverage with trouble in the 6 x 14 grid", TROUBLES, (0.003,), replicates)


def error(replicates: int) -> None:
    head("Error of L* (approach 3) with trouble in the 6 x 14 grid", "surface", "study", "noise", "L* error",
         "mean abs", "RMS", "given")  # fmt: skip
    for (name, changes), surface, noise in itertools.product(TROUBLES.items(), SURFACES, NOISES):
        errors = []
        for seed in range(FIRST_SEED, FIRST_SEED + replicates):
            table, truth = study(surface, changes, noise, seed)
            three = fit_approach3(table, bootstrap=0)
            if three.ok:
                errors.append(three.predict(PAPER_TARGET)["loss"].value / truth.optimum(PAPER_TARGET)[2] - 1)
        row(surface, name, percent(noise), *error_cells(errors, noise), given(errors, replicates))


def null(replicates: int) -> None:
    """How often `compare` calls two tables different, by loss at the target and by model exponent."""
    head("Comparisons: share of pairs called different", "pair", "noise", "loss ratio", "model exponent")
    pairs = {f"null, {case}": (case, REJECTED) for case in ("symmetric", "chinchilla", "asymmetric")}
    pairs["exponents 0.568 and 0.54, loss 1 % apart"] = (None, 1.0)
    for name, (case, limit) in pairs.items():
        for noise in NOISES:
            ratio, exponent = [], []
            for seed in range(FIRST_SEED, FIRST_SEED + replicates):
                tables, _ = null_pair(case, noise, seed) if case else two_designs(noise, seed)
                pair = compare(tables, PAPER_TARGET, seed=seed).pairs[0]
                if pair.loss_ratio is not None:
                    ratio.append(not pair.loss_ratio.covers(1.0))
                if pair.model_exponent_difference is not None:
                    exponent.append(not pair.model_exponent_difference.covers(0.0))
            row(name, percent(noise), share(ratio, high=limit), share(exponent, high=limit))


def findings(replicates: int) -> None:
    """How often each case raises what it is made to raise; for clean cases, how often anything at all."""
    head("Findings: share of studies", "case", "noise", "studies", "made to raise", "raised", "other than info")
    for (name, case), noise in itertools.product(CASES.items(), NOISES):
        # That something is raised shows in fewer studies than that nothing is.
        count = max(1, replicates // 5) if case.raises else replicates
        seen: Counter[str] = Counter()
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            laws = fit(synthetic_study(name, noise, seed)[0], seed=seed, bootstrap=200)
            seen.update({f.code for f in laws.findings if f.severity != "info"})
        raised = ", ".join(f"{seen.pop(code, 0) / count:.2f}" for code in case.raises)
        others = [f"{code} {times / count:.2f}" for code, times in sorted(seen.items())]
        row(name, percent(noise), count, ", ".join(case.raises) or "-", raised or "-", ", ".join(others) or "none")


def recovery(_replicates: int) -> None:
    head("Without noise: relative error of approach 3", "surface", "study", "alpha", "beta", "a", "N*", "L*")
    for (name, changes), (surface, truth) in itertools.product((PAPER | SMALL).items(), SURFACES.items()):
        three = fit_approach3(study(surface, changes, 0.0, 0)[0], bootstrap=0)
        found, at, true = three.coefficients(), three.predict(PAPER_TARGET), truth.optimum(PAPER_TARGET)
        off = [abs(found[k].value / getattr(truth, k) - 1) for k in ("alpha", "beta", "model_exponent")]
        off += [abs(at["n_params"].value / true[0] - 1), abs(at["loss"].value / true[2] - 1)]
        row(surface, name, *(f"{x:.1e}" if x <= 1e-8 else f"**{x:.1e}**" for x in off))


PARTS = {f.__name__: f for f in (recovery, coverage, error, null, findings, trouble, small)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be given more than once")
    parser.add_argument("--replicates", type=int, default=300)
    args = parser.parse_args()
    error_of = math.sqrt(0.95 * 0.05 / args.replicates)
    print(f"{args.replicates} replicates per row; one standard error of a share near 0.95 is {error_of:.3f}. "
          f"Required: coverage {COVERAGE[0]:.2f} to {COVERAGE[1]:.2f}, null comparisons at most {REJECTED:.2f}, mean "
          "L* error within 0.1 % at 0.1 % noise and 0.5 % at 1 %.")  # fmt: skip
    for part in args.part or PARTS:
        PARTS[part](args.replicates)


if __name__ == "__main__":
    main()
