"""Precision asked of a study: what its plan will tell, the cheapest plan of a wanted precision, and its next runs."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from .. import units
from ..config import Study
from ..errors import UserError
from ..laws.predictor.member import one_thread
from ..laws.predictor.noise import Noise
from ..plan.grid import plan_grid
from ..plan.run import Run, make_run
from ..result import Result
from .design import LEAST_RUNS, Design
from .planned import TYPICAL, Planned, planned_interval
from .search import CENTRED, HALF, SLICE, Candidates, Search, fields_of
from .simulate import simulate
from .surfaces import Surface, nominal

SPAN = math.log(14)  # a candidate is within this of the optimum in ln N
SMALLER = (30, 10, 3)  # a study's smallest budget may be this many times smaller
ROUNDS = 4  # at most, of the search for the cheapest design, each with the errors' sizes of the one before
FOUR = (0, 3, 5, 6)  # of the eight laws: those that the search itself looks at, off in all ways alike
AIM, CLOSE = 0.98, 0.93  # of the goal: what a round aims at, and what ends the rounds
SPARE = 6  # runs that are named as what could be left out
LEAST_BUDGETS = 3
# Of studies without a prior: the floor's share of L* in the middle of the budgets, and how fast the rest falls, as in
# arXiv 2410.08184 with L* = .63 at 1.5e21 FLOPs.
FLOOR, FALL = 0.76, 0.175


@dataclass(frozen=True)
class Goal:
    """Half-widths wanted of the 95 % intervals: of ln L*, and of ln N*, inf where none is."""

    loss: float
    n_params: float = math.inf

    @classmethod
    def of(cls, text: str, what: str = "--target-interval") -> "Goal":
        """From "2%" or "2%,1.3x": L* within 2 %, N* within a factor of 1.3. Raises UserError."""
        loss, _, place = text.replace(" ", "").partition(",")
        if not loss.endswith("%") or place and not place.endswith("x"):
            how = "write how well L* is to be known as in 2%, and if wanted N* too, as in 2%,1.3x"
            raise UserError(f"{what}: {text!r} is no interval; {how}")
        percent = units.number(loss[:-1], what, above=0, high=50)
        factor = units.number(place[:-1], what, above=1, high=100) if place else math.inf
        return cls(math.log1p(percent / 100), math.log(factor))

    def to_array(self) -> np.ndarray:
        return np.array([self.loss, self.n_params, math.inf])

    def __str__(self) -> str:
        place = f" and N* within {math.exp(self.n_params):.3g}x" if math.isfinite(self.n_params) else ""
        return f"L* within {100 * math.expm1(self.loss):.3g} %{place}"


def design_of(runs: Sequence[Run]) -> Design:
    """The runs that the predictor is fitted to: of slices, and levers."""
    chosen = [run for run in runs if run.role in ("grid", "lever")]
    columns = {
        name: [getattr(run, name) for run in chosen] for name in ("n_params", "n_tokens", "budget_flops", "seed")
    }
    return Design.of(
        columns["n_params"], columns["n_tokens"], columns["budget_flops"], [run.within or run.run_id for run in chosen],
        columns["seed"], [run.role == "lever" for run in chosen],
    )  # fmt: skip


def law_of(study: Study, design: Design) -> Surface:
    """The law that is believed before the study: its prior's or, without one, one whose optimum lies in the middle of
    each budget's sizes. Raises UserError where the prior's optimum lies far from the sizes."""
    if prior := study.prior:
        law = Surface.of(prior, design.middle, design.kappa)
        _check_prior(law, design)
        return law
    at, place, slope = design.middle_line()
    slope = float(np.clip(slope, 0.3, 0.7))
    return Surface(design.middle, FLOOR, math.log(1 - FLOOR), place + slope * (design.middle - at), slope, FALL)


def _check_prior(law: Surface, design: Design) -> None:
    off = np.log(design.n_params) - law.log_size(np.log(design.budget_flops))
    budgets = np.unique(design.budget_flops)
    apart = np.array([np.abs(off[design.budget_flops == c]).min() for c in budgets])
    if np.mean(apart > CENTRED) > 0.5:
        worst = float(budgets[int(np.argmax(apart))])
        text = f"its N* at {units.compact(worst)} FLOPs, {units.count(math.exp(float(law.log_size(math.log(worst)))))}"
        far = f"{text}, is {math.exp(apart.max()):.2g}x from the nearest size"
        raise UserError(f"study.prior: {far}; use a prior that counts N and D as the study does, or other sizes")


def noise_of(study: Study) -> Noise:
    """What runs of the study's recipe are thought to scatter."""
    return TYPICAL.scaled(study.prior.noise / TYPICAL.run) if study.prior else TYPICAL


