"""An isoFLOP study, made of all the other parts of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import units
from ..errors import UserError, one_of
from .cluster import Cluster
from .data import Data
from .design import Design
from .evaluation import EXTRACTORS, FEWEST, LEAST, METRICS, Evaluation, Validation
from .recipe import Recipe
from .rehearsal import Rehearsal

COUNTS_FLOPS = ("exact", "6nd")
COUNTS_PARAMS = ("matmul", "total", "blocks")


@dataclass(frozen=True)
class Study:
    """An isoFLOP study: budgets x widths x seeds, and the budget of the probe that the forecast is tested on."""

    name: str
    budgets: tuple[float, ...]  # FLOPs of one training run
    widths: tuple  # one list for every budget, or a list of lists, one for each budget
    probe_budget: float
    design: Design
    data: Data
    recipe: Recipe
    validation: Validation
    cluster: Cluster
    seeds: tuple[int, ...] = (0,)
    flops: str = "exact"  # what a budget counts: every matrix product, or 6 N D
    params: str = "matmul"  # what N counts: weights of all matrix products, all parameters, or the blocks only
    layout: int = 1
    rehearsal: Rehearsal | None = None  # None: its runs are trained
    # learning rates to sweep, as multiples of the recipe's; the grid's own runs are the 1
    rates: tuple[float, ...] = ()
    rate_budgets: tuple[float, ...] = ()  # budgets of the grid to sweep them at; empty: the smallest alone
    # what runs of grid and probe are measured by at their end
    evaluation: dict[str, Evaluation] = field(default_factory=dict)
    nested: bool = False  # whether runs that are the beginning of a longer one are read from it (plan/nest.py)

    def check(self, where: str):
        one_of(self.flops, COUNTS_FLOPS, "study.flops")
        one_of(self.params, COUNTS_PARAMS, "study.params")
        if self.layout != 1:
            raise UserError(f"study.layout: {self.layout} is of another version of ditscale; this one reads layout 1")
        for name, value in (("budgets", self.budgets), ("widths", self.widths), ("seeds", self.seeds)):
            if not value:
                raise UserError(f"study.{name}: the list is empty; give at least one")
        for i, budget in enumerate(self.budgets):
            units.number(budget, f"study.budgets[{i}]", above=0)
        if list(self.budgets) != sorted(set(self.budgets)):
            raise UserError("study.budgets: give each budget once, from small to large")
        units.number(self.probe_budget, "study.probe_budget", above=0)
        if self.probe_budget <= self.budgets[-1]:
            raise UserError(
                f"study.probe_budget: {units.compact(self.probe_budget)} is not above the largest budget of the grid "
                f"({units.compact(self.budgets[-1])}); a forecast is tested beyond the grid"
            )
        nested = [isinstance(w, tuple) for w in self.widths]
        if any(nested) and not (all(nested) and len(nested) == len(self.budgets)):
            raise UserError(f"study.widths: give one list of widths, or {len(self.budgets)} lists, one for each budget")
        for width in {w for row in self.widths for w in (row if isinstance(row, tuple) else (row,))}:
            units.whole(width, "study.widths", low=1)
            if width % self.design.head_size:
                raise UserError(
                    f"study.widths: {width} is not a multiple of the head size {self.design.head_size}; "
                    f"use {max(1, round(width / self.design.head_size)) * self.design.head_size}"
                )
        for row in self.widths if any(nested) else [self.widths]:
            if not row or len(set(row)) < len(row):
                raise UserError(f"study.widths: {list(row)}: give each width of a budget once, and at least one")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"study.seeds: {list(self.seeds)}: give each seed once")
        for seed in self.seeds:
            units.whole(seed, "study.seeds", low=0, high=2**31 - 1)
        self._check_rates()
        self._check_evaluation()
        if self.data.source == "latents" and not self.validation.path:
            raise UserError(
                "study.validation.path: missing; give the file of held-out images that runs are measured on"
            )
        for data in (self.data, *self.validation.also.values()):
            if data.resolution % self.design.patch:
                raise UserError(
                    f"data {data.name}: resolution {data.resolution} is not a multiple of the patch {self.design.patch}"
                )
            shape = ("channels", "resolution", "text_length", "text_vocab", "text_dim")
            for name in shape:
                if getattr(data, name) != getattr(self.data, name):
                    raise UserError(
                        f"validation data {data.name}: {name} is {getattr(data, name)}, but the runs train on "
                        f"{getattr(self.data, name)}; a model is evaluated on images and captions of its own shape"
                    )

    def _check_rates(self):
        for i, rate in enumerate(self.rates):
            units.number(rate, f"study.rates[{i}]", above=0)
        if list(self.rates) != sorted(set(self.rates)):
            raise UserError("study.rates: give each multiple once, from small to large, as in [0.25,0.5,1,2,4]")
        if len({*self.rates, 1.0}) == 2:
            raise UserError(
                f"study.rates: {self.rates[0]:g} and the recipe's own are two rates; a minimum takes three or more"
            )
        for budget in self.rate_budgets:
            if budget not in self.budgets:
                known = ", ".join(map(units.compact, self.budgets))
                raise UserError(
                    f"study.rate_budgets: {units.compact(budget)} is not a budget of the grid, whose runs are the "
                    f"sweep's multiple 1; choose of: {known}"
                )
        if self.rate_budgets and not self.rates:
            raise UserError("study.rate_budgets: there are no rates to sweep; give rates, as in rates=[0.25,0.5,1,2,4]")

    def _check_evaluation(self):
        for name in self.evaluation:
            one_of(name, METRICS, "study.evaluation")
        for name, how in self.evaluation.items():
            if how.guidance != 1 and not self.recipe.caption_dropout:
                raise UserError(
                    f"study.evaluation.{name}.guidance: {how.guidance:g} needs runs that know images without a "
                    "caption; add recipe.caption_dropout=0.1"
                )
        fid = self.evaluation.get("fid")
        if fid and self.data.channels not in (1, 3) and not fid.decoder:
            raise UserError(
                f"study.evaluation.fid: {self.data.name} is latents, and FID wants pictures; name the directory of "
                "their VAE (+evaluation.fid.decoder=DIR), or leave it out (~evaluation.fid)"
            )
        if fid and self.data.channels not in (1, 3) and fid.extractor == EXTRACTORS[0]:
            raise UserError(
                f"study.evaluation.fid.extractor: the {fid.extractor} learns from pictures, and {self.data.name} is "
                "latents; choose another, as +evaluation.fid.extractor=clip-vit-l-14"
            )
        if fid and (fid.n or self.validation.n) < LEAST:
            raise UserError(
                f"study.evaluation.fid.n: {fid.n or self.validation.n} images give no FID at all; use {FEWEST} or more"
            )
        if fid and not fid.few and (fid.n or self.validation.n) < FEWEST:
            raise UserError(
                f"study.evaluation.fid.n: {fid.n or self.validation.n} images are too few for a number that means "
                f"something; use {FEWEST} or more, or add evaluation.fid.few=true"
            )

    def widths_of(self, budget: float) -> tuple[int, ...]:
        """The widths planned at a budget."""
        row = self.widths[self.budgets.index(budget)] if isinstance(self.widths[0], tuple) else self.widths
        return tuple(row)
