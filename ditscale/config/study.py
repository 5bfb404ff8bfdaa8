"""An isoFLOP study, made of all the other parts of a configuration, or a rehearsal of one."""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

from ..units import compact, number
from .budget import Budget
from .cluster import Cluster
from .data import Data
from .design import Design, width_problem
from .evaluation import METRICS, Evaluation, Validation
from .mapping import NonNegativeInt, PositiveFloat, PositiveInt, Problems, Seed
from .prior import Around, Noise, Prior, Surface
from .recipe import Recipe

# Widths for every budget: one list for all, or one list per budget.
Widths = tuple[PositiveInt | tuple[PositiveInt, ...], ...]


@dataclass(frozen=True)
class Rehearsal(Surface):
    """The mark of a rehearsed study and of each of its runs: losses come from its surface."""

    noise: Noise = 0.002  # Standard deviation of the log-normal scatter of a run's final loss.
    seconds: Annotated[float, partial(number, low=0, high=86400)] = 1.0  # Seconds that the steps of a run take.
    seed: NonNegativeInt = 0

    def __str__(self) -> str:
        surface = f"{self.E:.6g} + {self.A:.6g} N^-{self.alpha:g} + {self.B:.6g} D^-{self.beta:g}"
        return f"losses drawn from L(N, D) = {surface} with {self.noise:.2%} noise; nothing was trained"


@dataclass(frozen=True, kw_only=True)
class Study:
    """An isoFLOP study: budgets x widths x seeds, and the budget of the probe that the forecast is tested on."""

    name: str
    budgets: tuple[PositiveFloat, ...]  # FLOPs of one training run.
    # The sizes of each slice. Empty: `around` says them, and planning puts them here (plan/sizes.py).
    widths: Widths = ()
    # Further sizes, whose runs (role "lever") are in the surface and the answer but in no parabola. A width that is in
    # the slice too is a run of the slice.
    levers: Widths = ()
    around: Around | None = None  # Sizes relative to the prior's optimum. Widths that are given replace it.
    prior: Prior | None = None  # The law that is believed before the study.
    probe_budget: PositiveFloat
    design: Design
    data: Data
    recipe: Recipe
    validation: Validation
    cluster: Cluster
    seeds: tuple[Seed, ...] = (0,)
    flops: Literal["exact", "6nd"] = "exact"  # What a budget counts: every matrix product, or 6 N D.
    # What N counts: weights of all matrix products, all parameters, or the weights of the blocks only.
    params: Literal["matmul", "total", "blocks"] = "matmul"
    layout: int = 1
    rehearsal: Rehearsal | None = None  # None: its runs are trained.
    # Learning rates to sweep, as multiples of the recipe's; the grid's own runs are multiple 1.
    rates: tuple[PositiveFloat, ...] = ()
    rate_budgets: tuple[float, ...] = ()  # Budgets of the grid to sweep them at. Empty: the smallest only.
    evaluation: dict[str, Evaluation] = field(default_factory=dict)  # Measured at the end of runs of grid and probe.
    budget: Budget | None = None  # What it may cost. None: no limit, and no rates.
    nested: bool = False  # Whether a run that is the beginning of a longer one is trained as part of it (plan/nest.py).
    notes: tuple[str, ...] = ()  # What `plan` says of the study besides its runs: what it lacks of a published design.

    def problems(self) -> Problems:
        if self.layout != 1:
            yield "layout", f"{self.layout} is of another version of ditscale; this one reads layout 1"
        for name in ("budgets", "seeds"):
            if not getattr(self, name):
                yield name, "the list is empty; give at least one"
        if list(self.budgets) != sorted(set(self.budgets)):
            yield "budgets", "give each budget once, from small to large"
        if self.probe_budget <= self.budgets[-1]:
            below = f"{compact(self.probe_budget)} is not above the largest budget of the grid"
            yield "probe_budget", f"{below} ({compact(self.budgets[-1])}); a forecast is tested beyond the grid"
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds", f"{list(self.seeds)}: give each seed once"
        yield from self._problems_of_widths()
        yield from self._problems_of_rates()
        if self.data.source == "latents" and not self.validation.path:
            yield "validation.path", "missing; give the file of held-out images that runs are measured on"
        if self.data.resolution % self.design.patch:
            yield "data.resolution", f"{self.data.resolution} is not a multiple of the patch {self.design.patch}"
        for data in self.validation.also.values():
            data.check_shape(self.data)
        for name, how in self.evaluation.items():
            if name not in METRICS:
                yield "evaluation", f"{name!r} is not known; choose one of: {', '.join(METRICS)}"
            how.check_guidance(self.recipe.caption_dropout, f"evaluation.{name}")
        if fid := self.evaluation.get("fid"):
            pixels = self.data.channels in (1, 3)
            fid.check_fid(self.data.name, pixels, fid.n or self.validation.n, "evaluation.fid")

    def _problems_of_widths(self) -> Problems:
        if not self.widths and not self.around:
            yield "widths", "the list is empty; give at least one, or a prior and around={span: 4, sizes: 6}"
        if self.around and not self.widths and not self.prior:
            yield "around", "is about the optimum of a prior; add one, as in prior=liang-incontext"
        for name in ("widths", "levers"):
            lists = getattr(self, name)
            rows = [row for row in lists if isinstance(row, tuple)]
            if rows and not len(rows) == len(lists) == len(self.budgets):
                yield name, f"give one list of widths, or {len(self.budgets)} lists, one for each budget"
            for row in rows or [lists]:
                if len(set(row)) < len(row) or not row and rows and name == "widths":
                    yield name, f"{list(row)}: give each width of a budget once, and at least one"
                for problem in filter(None, (width_problem(width, self.design.head_size) for width in row)):
                    yield name, problem

    def _problems_of_rates(self) -> Problems:
        if list(self.rates) != sorted(set(self.rates)):
            yield "rates", "give each multiple once, from small to large, as in [0.25,0.5,1,2,4]"
        if len({*self.rates, 1.0}) == 2:
            yield "rates", f"{self.rates[0]:g} and the recipe's own are two rates; a minimum takes three or more"
        for budget in {*self.rate_budgets} - {*self.budgets}:
            known = f"choose from: {', '.join(map(compact, self.budgets))}"
            what = "is not a budget of the grid, whose runs are the sweep's multiple 1"
            yield "rate_budgets", f"{compact(budget)} {what}; {known}"
        if self.rate_budgets and not self.rates:
            yield "rate_budgets", "there are no rates to sweep; add rates=[0.25,0.5,1,2,4]"

    def widths_of(self, budget: float) -> tuple[int, ...]:
        """The widths of a budget's slice."""
        return self._of_budget(self.widths, budget)

    def levers_of(self, budget: float) -> tuple[int, ...]:
        """The widths of a budget's levers, without those of its slice."""
        levers = self._of_budget(self.levers, budget)
        return tuple(width for width in levers if width not in self.widths_of(budget))

    def _of_budget(self, lists: Widths, budget: float) -> tuple[int, ...]:
        rows = [row for row in lists if isinstance(row, tuple)]
        return rows[self.budgets.index(budget)] if rows else tuple(width for width in lists if isinstance(width, int))
