"""Planned precision against studies that are drawn and fitted, design by design.

    python tools/bench/planning.py run --file FILE --studies 400 [--designs published,paper]
    python tools/bench/planning.py table --file FILE

`run` draws studies of each design, each under a law of its own around one prior and with the noise of a typical recipe,
fits the predictor, asks at 1.5e21 FLOPs, and appends to FILE. A study that FILE has is not drawn again, so `run` may be
stopped and run again with more. `table` sets beside them what is planned without a loss, and compares the designs'
intervals with those of the published study (docs/measured/planning.md).
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
from ditscale.precision.planned import TYPICAL, Planned, planned_interval
from ditscale.precision.simulate import simulated
from ditscale.precision.studies import design_of
from ditscale.precision.surfaces import Surface, draws

TARGET = 1.5e21
PUBLISHED, IMAGES = 1.54e20, 2.23e10  # FLOPs (6 N D) and images of the published study
TOKENS = 334  # of an image and its caption
SEED, LAWS, MOST = 7, 1, 1000  # of the noise; of the laws; laws that are drawn
# L* = .63 with N* = 958M at the target (arXiv 2410.08184), a floor of .585, exponents .54 and .175.
CENTRE = Surface(math.log(TARGET), 0.585, math.log(0.045), math.log(958e6), 0.54, 0.175)
SIX = (1e17, 3e17, 6e17, 1e18, 3e18, 6e18)


def steps(first: int, last: int, *more: int) -> tuple[int, ...]:
    """Widths in steps of 64."""
    return (*range(first, last + 1, 64), *more)


BELOW = {1e16: steps(128, 448), 2e16: steps(128, 512), 5e16: steps(128, 640), 1e17: steps(128, 704)}
ABOVE = {3e17: steps(192, 896), 6e17: steps(256, 960), 1e18: steps(256, 1088)}
NESTED = {
    # The better `paper` of a prototype.
    "nested": {
        2e16: steps(128, 320), 5e16: steps(128, 448), 1e17: steps(192, 576),
        3e17: steps(256, 576, 192, 640, 704, 768, 896),
        6e17: steps(256, 768, 896), 1e18: steps(256, 768, 896, 1280), 3e18: steps(384, 768, 896, 1280, 1472),
        6e18: steps(448, 768, 896, 1472),
    },
    "tenth from 3e15": {3e15: steps(128, 384), 6e15: steps(128, 384), **BELOW, **ABOVE},
    "tenth from 1e16": {**BELOW, **ABOVE},
    "tenth from 1e17": {
        1e17: steps(128, 704), 3e17: steps(192, 896), 6e17: (*steps(320, 704), 832, 896),
        1e18: (320, 384, 512, 576, 640, 704, 896), 3e18: steps(512, 704),
    },
}  # fmt: skip
DESIGNS = ("published", "nested", "centred", "below 1e18", "paper", *list(NESTED)[1:])


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
    if name == "below 1e18":  # one ladder of sizes, nested
        ladder = CENTRE.log_size(math.log(1e17)) + 0.35 * np.arange(-9, 12)
        pairs = [(c, z) for c in (3e15, 1e16, 3e16, 1e17, 6e17) for z in ladder]
        near = [(c, z) for c, z in pairs if abs(z - CENTRE.log_size(math.log(c))) < 1.3]
        budgets, size = map(np.array, zip(*near))
        return Design.of(np.exp(size), None, budgets, trajectory=np.round(np.exp(size)))
    cells = NESTED.get(name) or dict.fromkeys(SIX, steps(128, 960))
    budgets, width = (np.array(column) for column in zip(*((c, w) for c, row in cells.items() for w in row)))
    return Design.of(parameters(width), None, budgets, trajectory=width if name in NESTED else None)


def costs(made: Design) -> tuple[float, float]:
    """FLOPs and images over those of the published study: a training costs what its longest run does."""
    images, flops = made.n_tokens / TOKENS, 6 * made.n_params * made.n_tokens
    longest = [np.flatnonzero(made.trajectory == label) for label in np.unique(made.trajectory)]
    return sum(flops[r].max() for r in longest) / PUBLISHED, sum(images[r].max() for r in longest) / IMAGES


@cache
def centre(name: str) -> Surface:
    """The prior as the planner takes it for a design: what is drawn of its law is so in the middle of the budgets."""
    at = design(name).middle
    above = CENTRE.above - CENTRE.fall * (at - CENTRE.at)
    return Surface(at, CENTRE.floor, above, float(CENTRE.log_size(at)), CENTRE.slope, CENTRE.fall)


def run(file: Path, count: int, names: list[str]) -> None:
    there = {(row[0], row[1]) for row in read(file)}
    with file.open("a") as out:
        for number in range(count):
            for name in names:
                if (name, number) not in there:
                    law, rng = draws(centre(name), MOST, LAWS)[number], np.random.default_rng([SEED, number])
                    result = simulated(design(name), law, TARGET, TYPICAL, rng)
                    out.write(json.dumps([name, number, *(list(part) for part in result)]) + "\n")
                    out.flush()


def read(file: Path) -> list[list]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(file: Path) -> None:
    rows, drawn, planned = defaultdict(list), {}, dict[str, Planned]()
    for name, _, *result in read(file):
        rows[name].append(result)
    print("| design | FLOPs | images | studies | | planned error | real | planned width | stated | held |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in (name for name in DESIGNS if name in rows):
        planned[name] = planned_interval(design(name), centre(name), TARGET)
        error, width, held = (np.array([row[i] for row in rows[name]], dtype=float) for i in range(3))
        drawn[name], (flops, images) = np.median(width, 0), costs(design(name))
        first = f"{name} | {flops:.3f} | {images:.4f} | {len(error)}"
        for i, (what, key) in enumerate((("L*", "loss"), ("N*", "n_params"), ("exponent", "exponent"))):
            p, real = getattr(planned[name], key), math.sqrt(float(np.mean(error[:, i] ** 2)))
            numbers = f"{p.error:.4f} | {real:.4f} ({p.error / real - 1:+.0%}) | {p.width:.4f} | {drawn[name][i]:.4f}"
            print(f"| {'  | | | ' if i else first} | {what} | {numbers} | {held[:, i].mean():.3f} |")
    print("\n| design | stated widths over the published study's: L*, N*, exponent | as planned |\n|---|---|---|")
    base = planned["published"]
    for name, widths in drawn.items():
        keys = ("loss", "n_params", "exponent")
        expected = [getattr(planned[name], key).width / getattr(base, key).width for key in keys]
        both = (" ".join(f"{x:.2f}" for x in ratios) for ratios in (widths / drawn["published"], expected))
        print(f"| {name} | {' | '.join(both)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=400, help="of each design")
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
