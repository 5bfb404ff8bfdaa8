"""How fast is the surface fit, on one thread, beside the fit the usual notebooks make of the same objective?

    python tools/bench/fit_speed.py [--starts 100 | --full]

Runs: a continuum like the 240 points Epoch AI read off Hoffmann et al.'s figure: C log-uniform in 1e18..1e22, N within
6x of the optimum of the Chinchilla surface, 0.5 % noise. Every line is measured in a process of its own, one after the
other. Times are CPU seconds of one thread, which on a quiet machine are the seconds on the clock; memory is the peak
resident size of that process, the interpreter, numpy and scipy included.

The peer minimises sum Huber_1e-3(logsumexp(a - alpha log N, b - beta log D, e) - log L) with scipy from the 4500 starts
of Hoffmann et al. (arXiv 2203.15556, section D.2) and keeps the best: as notebooks do it (no gradient, scipy's
tolerances), with the gradient, and with tolerances that suit an objective of 1e-3. By default a random sample of the
starts is timed and the time scaled up.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when numpy is imported

import argparse
import datetime
import itertools
import json
import platform
import resource
import subprocess
import sys
import time
from functools import partial

import numpy as np

from ditscale.laws import Table, fit_approach3, fit_surface
from ditscale.laws.synthetic import CHINCHILLA

DELTA = 1e-3
LOG_AB, LOG_E, EXPONENT = np.arange(0, 26, 5.0), np.arange(-1, 1.1, 0.5), np.arange(0, 2.1, 0.5)
STARTS = list(itertools.product(LOG_AB, LOG_AB, LOG_E, EXPONENT, EXPONENT))
TIGHT = {"L-BFGS-B": {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}, "BFGS": {"gtol": 1e-10, "maxiter": 5000}}
GIB = 2**30


def runs(count: int) -> Table:
    rng = np.random.default_rng(0)
    budget = 10 ** rng.uniform(18, 22, count)
    n_params = CHINCHILLA.optimum(budget)[0] * 6 ** rng.uniform(-1, 1, count)
    n_tokens = budget / (6 * n_params)
    loss = CHINCHILLA.loss_at(n_params, n_tokens) * np.exp(0.005 * rng.standard_normal(count))
    return Table.of(n_params, n_tokens, budget, loss)


def peer_objective(p, log_n, log_d, log_loss):
    """The summed Huber loss at p = (a, b, e, alpha, beta), as notebooks write it."""
    from scipy.special import logsumexp

    terms = np.stack([p[0] - p[3] * log_n, p[1] - p[4] * log_d, np.full_like(log_n, p[2])])
    size = np.abs(logsumexp(terms, axis=0) - log_loss)
    return np.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA)).sum()


def peer_with_gradient(p, log_n, log_d, log_loss):
    """(objective, gradient): what a careful notebook adds; several times faster than finite differences."""
    terms = np.stack([p[0] - p[3] * log_n, p[1] - p[4] * log_d, np.full_like(log_n, p[2])])
    top = terms.max(axis=0)
    weights = np.exp(terms - top)
    total = weights.sum(axis=0)
    residuals = top + np.log(total) - log_loss
    clipped = np.clip(residuals, -DELTA, DELTA)
    value = (clipped * (residuals - 0.5 * clipped)).sum()
    to_a, to_b, to_e = weights / total * clipped
    return value, np.array([to_a.sum(), to_b.sum(), to_e.sum(), -(to_a @ log_n), -(to_b @ log_d)])


def columns(table: Table):
    return np.log(table.n_params), np.log(table.n_tokens), np.log(table.loss)


def peer(method: str, gradient: bool, tight: bool, count: int) -> dict:
    """The grid search: seconds of all 4500 starts (scaled from `count`) and the best objective of those run."""
    from scipy.optimize import minimize

    data = columns(runs(240))
    picks = np.random.default_rng(1).permutation(len(STARTS))[:count]
    how = {"method": method, "jac": gradient, "options": TIGHT[method] if tight else {}}
    function = peer_with_gradient if gradient else peer_objective
    begin = time.process_time()
    best = min(minimize(function, STARTS[i], data, **how).fun for i in picks)
    return {"seconds": (time.process_time() - begin) * len(STARTS) / len(picks), "objective": float(best)}


def peer_bootstrap(method: str, count: int) -> dict:
    """1000 refits of resampled runs, each from the best fit only, with the gradient: the kindest reading of a peer."""
    from scipy.optimize import minimize

    table = runs(240)
    surface, data = fit_surface(table), np.array(columns(table))
    start = (*surface.parameters[1:3], np.log(surface.E), surface.alpha, surface.beta)
    rng = np.random.default_rng(2)
    begin = time.process_time()
    for _ in range(count):
        drawn = tuple(data[:, rng.integers(240, size=240)])
        minimize(peer_with_gradient, start, drawn, method=method, jac=True, options=TIGHT[method])
    return {"seconds": (time.process_time() - begin) * 1000 / count}


def ours(count: int, objective: str, bootstrap: int, repeats: int) -> dict:
    """Seconds of one fit with `bootstrap` refits, the median of `repeats`, and the objective by the peer's formula."""
    table = runs(count)
    fit_approach3(runs(60), objective, 10)  # lazy imports and first allocations
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        surface = fit_approach3(table, objective, bootstrap).surface
        seconds.append(time.process_time() - begin)
    p = (*surface.parameters[1:3], np.log(surface.E), surface.alpha, surface.beta)
    return {"seconds": float(np.median(seconds)), "objective": float(peer_objective(p, *columns(table)))}


