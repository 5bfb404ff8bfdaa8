"""A run in training: model, optimizer and averages, and how far they are."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..distributed.ranks import Ranks
from ..model.dit import DiT
from ..model.mup import grouped, rate_factor
from ..plan.run import Run
from .checkpointer import Checkpointer
from .layout.choose import Layout, lay_out
from .optimizer import EMA, AdamW

FACTS = ("images", "loss_ema", "skipped", "skipped_in_row")  # What a checkpoint holds besides tensors and run_id.


@dataclass
class State:
    """What a checkpoint holds, in memory. Tensors are this rank's: whole, or its shards."""

    model: DiT
    layout: Layout
    optimizer: AdamW
    ema: EMA
    images: int = 0
    loss_ema: float = math.nan
    skipped: int = 0  # steps whose gradient was not finite
    skipped_in_row: int = 0

    def checkpointer(self, directory: Path, ranks: Ranks) -> Checkpointer:
        weights, optimizer = self.layout.weights, self.optimizer
        averages = {f"ema.{k}" if k else "ema": average for k, average in enumerate(self.ema.averages)}
        moments = {name: [getattr(optimizer, name)[w] for w in weights] for name in ("exp_avg", "exp_avg_sq")}
        parts = {"model": weights, **averages, **moments}
        return Checkpointer(self.layout, parts, directory, ranks)

    def facts(self, run: Run) -> dict:
        return {"run_id": run.run_id} | {name: getattr(self, name) for name in FACTS}

    def restore(self, facts: dict, batch_size: int):
        for name in FACTS:
            setattr(self, name, facts[name])
        self.optimizer.steps.fill_(self.images // batch_size - self.skipped)
        self.layout.weights_changed()

    def swap(self):
        """Exchange EMA and live weights; twice is the identity."""
        self.ema.swap()
        self.layout.weights_changed()

    def set_step(self, number: int, rate: float):
        """What the next step, number `number` from 1, does not compute on the device."""
        self.optimizer.set_rate(rate)
        self.ema.set_step(number)

    def step(self, clip: float) -> Tensor:
        """An optimizer step with the layout's gradients; returns their norm, on the device. Fused AdamW clips on the
        way. A step whose gradient is not finite is skipped, which the device alone knows: nothing waits for it."""
        norm = self.layout.reduce_gradients()
        skip = norm.isfinite().logical_not().float()
        self.optimizer.step(((norm + 1e-6) / clip).clamp_(min=1), skip)
        self.layout.zero_grad()
        self.ema.update(skip)
        return norm


def build(run: Run, ranks: Ranks) -> State:
    """The untrained run: weights are a function of the run's seed alone."""
    torch.manual_seed(run.seed)
    model, recipe = DiT(run.shape), run.recipe
    factor = partial(rate_factor, recipe=recipe, width=run.width)
    layout = lay_out(model, run.execution.sharding, recipe.precision, factor, ranks, len(recipe.windows))
    groups = grouped(zip(layout.lr_factors, layout.weights), recipe.weight_decay)
    optimizer = AdamW(groups, recipe.beta1, recipe.beta2)
    return State(model, layout, optimizer, EMA(layout.weights, recipe.windows))
