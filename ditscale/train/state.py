"""A run in training: model, optimizer and averages, and how far they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from ..model.dit import DiT
from ..model.mup import grouped, rate_factor
from ..plan.run import Execution, Run
from .ema import EMA
from .parallel import Layout, lay
from .ranks import Ranks
from .shards import Shards


@dataclass
class State:
    """What a checkpoint holds, alive. Tensors are this rank's: whole, or its shards."""

    model: nn.Module
    layout: Layout
    optimizer: torch.optim.Optimizer
    ema: EMA
    images: int = 0
    loss_ema: float = math.nan
    skipped: int = 0  # steps whose gradient was not finite
    skipped_in_row: int = 0

    def shards(self, directory: Path, ranks: Ranks) -> Shards:
        """The checkpoints in a run's directory, to save to and to load from."""
        moments = [self.optimizer.state[w] for w in self.layout.weights]
        parts = {
            "model": self.layout.weights,
            "ema": self.ema.averages,
            "exp_avg": [m["exp_avg"] for m in moments],
            "exp_avg_sq": [m["exp_avg_sq"] for m in moments],
        }
        return Shards(self.layout, parts, directory, ranks)

    def facts(self, run: Run) -> dict:
        """The rest of a checkpoint: what is no tensor."""
        return {
            "run_id": run.run_id,
            "images": self.images,
            "loss_ema": self.loss_ema,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
        }

    def restore(self, facts: dict, batch_size: int):
        """Go on from facts, once the tensors are loaded."""
        self.images, self.loss_ema = facts["images"], facts["loss_ema"]
        self.skipped, self.skipped_in_row = facts["skipped"], facts["skipped_in_row"]
        for moments in self.optimizer.state.values():
            moments["step"].fill_(self.images // batch_size - self.skipped)
        self.layout.changed()

    def swap(self):
        """Exchange EMA and live weights; twice is the identity."""
        self.ema.swap()
        self.layout.changed()

    def step(self, number: int, rate: float, clip: float) -> Tensor:
        """An optimizer step, number `number` from 1, with the gradients of the layout; returns their norm, on the device.

        Clipping is a factor that fused AdamW applies on the way. A step whose gradient is not finite is skipped: weights,
        moments and averages stay. Whether it is, the device alone knows, so nothing waits for it.
        """
        norm = self.layout.reduce()
        skip = norm.isfinite().logical_not().float()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        self.optimizer.grad_scale = ((norm + 1e-6) / clip).clamp_(min=1)
        self.optimizer.found_inf = skip
        self.optimizer.step()
        self.layout.zero()
        self.ema.update(number, skip)
        return norm


def build(run: Run, ranks: Ranks) -> State:
    """The untrained run: weights are a function of the run's seed alone."""
    torch.manual_seed(run.seed)
    model = DiT(run.shape)
    recipe = run.recipe
    factor = partial(rate_factor, recipe=recipe, width=run.width)
    layout = lay(model, run.execution.sharding, recipe.precision, factor, ranks)
    groups = grouped(zip(layout.factors, layout.weights), recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=run.lr, betas=(recipe.beta1, recipe.beta2), fused=True)
    for w in layout.weights:  # before the first step makes them: memory is as it will be, and a checkpoint has a place to go
        moments = {name: torch.zeros_like(w) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[w] = {"step": torch.zeros((), device=w.device)} | moments
    return State(model, layout, optimizer, EMA(layout.weights, recipe.ema))


def speed_up(model: DiT, execution: Execution, device: torch.device):
    """Compile the blocks and recompute their activations, as `execution` says.

    A block's forward is replaced, not the block: sharding hangs its gathering on the block, and that stays outside.
    """
    compiled = device.type == "cuda" if execution.compile is None else execution.compile
    for block in model.blocks:
        forward = torch.compile(block.forward) if compiled else block.forward
        if execution.recompute == "blocks":
            forward = partial(recomputed, forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = forward