# name: (measurement, required seconds or None)
OURS = {
    "one fit, 240 runs, Huber": (partial(ours, 240, "huber", 0, 21), 0.010),
    "one fit, 240 runs, least squares": (partial(ours, 240, "ls", 0, 21), 0.010),
    "1000 refits, 240 runs, least squares": (partial(ours, 240, "ls", 1000, 3), 0.5),
    "1000 refits, 240 runs, Huber": (partial(ours, 240, "huber", 1000, 3), 1.0),
    "4000 refits, 240 runs, Huber": (partial(ours, 240, "huber", 4000, 1), 4.0),
    "one fit, 10,000 runs, Huber": (partial(ours, 10_000, "huber", 0, 3), 1.0),
    "1000 refits, 10,000 runs, Huber": (partial(ours, 10_000, "huber", 1000, 1), None),
}


def peers(starts: int) -> dict:
    found = {}
    for method in ("L-BFGS-B", "BFGS"):
        for kind, gradient, tight in (("as notebooks do", False, False), ("gradient", True, False),
                                      ("gradient, tight tolerances", True, True)):  # fmt: skip
            found[f"{method}, 4500 starts, {kind}"] = partial(peer, method, gradient, tight, starts)
        name = f"{method}, 1000 refits from the best fit, gradient, tight tolerances"
        found[name] = partial(peer_bootstrap, method, 50)
    return found


def measure(name: str, starts: int) -> dict:
    command = [sys.executable, __file__, "--measure", name, "--starts", str(starts)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr else f'exit {done.returncode}'}")
    return json.loads(done.stdout)


def machine() -> str:
    import scipy

    try:
        lines = open("/proc/cpuinfo").read().splitlines()
    except OSError:
        lines = []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    return f"{model}, one thread; {versions}; {datetime.date.today()}"


def clock(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=100, help="how many of the peer's 4500 starts are run")
    parser.add_argument("--full", action="store_true", help="run all 4500")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    starts = len(STARTS) if args.full else min(args.starts, len(STARTS))
    if args.measure:
        job = OURS[args.measure][0] if args.measure in OURS else peers(starts)[args.measure]
        print(json.dumps(job() | {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
        return

    print(f"{machine()}\n\n| ditscale | CPU time | required | peak memory |\n|---|---|---|---|")
    results = {}
    for name, (_, required) in OURS.items():
        r = results[name] = measure(name, starts)
        late, large = required and r["seconds"] > required, r["bytes"] > GIB
        time_cell, memory = clock(r["seconds"]), f"{r['bytes'] / 2**20:.0f} MiB"
        print(f"| {name} | {f'**{time_cell}**' if late else time_cell} | {clock(required) if required else '-'} | "
              f"{f'**{memory}**' if large else memory} |", flush=True)  # fmt: skip
    fit, refits = results["one fit, 240 runs, Huber"], results["1000 refits, 240 runs, Huber"]
    scaled = "" if args.full else f" (time of {starts} random starts, or 50 refits, scaled up)"
    print(f"\nThe peer{scaled}. Ratio: its time over ours for the same task.\n")
    print("| peer | CPU time | ratio | lowest objective | less ours |\n|---|---|---|---|---|")
    for name in peers(starts):
        r = measure(name, starts)
        base = fit if "objective" in r else refits
        reached = " - | - "
        if "objective" in r:
            reached = f" {r['objective']:.6g} | {r['objective'] - fit['objective']:+.1g} "
        print(f"| {name} | {clock(r['seconds'])} | {r['seconds'] / base['seconds']:,.0f}x |{reached}|", flush=True)


if __name__ == "__main__":
    main()
