"""How a model is trained, and the laws that its hyper-parameters may follow."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

from ..errors import one_of
from ..units import number
from .mapping import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Problems

TIMESTEPS = ("logit-normal", "uniform")
WINDOW_RATIO = 1.01  # EMA windows of a smaller ratio count as one window.


@dataclass(frozen=True)
class Law:
    """A hyper-parameter by size: scale * N^params * D^tokens, D in tokens, N as `study.params` counts."""

    scale: PositiveFloat
    params: float = 0.0
    tokens: float = 0.0
    quantum: NonNegativeFloat = 0.0  # Values are rounded to multiples of this, at least one. 0: no such rounding.

    def at(self, n_params: float, n_tokens: float, quantum: float = 0.0) -> float:
        """The value at a size, to six digits or the nearest multiple (but 0) of the law's quantum, else `quantum`."""
        value = self.scale * n_params**self.params * n_tokens**self.tokens
        quantum = self.quantum or quantum
        return max(1, round(value / quantum)) * quantum if quantum else float(f"{value:.6g}")


Beta = Annotated[float, partial(number, low=0, high=0.99999)]


@dataclass(frozen=True)
class Recipe:
    """How a model of given size is trained. Rates follow lr = lr_scale * width^lr_width * N^lr_params * D^lr_tokens;
    batch, warm-up and weight decay are the same for all sizes, or follow laws of their own (plan/run.py)."""

    aspect: PositiveFloat  # Width / depth.
    batch_size: PositiveInt  # Images of one step, over all ranks.
    lr_scale: PositiveFloat
    lr_width: float = 0.0
    lr_params: float = 0.0
    lr_tokens: float = 0.0
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    warmup_images: NonNegativeInt = 0  # A number, not a fraction, so that a run is the beginning of a longer one.
    decay: Fraction = 0.2  # wsd: Fraction of the run over which the rate decays.
    min_steps: PositiveInt = 200  # Shorter runs are dropped from the plan.
    beta1: Beta = 0.9
    beta2: Beta = 0.95
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat = 1.0  # Largest norm of the gradient.
    ema: Fraction = 0.1  # The EMA averages over about this fraction of the run so far (train/optimizer.py).
    timesteps: Annotated[str, partial(one_of, valid=TIMESTEPS)] = "logit-normal"
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_law: Law | None = None  # Replaces batch_size, in images; the batch is a multiple of its quantum.
    warmup_law: Law | None = None  # Replaces warmup_images, rounded to whole batches.
    weight_decay_law: Law | None = None  # Replaces weight_decay.
    # mup: The rate of each weight falls with the number of inputs it sums over (model/mup.py).
    width_scaling: Literal["none", "mup"] = "none"
    base_width: NonNegativeInt = 0  # mup: The width at which every weight has the run's own rate.
    caption_dropout: Fraction = 0.0  # Fraction of images trained without their caption; guidance needs some.
    ema_also: tuple[Annotated[float, partial(number, above=0, high=1)], ...] = ()  # Further windows, besides `ema`.

    @property
    def windows(self) -> tuple[float, ...]:
        """The EMA windows of the weights that a run keeps, that of its result first."""
        return self.ema, *self.ema_also

    def problems(self) -> Problems:
        for window, next_window in pairwise(sorted(self.windows)):
            # An average over another window is made of those kept: of two alike, of their difference.
            if next_window < WINDOW_RATIO * window:
                twice = f"{window:g} and {next_window:g} are the same window twice; give windows other"
                apart = f"than recipe.ema={self.ema:g}, each once and at least {WINDOW_RATIO - 1:.0%} apart"
                yield "ema_also", f"{twice} {apart}"
        if self.batch_law and self.batch_law.quantum % 1:
            yield "batch_law.quantum", f"{self.batch_law.quantum} is not a whole number"
        if self.width_scaling == "none" and self.base_width:
            yield "base_width", f"{self.base_width} has no effect without recipe.width_scaling=mup"
        if self.width_scaling == "mup" and not self.base_width:
            yield "base_width", "missing; give the width whose rate was tuned, for example recipe.base_width=256"
        if self.width_scaling == "mup" and self.lr_width:
            same = f"recipe.lr_scale={self.lr_scale * self.base_width**self.lr_width:.6g}"
            keep = f"recipe.lr_width=0 {same} keeps the rate of width {self.base_width}"
            yield "lr_width", f"{self.lr_width:g}, but mup scales rates with the width already; {keep}"
