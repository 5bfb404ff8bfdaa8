"""One planned run: all that a compute node needs to train it, and all that defines its outcome."""

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Self

from .. import config, naming, units
from ..config import Cluster, Data, Design, Evaluation, Recipe, Rehearsal, Study, Validation
from ..config.mapping import NonNegativeInt, PositiveFloat, PositiveInt
from ..errors import UserError
from ..flops import Shape, n_params, shape_of, training_flops
from .schedule import stable_images

# Fields of Run that change no result.
NOT_IN_IDENTITY = ("run_id", "execution", "study", "role", "evaluation", "within", "readings", "branch_images")
RECIPE_FIELDS_ADDED_LATER = ("width_scaling", "base_width", "caption_dropout", "ema_also")


@dataclass(frozen=True)
class Execution:
    """How the run uses its machine, as `Cluster` says: settled at launch, and no part of the run's identity."""

    ranks: int
    threads: int
    checkpoint_s: float
    sharding: config.Sharding = "auto"
    micro_batch: NonNegativeInt = 0
    recompute: config.Recompute = "none"
    attention: config.Attention = "quickest"
    compile: bool | None = None
    peak_flops_per_s: float = 0.0

    @classmethod
    def on(cls, cluster: Cluster, ranks: int) -> Self:
        return cls(ranks, **{f.name: getattr(cluster, f.name) for f in fields(cls) if f.name != "ranks"})


@dataclass(frozen=True)
class Run:
    """Content of run.yaml. FLOPs are of training, forward and backward; tokens are those that pass the blocks."""

    run_id: str
    study: str
    role: str  # "grid", "lever" (in the surface, in no parabola), "probe", or "rate": of the learning-rate sweep.
    budget_flops: PositiveFloat
    achieved_flops: PositiveFloat  # Counted as the budget is: `flops`.
    flops: str
    params: str
    depth: PositiveInt
    width: PositiveInt
    seed: int
    steps: PositiveInt
    n_images: PositiveInt
    n_tokens: PositiveInt
    n_params: PositiveInt  # Counted as `params` says.
    n_params_matmul: PositiveInt
    n_params_total: PositiveInt
    tokens_per_image: PositiveInt
    flops_per_image: PositiveInt  # Exact, whatever the budget counts.
    lr: PositiveFloat
    design: Design
    data: Data
    recipe: Recipe  # With numbers for this size in place of the laws of batch, warm-up and weight decay.
    validation: Validation
    execution: Execution
    layout: int = 1
    rehearsal: Rehearsal | None = None  # None: it is trained.
    evaluation: dict[str, Evaluation] = field(default_factory=dict)  # At its end, besides the validation loss.
    within: str = ""  # run_id of its parent run, where it is nested (plan/nest.py).
    readings: tuple[str, ...] = ()  # run_ids of its nested runs.
    branch_images: int = 0  # Images that it trains besides its own: the cool-downs of its nested runs.

    @property
    def shape(self) -> Shape:
        return shape_of(self.design, self.data, self.depth, self.width)

    @property
    def stage(self) -> str:
        """The part of the study that it is launched with: levers are launched with the grid."""
        return "grid" if self.role == "lever" else self.role

    @property
    def stable_images(self) -> int:
        """Images before its cool-down. Every longer run that is otherwise alike begins with these (plan/nest.py)."""
        return stable_images(self.recipe, self.n_images)

    @property
    def deviation(self) -> float:
        """Achieved FLOPs relative to the budget, minus 1."""
        return self.achieved_flops / self.budget_flops - 1

    @property
    def evaluation_flops(self) -> float:
        """FLOPs of its evaluation on all data sets. A forward pass is a third of a training step's FLOPs."""
        images = sum((how.n or self.validation.n) * how.passes(metric) for metric, how in self.evaluation.items())
        return (1 + len(self.validation.also)) * images * self.flops_per_image / 3

    def defines(self) -> dict:
        """What decides the outcome: the run's identity is the hash of this. Fields that recipes gained after the first
        runs count only where they differ from their default, so that earlier runs keep their identity."""
        content = {k: v for k, v in config.plain(self).items() if k not in NOT_IN_IDENTITY}
        for key in RECIPE_FIELDS_ADDED_LATER:
            if getattr(self.recipe, key) == getattr(Recipe, key):
                content["recipe"].pop(key)
        return content


