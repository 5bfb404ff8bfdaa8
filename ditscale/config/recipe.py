"""How a model is trained, and the laws that its hyper-parameters may follow."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from .. import units
from ..errors import UserError, one_of

SCHEDULES = ("constant", "cosine", "wsd")
TIMESTEPS = ("logit-normal", "uniform")
PRECISIONS = ("fp32", "bf16")
WIDTH_SCALINGS = ("none", "mup")
WINDOW_RATIO = 1.01  # of EMA windows that are two


@dataclass(frozen=True)
class Law:
    """A hyper-parameter by the size of model and data: scale * N^params * D^tokens, D in tokens, N as `study.params`
    counts."""

    scale: float
    params: float = 0.0
    tokens: float = 0.0
    quantum: float = 0.0  # values are the nearest multiple of this, at least one; 0: no such rounding

    def check(self, where: str):
        units.number(self.scale, f"{where}.scale", above=0)
        units.number(self.quantum, f"{where}.quantum", low=0)

    def __str__(self) -> str:
        powers = "".join(f" {name}^{power:g}" for name, power in (("N", self.params), ("D", self.tokens)) if power)
        return f"{self.scale:g}{powers}{f' to multiples of {self.quantum:g}' if self.quantum else ''}"

    def at(self, n_params: float, n_tokens: float, quantum: float = 0.0) -> float:
        """The value at a size, to six digits or the nearest multiple of the law's quantum, else of `quantum`, but never
        0."""
        value = self.scale * n_params**self.params * n_tokens**self.tokens
        quantum = self.quantum or quantum
        return max(1, round(value / quantum)) * quantum if quantum else float(f"{value:.6g}")


@dataclass(frozen=True)
class Recipe:
    """How a model of given size is trained. Rates follow lr = lr_scale * width^lr_width * N^lr_params * D^lr_tokens;
    batch, warm-up and weight decay are the same for all sizes, or follow laws of their own. A run holds what they come
    to (plan/recipe.py).
    """

    aspect: float  # width / depth
    batch_size: int  # images of one step, over all ranks
    lr_scale: float
    lr_width: float = 0.0
    lr_params: float = 0.0
    lr_tokens: float = 0.0
    schedule: str = "constant"
    warmup_images: int = 0  # not a fraction: so a run is the beginning of a longer one
    decay: float = 0.2  # fraction of the run, for schedule wsd
    min_steps: int = 200  # shorter runs are dropped from the plan
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.1  # EMA weights average over about this fraction of the run so far (train/ema.py)
    timesteps: str = "logit-normal"
    precision: str = "fp32"
    batch_law: Law | None = None  # in the place of batch_size, in images; its quantum is what a batch must divide by
    warmup_law: Law | None = None  # in the place of warmup_images, rounded to whole batches
    weight_decay_law: Law | None = None  # in the place of weight_decay
    width_scaling: str = "none"  # mup: the rate of each weight falls with the inputs it sums over (model/mup.py)
    base_width: int = 0  # mup: the width at which every weight has the run's own rate
    caption_dropout: float = 0.0  # share of images trained without their caption: classifier-free guidance needs it
    ema_also: tuple[float, ...] = ()  # further windows that are averaged beside `ema`, whose weights remain the result

    @property
    def windows(self) -> tuple[float, ...]:
        """Of the EMA weights that a run keeps, that of its result first."""
        return self.ema, *self.ema_also

    def check(self, where: str):
        one_of(self.width_scaling, WIDTH_SCALINGS, f"{where}.width_scaling")
        self._check_width(where)
        one_of(self.schedule, SCHEDULES, f"{where}.schedule")
        one_of(self.timesteps, TIMESTEPS, f"{where}.timesteps")
        one_of(self.precision, PRECISIONS, f"{where}.precision")
        for name in ("aspect", "lr_scale", "clip"):
            units.number(getattr(self, name), f"{where}.{name}", above=0)
        for name in ("batch_size", "min_steps"):
            units.whole(getattr(self, name), f"{where}.{name}", low=1)
        units.whole(self.warmup_images, f"{where}.warmup_images", low=0)
        for name in ("decay", "ema", "caption_dropout"):
            units.number(getattr(self, name), f"{where}.{name}", low=0, high=1)
        self._check_windows(where)
        for name in ("beta1", "beta2"):
            units.number(getattr(self, name), f"{where}.{name}", low=0, high=0.99999)
        units.number(self.weight_decay, f"{where}.weight_decay", low=0)
        if self.batch_law:
            units.whole(self.batch_law.quantum, f"{where}.batch_law.quantum", low=0)

    def _check_windows(self, where: str):
        for i, window in enumerate(self.ema_also):
            units.number(window, f"{where}.ema_also[{i}]", above=0, high=1)
        for one, next_one in pairwise(sorted(self.windows)):
            if next_one < WINDOW_RATIO * one:  # what lies beyond them would be made of their difference (train/ema.py)
                raise UserError(
                    f"{where}.ema_also: {one:g} and {next_one:g} are one window twice; give others than "
                    f"{where}.ema={self.ema:g}, each once, {WINDOW_RATIO - 1:.0%} apart or more"
                )

    def _check_width(self, where: str):
        units.whole(self.base_width, f"{where}.base_width", low=0)
        if self.width_scaling == "none" and self.base_width:
            raise UserError(f"{where}.base_width: {self.base_width} is of no use without recipe.width_scaling=mup")
        if self.width_scaling == "mup" and not self.base_width:
            raise UserError(
                f"{where}.base_width: missing; give the width whose rate was tuned, as in recipe.base_width=256"
            )
        if self.width_scaling == "mup" and self.lr_width:
            same = self.lr_scale * self.base_width**self.lr_width
            raise UserError(
                f"{where}.lr_width: {self.lr_width:g}, but mup scales rates with the width already; recipe.lr_width=0 "
                f"recipe.lr_scale={same:.6g} keeps the rate of width {self.base_width}"
            )
