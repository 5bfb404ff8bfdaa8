"""An isoFLOP study, made of all the other parts of a configuration, or a rehearsal of one."""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from .. import units
from ..errors import UserError, one_of
from ..units import number
from .cluster import Cluster
from .data import Data
from .design import Design, check_width
from .evaluation import METRICS, Evaluation, Validation
from .mapping import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed
from .recipe import Recipe


@dataclass(frozen=True)
class Rehearsal:
    """The mark of a rehearsed study and of each of its runs: losses come from L(N, D) = E + A N^-alpha + B D^-beta."""

    E: NonNegativeFloat
    A: PositiveFloat
    B: PositiveFloat
    alpha: PositiveFloat
    beta: PositiveFloat
    # Standard deviation of the log-normal scatter of a run's final loss.
    noise: Annotated[float, partial(number, low=0, high=0.1)] = 0.002
    seconds: Annotated[float, partial(number, low=0, high=86400)] = 1.0  # Seconds that the steps of a run take.
    seed: NonNegativeInt = 0

    def loss_at(self, n_params: Any, n_tokens: Any) -> Any:
        """L(N, D), of numbers or broadcast over arrays."""
        return self.E + self.A * n_params**-self.alpha + self.B * n_tokens**-self.beta

    def __str__(self) -> str:
        return (
            f"losses drawn from L(N, D) = {self.E:.6g} + {self.A:.6g} N^-{self.alpha:g} + {self.B:.6g} "
            f"D^-{self.beta:g} with {self.noise:.2%} noise; nothing was trained"
        )


@dataclass(frozen=True)
class Study:
    """An isoFLOP study: budgets x widths x seeds, and the budget of the probe that the forecast is tested on."""

    name: str
    budgets: tuple[PositiveFloat, ...]  # FLOPs of one training run.
    widths: tuple[PositiveInt | tuple[PositiveInt, ...], ...]  # One list for every budget, or one list per budget.
    probe_budget: PositiveFloat
    design: Design
    data: Data
    recipe: Recipe
    validation: Validation
    cluster: Cluster
    seeds: tuple[Seed, ...] = (0,)
    # What a budget counts: every matrix product, or 6 N D.
    flops: Annotated[str, partial(one_of, valid=("exact", "6nd"))] = "exact"
    # What N counts: weights of all matrix products, all parameters, or the weights of the blocks only.
    params: Annotated[str, partial(one_of, valid=("matmul", "total", "blocks"))] = "matmul"
    layout: int = 1
    rehearsal: Rehearsal | None = None  # None: its runs are trained.
    # Learning rates to sweep, as multiples of the recipe's; the grid's own runs are multiple 1.
    rates: tuple[PositiveFloat, ...] = ()
    rate_budgets: tuple[float, ...] = ()  # Budgets of the grid to sweep them at. Empty: the smallest only.
    # What runs of grid and probe are measured by at their end.
    evaluation: dict[str, Evaluation] = field(default_factory=dict)
    nested: bool = False  # Whether a run that is the beginning of a longer one is trained as part of it (plan/nest.py).

    def check(self, where: str):
        if self.layout != 1:
            raise UserError(f"{where}.layout: {self.layout} is of another version of ditscale; this one reads layout 1")
        for name in ("budgets", "widths", "seeds"):
            if not getattr(self, name):
                raise UserError(f"{where}.{name}: the list is empty; give at least one")
        if list(self.budgets) != sorted(set(self.budgets)):
            raise UserError(f"{where}.budgets: give each budget once, from small to large")
        if self.probe_budget <= self.budgets[-1]:
            raise UserError(
                f"{where}.probe_budget: {units.compact(self.probe_budget)} is not above the largest budget of the grid "
                f"({units.compact(self.budgets[-1])}); a forecast is tested beyond the grid"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"{where}.seeds: {list(self.seeds)}: give each seed once")
        self._check_widths(where)
        self._check_rates(where)
        if self.data.source == "latents" and not self.validation.path:
            raise UserError(
                f"{where}.validation.path: missing; give the file of held-out images that runs are measured on"
            )
        if self.data.resolution % self.design.patch:
            raise UserError(
                f"{where}.data.resolution: {self.data.resolution} is not a multiple of the patch {self.design.patch}"
            )
        for data in self.validation.also.values():
            data.check_shape(self.data)
        for name, how in self.evaluation.items():
            one_of(name, METRICS, f"{where}.evaluation")
            how.check_guidance(self.recipe.caption_dropout, f"evaluation.{name}")
        if fid := self.evaluation.get("fid"):
            pixels = self.data.channels in (1, 3)
            fid.check_fid(self.data.name, pixels, fid.n or self.validation.n, "evaluation.fid")

    def _check_widths(self, where: str):
        rows = [row for row in self.widths if isinstance(row, tuple)]
        if rows and not len(rows) == len(self.widths) == len(self.budgets):
            raise UserError(
                f"{where}.widths: give one list of widths, or {len(self.budgets)} lists, one for each budget"
            )
        for budget in self.budgets:
            row = self.widths_of(budget)
            if not row or len(set(row)) < len(row):
                raise UserError(f"{where}.widths: {list(row)}: give each width of a budget once, and at least one")
            for width in row:
                check_width(width, self.design.head_size, f"{where}.widths:")

    def _check_rates(self, where: str):
        if list(self.rates) != sorted(set(self.rates)):
            raise UserError(f"{where}.rates: give each multiple once, from small to large, as in [0.25,0.5,1,2,4]")
        if len({*self.rates, 1.0}) == 2:
            raise UserError(
                f"{where}.rates: {self.rates[0]:g} and the recipe's own are two rates; a minimum takes three or more"
            )
        for budget in self.rate_budgets:
            if budget not in self.budgets:
                raise UserError(
                    f"{where}.rate_budgets: {units.compact(budget)} is not a budget of the grid, whose runs are the "
                    f"sweep's multiple 1; choose from: {', '.join(map(units.compact, self.budgets))}"
                )
        if self.rate_budgets and not self.rates:
            raise UserError(f"{where}.rate_budgets: there are no rates to sweep; add rates=[0.25,0.5,1,2,4]")

    def widths_of(self, budget: float) -> tuple[int, ...]:
        """The widths planned at a budget."""
        rows = [row for row in self.widths if isinstance(row, tuple)]
        return rows[self.budgets.index(budget)] if rows else tuple(w for w in self.widths if isinstance(w, int))