def make_run(study: Study, role: str, budget: float, width: int, seed: int, multiple: float = 1.0) -> Run:
    """The run of a width at a budget: depth, length and `multiple` times the rate by the recipe. Steps are rounded, by
    half a step at most. Raises UserError where that misses the budget by over 0.5 %, or the run does not fit."""
    try:
        return _run_of(study, role, budget, width, seed, multiple)
    except OverflowError:
        raise UserError("a value of the recipe is too large; see recipe.aspect, recipe.lr_* and recipe.*_law") from None


def _run_of(study: Study, role: str, budget: float, width: int, seed: int, multiple: float) -> Run:
    recipe = study.recipe
    depth = max(1, round(width / recipe.aspect))
    shape = shape_of(study.design, study.data, depth, width)
    counts, exact = n_params(shape), training_flops(shape)
    n = counts[study.params]
    per_image = exact if study.flops == "exact" else 6 * n * shape.tokens_per_image
    if law := recipe.batch_law:  # By D of the budget, since the batch decides the D of the run.
        batch = int(law.at(n, budget / per_image * shape.tokens_per_image, quantum=1))
        recipe = replace(recipe, batch_size=batch, batch_law=None)
    steps = round(budget / (per_image * recipe.batch_size))
    if steps < recipe.min_steps:
        fewer = f"{steps} steps of {recipe.batch_size} images, fewer than the recipe's min_steps {recipe.min_steps}"
        least = units.compact(recipe.min_steps * per_image * recipe.batch_size)
        raise UserError(f"{fewer}; use a budget of at least {least} or a smaller width")
    n_images = steps * recipe.batch_size
    n_tokens = n_images * shape.tokens_per_image
    recipe = _resolved(recipe, n, n_images, n_tokens)
    rate = multiple * recipe.lr_scale * width**recipe.lr_width * n**recipe.lr_params * n_tokens**recipe.lr_tokens
    rate = float(f"{rate:.6g}")
    if not 0 < rate < math.inf:
        raise UserError(f"a learning rate of {rate:g}; see recipe.lr_scale, lr_width, lr_params and lr_tokens")
    run = Run(
        run_id="", study=study.name, role=role, budget_flops=budget, achieved_flops=float(per_image * n_images),
        flops=study.flops, params=study.params, depth=depth, width=width, seed=seed, steps=steps, n_images=n_images,
        n_tokens=n_tokens, n_params=n, n_params_matmul=counts["matmul"], n_params_total=counts["total"],
        tokens_per_image=shape.tokens_per_image, flops_per_image=exact, lr=rate, design=study.design, data=study.data,
        recipe=recipe, validation=study.validation, execution=Execution.on(study.cluster, 1), rehearsal=study.rehearsal,
        evaluation={} if study.rehearsal or role == "rate" else study.evaluation,
    )  # fmt: skip
    if abs(run.deviation) > 0.005:
        raise UserError(f"{steps} steps miss the budget by {run.deviation:+.2%}, more than 0.5 %; use a smaller batch")
    return replace(run, run_id=naming.run_id(budget, depth, width, seed, run.defines()))


def _resolved(recipe: Recipe, n_params: float, n_images: int, n_tokens: int) -> Recipe:
    """The recipe with warm-up and weight decay as numbers. Raises UserError when the warm-up would outlast the run."""
    source = "recipe.warmup_images"
    if recipe.warmup_law is not None:
        images = round(recipe.warmup_law.at(n_params, n_tokens, quantum=recipe.batch_size))
        recipe, source = replace(recipe, warmup_images=images, warmup_law=None), "recipe.warmup_law"
    if recipe.warmup_images > n_images:
        warmup, length = units.count(recipe.warmup_images), units.count(n_images)
        raise UserError(f"{source}: a warm-up of {warmup} images, but the run has {length}")
    if recipe.weight_decay_law is not None:
        recipe = replace(recipe, weight_decay=recipe.weight_decay_law.at(n_params, n_tokens), weight_decay_law=None)
    return recipe


def read_run(path: Path | str) -> Run:
    """Read run.yaml. Raises UserError when it is missing, damaged or of another layout."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; a run directory holds run.yaml (`ditscale plan` writes it)")
    run = config.read(Run, path)
    if run.layout != 1:
        raise UserError(f"{path}: layout {run.layout} is of another version of ditscale; this one reads layout 1")
    return run
