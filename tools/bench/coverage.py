"""Do the intervals hold in studies as small as the miniature's? Prints a coverage table of docs/measured/laws.md.

    python tools/bench/coverage.py [--replicates 300]

Each study has budgets x sizes runs on C = 6 N D, sizes log-spaced within a factor `WIDTH` of the true optimum,
log-normal run-to-run noise. The target is 8x the largest budget; the probe is one more run there, at the forecast N*,
with the same noise.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from ditscale.laws import Table, fit_approach2, fit_approach3, forecast
from ditscale.laws.surface.fit_surface import optimum

KAPPA, WIDTH, BEYOND = 6.0, 5.0, 8.0
# (E, A, B, alpha, beta): the first three have about the loss and slope of a miniature DiT study.
TRUTHS = {
    "floor": (0.08, 40.0, 60.0, 0.5, 0.5),
    "no floor": (0.0, 40.0, 60.0, 0.5, 0.5),
    "asymmetric": (0.05, 40.0, 300.0, 0.4, 0.6),
    "Chinchilla": (1.817, 482.0, 2085.0, 0.348, 0.366),
}
SMALL, LARGE = (1e11, 9e11), (1e17, 6e18)


def study(truth: np.ndarray, budgets: np.ndarray, sizes: int, noise: float, rng) -> Table:
    n_params = np.concatenate(
        [np.exp(optimum(truth, KAPPA, c)[0]) * np.geomspace(1 / WIDTH, WIDTH, sizes) for c in budgets]
    )
    c = np.repeat(budgets, sizes)
    n_tokens = c / KAPPA / n_params
    return Table.of(
        n_params, n_tokens, c, surface(truth, n_params, n_tokens) * np.exp(noise * rng.standard_normal(len(c)))
    )


def surface(truth, n_params, n_tokens):
    return truth[0] + np.exp(truth[1] - truth[3] * np.log(n_params)) + np.exp(truth[2] - truth[4] * np.log(n_tokens))


def tally(name: str, budgets: np.ndarray, sizes: int, noise: float, replicates: int) -> dict[str, list]:
    """{quantity: [whether each given interval covered]}; quantities that were refused are absent from the list."""
    floor, a, b, alpha, beta = TRUTHS[name]
    truth = np.array([floor, math.log(a), math.log(b), alpha, beta])
    target = BEYOND * budgets[-1]
    log_n, _, loss = (float(v) for v in optimum(truth, KAPPA, target))
    exponent = beta / (alpha + beta)
    hits: dict[str, list] = {k: [] for k in ("a2", "N2", "a3", "N3", "L3", "probe")}
    widths = []
    for replicate in range(replicates):
        rng = np.random.default_rng([replicate, sizes, len(budgets), int(1e4 * noise)])
        table = study(truth, budgets, sizes, noise, rng)
        two = fit_approach2(table, bootstrap=500, seed=replicate)
        three = fit_approach3(table, bootstrap=500, seed=replicate)
        if two.ok:
            hits["a2"].append(two.coefficients()["model_exponent"].covers(exponent))
            hits["N2"].append(two.predict(target)["n_params"].covers(math.exp(log_n)))
        if three.ok:
            hits["a3"].append(three.coefficients()["model_exponent"].covers(exponent))
            hits["N3"].append(three.predict(target)["n_params"].covers(math.exp(log_n)))
            hits["L3"].append(three.predict(target)["loss"].covers(loss))
        said = forecast(table, target, bootstrap=200, seed=replicate)
        at = said.n_params.value
        measured = float(surface(truth, at, target / KAPPA / at)) * math.exp(noise * rng.standard_normal())
        low, high = said.loss.low or 0.0, said.loss.high or math.inf
        hits["probe"].append(said.loss.covers(measured))
        widths.append(math.log(high / low) / 2 if low else math.inf)
    return hits | {"half-width": [float(np.median(widths))]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=300)
    replicates = parser.parse_args().replicates
    print(f"{replicates} studies per row; one standard error at 0.95 is {math.sqrt(0.95 * 0.05 / replicates):.3f}.\n")
    columns = (
        "truth | budgets x sizes | noise | a (2) | N* (2) | a (3) | N* (3) | L* (3) | (3) given | probe | half-width"
    )
    print(f"| {columns} |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    designs = [
        ("floor", 3, 5),
        ("floor", 3, 6),
        ("floor", 3, 7),
        ("floor", 4, 6),
        ("no floor", 3, 6),
        ("asymmetric", 3, 6),
    ]
    for name, count, sizes in [*designs, ("Chinchilla", 6, 14)]:
        ends = LARGE if name == "Chinchilla" else SMALL
        for noise in (0.003, 0.01, 0.03):
            hits = tally(name, np.geomspace(*ends, count), sizes, noise, replicates)
            cells = [f"{np.mean(hits[k]):.3f}" if hits[k] else "-" for k in ("a2", "N2", "a3", "N3", "L3")]
            given = f"{100 * len(hits['a3']) / replicates:.0f} %"
            probe = f"{np.mean(hits['probe']):.3f}"
            half = f"{100 * hits['half-width'][0]:.2g} %"
            print(
                "| "
                + " | ".join([name, f"{count} x {sizes}", f"{100 * noise:g} %", *cells, given, probe, half])
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
