"""Studies refined run by run until they state what is wanted: cost beside an oracle's, and whether intervals hold.

    python tools/bench/refine.py run --file FILE --studies 50
    python tools/bench/refine.py table --file FILE

Each study starts nested, with the sizes within 4x of the optimum at four budgets up to 1e17, and adds the batches that
`ditscale plan DIR --refine` would, until L* is known within 3 % and N* within 2x, by the intervals that are stated.
`run` appends to FILE and draws no study twice. The oracle knows the law: its design is the cheapest whose interval is
planned to be that narrow.
"""

import argparse
import itertools
import json
import math
import os
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
from planning import CENTRE, TARGET, parameters, read

from ditscale.laws.predictor.member import one_thread
from ditscale.laws.predictor.predictor import predictor
from ditscale.precision.design import Design
from ditscale.precision.information import studies
from ditscale.precision.planned import TYPICAL
from ditscale.precision.refine import Candidates, refine
from ditscale.precision.search import CENTRED, HALF, Search, fields_of
from ditscale.precision.surfaces import Surface, nominal

BUDGETS = (3e15, 6e15, 1e16, 2e16, 5e16, 1e17, 3e17, 6e17, 1e18, 3e18, 6e18)
FIRST = (1e16, 2e16, 5e16, 1e17)
GOALS = np.array([math.log(1.03), math.log(2), math.inf])
SEEDS = (0, 1)
STEPS = 15


@cache
def cells(law: Surface) -> tuple[Design, np.ndarray]:
    """All runs within 14x of the optimum, of two seeds, nested; and ln N less the optimum's."""
    budgets, width, seed = map(np.array, zip(*itertools.product(BUDGETS, range(128, 1600, 64), SEEDS)))
    off = np.log(parameters(width)) - law.log_size(np.log(budgets))
    near = np.abs(off) < math.log(14)
    size, labels = parameters(width)[near], (len(SEEDS) * width + seed)[near]
    return Design.of(size, None, budgets[near], trajectory=labels, seed=seed[near]), off[near]


def refined(law: Surface, rng: np.random.Generator) -> list:
    """[errors (3), half-widths at the end, stated (3) and corrected (3), FLOPs, batches, whether it was enough]."""
    every, off = cells(law)
    log_c, log_n, at = np.log(every.budget_flops), np.log(every.n_params), math.log(TARGET)
    root = np.linalg.cholesky(TYPICAL.covariance(log_c, every.trajectory, every.slices(), every.sizes()))
    losses = law.loss(log_c, log_n) * np.exp(root @ rng.standard_normal(len(every)))
    have = (np.abs(off) < CENTRED) & np.isin(every.budget_flops, FIRST) & (every.seed == SEEDS[0])
    for step in range(STEPS):
        order = np.argsort(~have, kind="stable")
        count, here = int(have.sum()), every.take(order)
        finished = here.take(np.arange(count)).table(losses[order[:count]])
        cost = np.where(have, 0.0, every.budget_flops)[order]
        asked = refine(finished, Candidates(here, cost, off[order], True), count, TARGET, GOALS)
        if not asked.rows:
            break
        have[order[list(asked.rows)]] = True
    best, exponent = (made := predictor(finished)).optimum(TARGET), made.exponent("model", TARGET)
    ends = [(e.low, e.high) for e in (best.loss, best.n_params, exponent)]
    halves = [math.log(high / low) / 2 for low, high in ends[:2]] + [(ends[2][1] - ends[2][0]) / 2]
    errors = [math.log(best.loss.value / law.least(at)), math.log(best.n_params.value) - float(law.log_size(at))]
    spent = Candidates(every, every.budget_flops, off, True).total(have)
    corrected = asked.now.to_array().tolist()
    return [[*errors, exponent.value - law.slope], halves, corrected, spent, step, asked.reached]


def oracle(law: Surface) -> float:
    """FLOPs of the cheapest design, found by search, that is planned to state the goals under its law."""
    every, off = cells(law)
    candidates = Candidates(every, every.budget_flops, off, True)
    chosen, halves = candidates.centred, np.full(3, HALF)
    best = math.inf
    for _ in range(4):
        fields = fields_of(every, chosen, [law], TARGET, TYPICAL)
        chosen = Search(candidates, fields, 2 * np.log(GOALS / halves)).best()
        search = Search(candidates, fields, np.zeros(3))
        widths = np.median(studies(every.take(chosen), law, TARGET, TYPICAL).width, axis=1)
        if (widths / 2 <= 1.02 * GOALS).all():
            best = min(best, candidates.total(chosen))
        halves = widths / 2 / search.spread(chosen)
    return best


def run(file: Path, count: int) -> None:
    there = {(row[0], row[1]) for row in read(file)}
    with file.open("a") as out:
        for number in range(count):
            for k, law in enumerate(nominal(CENTRE)):
                if (k, number) not in there:
                    out.write(json.dumps([k, number, *refined(law, np.random.default_rng([k, number]))]) + "\n")
                    out.flush()


def table(file: Path) -> None:
    rows = defaultdict(list)
    for k, _, *result in read(file):
        rows[k].append(result)
    print("| law | studies | batches | FLOPs | oracle | ratio | L* held | corrected | N* held | corrected | reached |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for k, law in enumerate(nominal(CENTRE)):
        if not rows[k]:
            continue
        errors, halves, corrected = (np.array([r[i] for r in rows[k]]) for i in (0, 1, 2))
        spent, steps, reached = (np.array([r[i] for r in rows[k]], dtype=float) for i in (3, 4, 5))
        plain, wide = ((np.abs(errors) <= half).mean(0) for half in (halves, corrected))
        cost = oracle(law)
        print(
            f"| {k} | {len(spent)} | {steps.mean():.1f} | {spent.mean():.3g} | {cost:.3g} | {spent.mean() / cost:.2f} "
            f"| {plain[0]:.3f} | {wide[0]:.3f} | {plain[1]:.3f} | {wide[1]:.3f} | {reached.mean():.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=50, help="under each law")
    options = parser.parse_args()
    with one_thread():
        if options.do == "run":
            run(options.file, options.studies)
        else:
            table(options.file)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
