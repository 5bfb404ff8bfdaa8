"""Planned precision against studies drawn and fitted, design by design and law by law.

    python tools/bench/planning.py run --file FILE --studies 50 [--designs published,paper]
    python tools/bench/planning.py table --file FILE

`run` draws studies of each design under each of the eight laws that stand for those around the prior, with the noise
of a typical recipe, fits the predictor, asks at 1.5e21 FLOPs, and appends to FILE. A study that FILE has is not drawn
again, so `run` may be stopped and run again with more studies. `table` sets beside them what is planned without a loss,
and compares the designs' intervals with those of the published study (docs/measured/planning.md).
"""

import argparse
import json
import math
import os
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np

from ditscale.laws.predictor.member import one_thread
from ditscale.pipeline import compose_study
from ditscale.plan.grid import plan_grid
from ditscale.precision.design import Design
from ditscale.precision.information import Studies, studies
from ditscale.precision.planned import TYPICAL, summarised
from ditscale.precision.simulate import simulated
from ditscale.precision.studies import design_of
from ditscale.precision.surfaces import Surface, nominal

TARGET, MIDDLE = 1.5e21, 5e17
PUBLISHED, IMAGES = 1.54e20, 2.23e10  # FLOPs (6 N D) and images of the published study
TOKENS = 334  # of an image and its caption
# L* = .63 with N* = 958M at the target (arXiv 2410.08184), a floor of .585, exponents .54 and .175.
CENTRE = Surface(math.log(TARGET), 0.585, math.log(0.045), math.log(958e6), 0.54, 0.175)
SIX = (1e17, 3e17, 6e17, 1e18, 3e18, 6e18)


def steps(first: int, last: int, *more: int) -> tuple[int, ...]:
    """Widths in steps of 64."""
    return (*range(first, last + 1, 64), *more)


BELOW = {1e16: steps(128, 448), 2e16: steps(128, 512), 5e16: steps(128, 640), 1e17: steps(128, 704)}
ABOVE = {3e17: steps(192, 896), 6e17: steps(256, 960), 1e18: steps(256, 1088)}
NESTED = {
    "found": {
        2e16: steps(128, 512), 5e16: steps(128, 640), 1e17: steps(128, 704), 3e17: steps(192, 896),
        6e17: steps(256, 768, 896, 960), 1e18: steps(256, 768, 960, 1088), 3e18: steps(384, 768, 1088, 1280, 1344),
        6e18: (448, 576, 704, 768, 1088, 1344),
    },
    "tenth from 3e15": {3e15: steps(128, 384), 6e15: steps(128, 384), **BELOW, **ABOVE},
    "tenth from 1e16": {**BELOW, **ABOVE},
    "tenth from 1e17": {
        1e17: steps(128, 704), 3e17: steps(192, 896), 6e17: (*steps(320, 704), 832, 896),
        1e18: (320, 384, 512, 576, 640, 704, 896), 3e18: steps(512, 704),
    },
}  # fmt: skip
DESIGNS = ("published", "centred", *NESTED, "paper")  # seeds of the draws go by this order


def parameters(width: np.ndarray) -> np.ndarray:
    """Of the blocks of a model of depth width / 64."""
    return 12 * width.astype(float) ** 3 / 64


@cache
def design(name: str) -> Design:
    if name == "paper":  # the shipped study
        return design_of(plan_grid(compose_study(["study=paper"])).runs)
    if name == "centred":  # six sizes a slice within 4x of the optimum, each trained by itself
        budgets = np.repeat(SIX, 6)
        return Design.of(np.exp(CENTRE.log_size(np.log(budgets))) * np.tile(np.geomspace(0.25, 4, 6), 6), None, budgets)
    cells = NESTED.get(name) or dict.fromkeys(SIX, steps(128, 960))
    budgets, width = (np.array(column) for column in zip(*((c, w) for c, row in cells.items() for w in row)))
    return Design.of(parameters(width), None, budgets, trajectory=width if name in NESTED else None)


def costs(made: Design) -> tuple[float, float]:
    """FLOPs and images over those of the published study: a training costs what its longest run does."""
    images = made.n_tokens / TOKENS
    longest = [np.flatnonzero(made.trajectory == label) for label in np.unique(made.trajectory)]
    return (
        sum(float(made.budget_flops[rows].max()) for rows in longest) / PUBLISHED,
        sum(float(images[rows].max()) for rows in longest) / IMAGES,
    )


def laws() -> list[Surface]:
    return nominal(CENTRE)


def run(file: Path, count: int, names: list[str]) -> None:
    there = {(row[0], row[1], row[2]) for row in read(file)}
    with file.open("a") as out:
        for number in range(count):
            for name in names:
                for k, law in enumerate(laws()):
                    if (name, k, number) in there:
                        continue
                    rng = np.random.default_rng([DESIGNS.index(name), k, number])
                    result = simulated(design(name), law, TARGET, TYPICAL, rng)
                    out.write(json.dumps([name, k, number, *(list(part) for part in result)]) + "\n")
                    out.flush()


def read(file: Path) -> list[list]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(file: Path) -> None:
    rows = defaultdict(list)
    for name, k, _, *result in read(file):
        rows[name, k].append(result)
    each = {}
    print("| design | FLOPs | images | studies | planned error | real | planned width | stated | held |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in rows):
        made, start = design(name), dict[int, np.ndarray]()
        expected = [studies(made, law, TARGET, TYPICAL, start) for law in laws()]
        planned = summarised(TARGET, TYPICAL, laws(), expected)
        drawn = [Studies(*(np.array(part, dtype=float).T for part in zip(*rows[name, k]))) for k in range(len(laws()))]
        real, held = summarised(TARGET, TYPICAL, laws(), drawn), np.concatenate([s.held for s in drawn], axis=1).mean(1)
        each[name] = [np.median(s.width, axis=1) for s in drawn]
        count = sum(s.error.shape[1] for s in drawn)
        for what, i in (("loss", 0), ("n_params", 1), ("exponent", 2)):
            p, r = getattr(planned, what), getattr(real, what)
            first = f"{name} | {costs(made)[0]:.3f} | {costs(made)[1]:.4f} | {count}" if not i else " | | | "
            print(f"| {first} | {what} {p.error:.4f} | {r.error:.4f} | {p.width:.4f} | {r.width:.4f} | {held[i]:.3f} |")
    print("\n| design | stated width of L*, N*, a over the published study's, law by law |\n|---|---|")
    for name, widths in each.items():
        ratios = [" ".join(f"{x:.2f}" for x in width / first) for width, first in zip(widths, each["published"])]
        print(f"| {name} | {' / '.join(ratios)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=50, help="of each design under each law")
    parser.add_argument("--designs", default=",".join(DESIGNS))
    options = parser.parse_args()
    with one_thread():
        if options.do == "run":
            run(options.file, options.studies, options.designs.split(","))
        else:
            table(options.file)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