def believed_law(study: Study, runs: Sequence[Run]) -> Surface | None:
    """As `law_of`; None where the runs are too few for a law."""
    design = design_of(runs)
    enough = len(design) >= LEAST_RUNS and len(set(design.budget_flops.tolist())) >= LEAST_BUDGETS
    return law_of(study, design) if enough else None


def planned_of(study: Study, runs: Sequence[Run], simulated: int = 0) -> Planned | None:
    """What the planned runs will tell at the probe's budget, by information or from as many simulated studies; None
    where they are too few for a law. Raises UserError as `law_of` and `planned_interval`."""
    if (law := believed_law(study, runs)) is None:
        return None
    design, noise = design_of(runs), noise_of(study)
    if simulated:
        return simulate(design, law, study.probe_budget, simulated, noise)
    return planned_interval(design, law, study.probe_budget, noise)


@dataclass(frozen=True)
class Without(Result):
    """What leaving out some runs saves, as a share of the cost, and by how much it widens the interval of L*."""

    run_ids: tuple[str, ...]
    cheaper: float
    wider: float


@dataclass(frozen=True)
class Cheapest(Result):
    """The cheapest design found that tells what is wanted. settings: to paste behind `ditscale plan DIR`; flops: of all
    its trainings; share: of those of the study as it was given."""

    goal: str
    settings: tuple[str, ...]
    runs: int
    trainings: int
    flops: float
    share: float
    images: float
    planned: Planned
    without: Without | None

    def summary(self) -> str:
        cost = f"{units.compact(self.flops)} FLOPs ({self.share:.0%} of this study's)"
        head = f"cheapest design found for {self.goal}: {self.runs} runs, {self.trainings} trainings, {cost}, "
        lines = [f"{head}{units.count(self.images)} images", self.planned.summary()]
        lines.append("  settings: " + " ".join(f"'{text}'" for text in self.settings))
        if self.without:
            names, w = ", ".join(self.without.run_ids), self.without
            count = len(w.run_ids)
            lines.append(
                f"  without these {count} runs: {w.cheaper:.0%} cheaper, interval {w.wider:.0%} wider: {names}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Cells:
    """Candidates, and the run that each stands for. A run costs what `cost` says, and more passes than one over the
    unique images cost as many times that."""

    candidates: Candidates
    runs: tuple[Run, ...]

    @classmethod
    def of(
        cls, runs: Sequence[Run], law: Surface, nested: bool, cost: Callable[[Run], float], unique: float = math.inf
    ) -> "Cells":
        labels = [f"{run.width}-{run.seed}" if nested else run.run_id for run in runs]
        design = Design.of(
            [run.n_params for run in runs], [run.n_tokens for run in runs], [run.budget_flops for run in runs], labels,
            [run.seed for run in runs],
        )  # fmt: skip
        each = np.array([cost(run) * max(1.0, run.n_images / unique) for run in runs])
        off = np.log(design.n_params) - law.log_size(np.log(design.budget_flops))
        return cls(Candidates(design, each, off, nested), tuple(runs))


def flops_of(run: Run) -> float:
    """FLOPs of one training."""
    return float(run.flops_per_image * run.n_images)


def possible_runs(
    study: Study, law: Surface, budgets: Iterable[float], seeds: Iterable[int], cost: Callable[[Run], float]
) -> list[Run]:
    """Every run of the recipe whose size is near the law's optimum at its budget, and that has a cost."""
    out, head = list[Run](), study.design.head_size
    for budget in budgets:
        best, found = float(law.log_size(math.log(budget))), False
        for width in range(head, 1024 * head, head):
            with suppress(UserError):
                run = make_run(study, "grid", budget, width, study.seeds[0])
                cost(run)
                off = math.log(run.n_params) - best
                if off > SPAN:
                    break
                found = True
                if off > -SPAN:
                    out += [run, *(make_run(study, "grid", budget, width, seed) for seed in seeds if seed != run.seed)]
                continue
            if found:  # Larger sizes have too few steps.
                break
    return out


@one_thread()
def cheapest(study: Study, goal: Goal, unique: float = math.inf, cost: Callable[[Run], float] = flops_of) -> Cheapest:
    """The cheapest design of the study's recipe whose intervals at the probe's budget are planned to be as narrow as
    `goal`. unique: images that there are; cost: of one training. Raises UserError where none is."""
    given = plan_grid(study)
    law, noise = law_of(study, design_of(given.runs)), noise_of(study)
    smaller = [float(f"{study.budgets[0] / factor:.0e}") for factor in SMALLER]
    runs = possible_runs(study, law, (*smaller, *study.budgets), study.seeds, cost)
    cells = Cells.of(runs, law, study.nested, cost, unique)
    candidates, target, wanted = cells.candidates, study.probe_budget, goal.to_array()
    laws, start = nominal(law), dict[int, np.ndarray]()

    def planned_of(chosen: np.ndarray) -> tuple[Planned, np.ndarray]:
        planned = planned_interval(candidates.design.take(chosen), law, target, noise, start)
        return planned, np.array([planned.loss.width, planned.n_params.width, planned.exponent.width]) / 2

    chosen, halves, best = candidates.centred, np.full(3, HALF), None
    for _ in range(ROUNDS):
        fields = fields_of(candidates.design, chosen, [laws[i] for i in FOUR], target, noise, start)
        search = Search(candidates, fields, 2 * np.log(AIM * wanted / halves))
        chosen = search.quick()
        planned, widths = planned_of(chosen)
        if (widths <= wanted).all() and (best is None or candidates.total(chosen) < candidates.total(best[0])):
            best = chosen, planned
        if CLOSE < (widths / wanted).max() <= 1:
            break
        halves = np.sqrt(halves * widths / search.spread(chosen))  # Undamped it would swing about the goal.
    if best is None:
        every = f"{int(chosen.sum())} of {len(candidates)} candidates are planned to know "
        every += str(Goal(planned.loss.width / 2, planned.n_params.width / 2))
        more = "ask for less, or add seeds or a larger budget"
        raise UserError(f"--target-interval: no design of these budgets knows {goal}: {every}; {more}")
    swapped = search.swapped(best[0], math.inf)
    planned, widths = planned_of(swapped)
    if (widths <= wanted).all() and candidates.total(swapped) < candidates.total(best[0]):
        best = swapped, planned
    return _described(study, cells, search, best, goal, given.flops)


def _described(
    study: Study, cells: Cells, search: Search, best: tuple[np.ndarray, Planned], goal: Goal, flops: float
) -> Cheapest:
    chosen, planned = best
    settings, made = _settings(study, cells, chosen)
    grid = plan_grid(made)
    hosts = [run for run in grid.runs if not run.within]
    images = float(sum(run.n_images + run.branch_images for run in hosts))
    return Cheapest(
        str(goal), settings, len(grid.runs), len(hosts), grid.flops, grid.flops / flops, images, planned,
        _without(cells, search, chosen),
    )  # fmt: skip


def _settings(study: Study, cells: Cells, chosen: np.ndarray) -> tuple[tuple[str, ...], Study]:
    """The chosen runs as settings to paste, and as a study."""
    rows: dict[float, tuple[list[int], list[int]]] = {}
    off = np.abs(cells.candidates.off)
    for label in np.unique(cells.candidates.budgets[chosen]):
        own = np.flatnonzero(chosen & (cells.candidates.budgets == label))
        limit = max(CENTRED, float(np.sort(off[own])[:SLICE][-1]))
        pair: tuple[list[int], list[int]] = [], []
        for i in own:
            pair[int(off[i] > limit)].append(cells.runs[i].width)
        rows[cells.runs[own[0]].budget_flops] = sorted(set(pair[0])), sorted(set(pair[1]))
    widths, levers = ([row[k] for row in rows.values()] for k in (0, 1))
    texts = ["budgets=[" + ",".join(map(units.compact, rows)) + "]", f"widths={widths}", f"levers={levers}"]
    made = replace(
        study, budgets=tuple(rows), widths=tuple(map(tuple, widths)),
        levers=tuple(map(tuple, levers)) if any(levers) else (), around=None,
    )  # fmt: skip
    return tuple(text.replace(" ", "") for text in (texts if any(levers) else texts[:2])), made


def _without(cells: Cells, search: Search, chosen: np.ndarray) -> Without | None:
    """The few runs that cost most for what they tell of L*."""
    fewer, before = chosen.copy(), search.spread(chosen)[0]
    for _ in range(SPARE):
        rows, saved = np.flatnonzero(fewer), search.candidates.saved(fewer)
        wider = np.log(search.left_out(fewer)).mean(0)[:, 0] / 2 - math.log(search.spread(fewer)[0])
        worth = np.where((saved > 0) & search.spare(fewer)[rows], saved / (wider + 1e-3), -1.0)
        if worth.max() <= 0:
            break
        fewer[rows[int(np.argmax(worth))]] = False
    if (fewer == chosen).all():
        return None
    left = tuple(cells.runs[i].run_id for i in np.flatnonzero(chosen & ~fewer))
    cheaper = 1 - search.candidates.total(fewer) / search.candidates.total(chosen)
    return Without(left, cheaper, float(search.spread(fewer)[0] / before - 1))
