"""The predictor on real isoFLOP tables: the largest 1 to 3 budgets held out, and the largest predicted from the rest.

    python tools/bench/real_tables.py isoflops_public.csv

The table has columns experiment, params, tokens, budget, loss and outlier (gathered with arXiv 2603.22339; not part of
this project). Each experiment is taken whole, and without its outliers. The held-out minimum is measured by a cubic in
ln N (a parabola below 7 runs) through the runs within 8 % of it, whose standard error is added to the interval.
"""

import csv
import math
import sys
from collections import defaultdict

import numpy as np

from ditscale.laws import Table
from ditscale.laws.predictor.predictor import predictor

NEAR = 0.08
MOST = (0.003, 0.15)  # of the measurement's standard errors, in ln L and ln N


def tables(path: str) -> dict[str, Table]:
    rows = defaultdict(list)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            values = [float(row[name]) for name in ("params", "tokens", "budget", "loss")]
            rows[f"{row['experiment']}, all"].append(values)
            if row["outlier"] == "False":
                rows[f"{row['experiment']}, clean"].append(values)
    return {name: Table.of(*np.array(values).T) for name, values in rows.items()}


def minimum(table: Table) -> tuple[np.ndarray, np.ndarray] | None:
    """((ln L, ln N) of the lowest loss, their standard errors); None where it lies at an end."""
    near = table.loss <= (1 + NEAR) * table.loss.min()
    z, y = np.log(table.n_params[near]), np.log(table.loss[near])
    if len(z) < 5:
        return None
    degree, middle = (3 if len(z) >= 7 else 2), z.mean()
    places = np.linspace(z.min(), z.max(), 801)

    def lowest(curve: np.ndarray) -> tuple[float, float]:
        at = np.polyval(curve, places - middle)
        return float(at.min()), float(places[at.argmin()])

    curve = np.polyfit(z - middle, y, degree)
    value = lowest(curve)
    if value[1] in (places[0], places[-1]):
        return None
    basis = np.vander(z - middle, degree + 1)
    rest = y - basis @ curve
    spread = float(rest @ rest) / (len(z) - degree - 1) * np.linalg.inv(basis.T @ basis)
    draws = np.array([lowest(c) for c in np.random.default_rng(0).multivariate_normal(curve, spread, 200)])
    return np.array(value), np.minimum(draws.std(axis=0), MOST)


def main() -> None:
    print("| table | held out | beyond | L* error | interval | held | N* / measured | high / low | held |")
    print("|---|---|---|---|---|---|---|---|---|")
    held, widths = np.zeros(2), []
    for name, table in tables(sys.argv[1]).items():
        slices = table.slices()
        measured = minimum(table.take(slices[-1][1]))
        for out in (1, 2, 3):
            if measured is None or len(slices) - out < 4:
                continue
            rest = table.without_largest(out)
            made, budget = predictor(rest), slices[-1][0]
            loss, place = made.slice_minimum(budget, 0), made.optimum(budget).n_params
            shown, inside, wide = [], [], []
            for e, at, se in zip((loss, place), *measured, strict=True):
                middle = math.log(e.value)
                low = middle - math.hypot(middle - math.log(e.low), 1.96 * se)
                high = middle + math.hypot(math.log(e.high) - middle, 1.96 * se)
                inside.append(low <= at <= high)
                wide.append(high - low)
                shown.append((middle - at, low - middle, high - middle))
            held += inside
            widths.append(wide)
            (l_off, l_low, l_high), (n_off, *_) = shown
            words = ["yes" if i else "**no**" for i in inside]
            print(
                f"| {name} | {out} | {budget / rest.budget_flops.max():.3g}x | {100 * l_off:+.2f} % | "
                f"{100 * l_low:+.2f} .. {100 * l_high:+.2f} % | {words[0]} | {math.exp(n_off):.2f} | "
                f"{math.exp(wide[1]):.2f} | {words[1]} |"
            )
    middle = np.median(widths, axis=0)
    print(
        f"\nL* held in {held[0]:g} of {len(widths)}, median width {100 * middle[0]:.2f} %; N* in {held[1]:g}, "
        f"median ln(high / low) {middle[1]:.2f}."
    )


if __name__ == "__main__":
    main()
