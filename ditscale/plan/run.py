"""One planned run: all that a compute node needs to train it, and all that defines its outcome."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path

from .. import config, flops, naming, units
from ..config import Cluster, Data, Design, Evaluation, Recipe, Rehearsal, Study, Validation
from ..errors import UserError, one_of
from .recipe import batch_of, resolved
from .schedule import stable_images

# keys of Run that change no result
NOT_IN_IDENTITY = (
    "run_id", "execution", "study", "role", "evaluation", "within", "readings", "branch_images",
)  # fmt: skip
POSITIVE = (
    "budget_flops", "achieved_flops", "depth", "width", "steps", "n_images", "n_tokens", "n_params", "n_params_matmul",
    "n_params_total", "tokens_per_image", "flops_per_image", "lr",
)  # fmt: skip
RECIPE_FIELDS_ADDED_LATER = ("width_scaling", "base_width", "caption_dropout", "ema_also")  # keys of Recipe


@dataclass(frozen=True)
class Execution:
    """How the run uses its machine, as `Cluster` says: settled when it is launched. Not part of what defines the run:
    it changes no result beyond rounding."""

    ranks: int
    threads: int
    checkpoint_s: float
    sharding: str = "auto"
    micro_batch: int = 0
    recompute: str = "none"
    attention: str = "quickest"
    compile: bool | None = None
    peak_flops_per_s: float = 0.0

    @classmethod
    def on(cls, cluster: Cluster, ranks: int) -> Execution:
        """On so many ranks of a cluster."""
        return cls(ranks, **{f.name: getattr(cluster, f.name) for f in fields(cls) if f.name != "ranks"})

    def check(self, where: str):
        one_of(self.sharding, config.SHARDINGS, f"{where}.sharding")
        one_of(self.recompute, config.RECOMPUTES, f"{where}.recompute")
        one_of(self.attention, config.ATTENTIONS, f"{where}.attention")
        units.whole(self.micro_batch, f"{where}.micro_batch", low=0)


@dataclass(frozen=True)
class Run:
    """Content of run.yaml. FLOPs are of training, forward and backward; tokens are those that pass the blocks."""

    run_id: str
    study: str
    role: str  # "grid", "probe", or "rate": of the learning-rate sweep
    budget_flops: float
    achieved_flops: float  # counted as the budget is: `flops`
    flops: str
    params: str
    depth: int
    width: int
    seed: int
    steps: int
    n_images: int
    n_tokens: int
    n_params: int  # counted as `params` says
    n_params_matmul: int
    n_params_total: int
    tokens_per_image: int
    flops_per_image: int  # exact, whatever the budget counts
    lr: float
    design: Design
    data: Data
    recipe: Recipe  # as it comes to at this size: laws of batch, warm-up and weight decay have become numbers
    validation: Validation
    execution: Execution
    layout: int = 1
    rehearsal: Rehearsal | None = None  # None: it is trained
    # what it is measured by at its end, beside the validation loss
    evaluation: dict[str, Evaluation] = field(default_factory=dict)
    within: str = ""  # run_id of the longer run whose beginning it is (plan/nest.py)
    readings: tuple[str, ...] = ()  # run_ids of the runs that are read from this one
    branch_images: int = 0  # that it trains beside its own: their cool-downs

    def check(self, where: str):
        for name in POSITIVE:
            units.number(getattr(self, name), f"{where}.{name}", above=0)

    @property
    def shape(self) -> flops.Shape:
        return flops.shape_of(self.design, self.data, self.depth, self.width)

    @property
    def stable_images(self) -> int:
        """Of n_images: before its cool-down. So many it has in common with every longer run that is else alike
        (plan/nest.py)."""
        return stable_images(self.recipe, self.n_images)

    @property
    def deviation(self) -> float:
        """Achieved FLOPs relative to the budget, minus 1."""
        return self.achieved_flops / self.budget_flops - 1

    def defines(self) -> dict:
        """What decides the outcome: the run's identity is the hash of this. Who trains it does not.

        Keys that a recipe gained after the first runs count only where they differ from their default: earlier runs
        keep their identity.
        """
        content = {k: v for k, v in config.plain(self).items() if k not in NOT_IN_IDENTITY}
        usual = {f.name: f.default for f in fields(Recipe) if f.default is not MISSING}
        content["recipe"] = {
            k: v
            for k, v in content["recipe"].items()
            if k not in RECIPE_FIELDS_ADDED_LATER or getattr(self.recipe, k) != usual[k]
        }
        return content


def make_run(study: Study, role: str, budget: float, width: int, seed: int, multiple: float = 1.0) -> Run:
    """The run of a width at a budget: depth, length and `multiple` times the rate by the recipe. Raises UserError when
    it would not fit.

    Steps are rounded to the budget, so a run misses it by at most half a step; more than 0.5 % is refused.
    """
    try:
        return _run_of(study, role, budget, width, seed, multiple)
    except OverflowError:
        raise UserError("what the recipe comes to is too large a number; see recipe.aspect, lr_*, and *_law") from None


def _run_of(study: Study, role: str, budget: float, width: int, seed: int, multiple: float) -> Run:
    recipe = study.recipe
    depth = max(1, round(width / recipe.aspect))
    shape = flops.shape_of(study.design, study.data, depth, width)
    counts = flops.n_params(shape)
    n = counts[study.params]
    exact = flops.training_flops(shape)
    per_image = exact if study.flops == "exact" else 6 * n * shape.tokens_per_image
    recipe = batch_of(recipe, n, budget / per_image * shape.tokens_per_image)
    steps = round(budget / (per_image * recipe.batch_size))
    least = max(1, recipe.min_steps)
    if steps < least:
        raise UserError(
            f"{steps} steps of {recipe.batch_size} images, fewer than the recipe's min_steps {least}; "
            f"use a budget of at least {units.compact(least * per_image * recipe.batch_size)} or a smaller width"
        )
    n_images = steps * recipe.batch_size
    n_tokens = n_images * shape.tokens_per_image
    recipe = resolved(recipe, n, n_images, n_tokens)
    rate = multiple * recipe.lr_scale * width**recipe.lr_width * n**recipe.lr_params * n_tokens**recipe.lr_tokens
    rate = float(f"{rate:.6g}")
    if not 0 < rate < math.inf:
        raise UserError(f"a learning rate of {rate:g}; see recipe.lr_scale, lr_width, lr_params and lr_tokens")
    made = Run(
        run_id="",
        study=study.name,
        role=role,
        budget_flops=budget,
        achieved_flops=float(per_image * n_images),
        flops=study.flops,
        params=study.params,
        depth=depth,
        width=width,
        seed=seed,
        steps=steps,
        n_images=n_images,
        n_tokens=n_tokens,
        n_params=n,
        n_params_matmul=counts["matmul"],
        n_params_total=counts["total"],
        tokens_per_image=shape.tokens_per_image,
        flops_per_image=exact,
        lr=rate,
        design=study.design,
        data=study.data,
        recipe=recipe,
        validation=study.validation,
        execution=Execution.on(study.cluster, 1),
        rehearsal=study.rehearsal,
        evaluation={} if study.rehearsal or role == "rate" else study.evaluation,
    )
    if abs(made.deviation) > 0.005:
        raise UserError(f"{steps} steps miss the budget by {made.deviation:+.2%}, more than 0.5 %; use a smaller batch")
    return replace(made, run_id=naming.run_id(budget, depth, width, seed, made.defines()))


def executed(run: Run, cluster: Cluster, ranks: int) -> Run:
    """The run as it is executed on a cluster, by so many ranks."""
    return replace(run, execution=Execution.on(cluster, ranks))


def read_run(path: Path | str) -> Run:
    """Read run.yaml. Raises UserError when it is missing, damaged or of another layout."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; a run directory holds run.yaml (`ditscale plan` writes it)")
    run = config.read(Run, path)
    if run.layout != 1:
        raise UserError(f"{path}: layout {run.layout} is of another version of ditscale; this one reads layout 1")
    return run
