"""The training of one run, from its directory alone. To resume: the same call again.

One clock, images seen, drives schedule, EMA, checkpoints and resume. Data, noise and timesteps are functions of
(seed, position), so a resumed run repeats exactly what the interrupted one would have done.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ..data.open import open_source
from ..diffusion.rectified_flow import Noise, losses
from ..errors import UserError
from ..evaluate.validation import triple_losses, triples
from ..model.dit import DiT
from ..model.mup import parameter_groups
from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..store.lock import RunLock
from ..store.record import STEP, VALIDATION, read_state
from . import checkpoint
from .ema import EMA
from .ends import Diverged, Stopped
from .ranks import Ranks, start
from .replicate import Gradients
from .schedule import rate_factor
from .signals import StopFlag
from .stream import stream
from .writer import Writer, holding, smoothed

REPORT_STEPS = 16  # steps between looks at the device: losses, stop requests and checkpoints wait for one
EXPLODED = 10.0  # a smoothed loss above this is a diverged run: an untrained model starts near 1


def train(run_dir: Path | str, lock: RunLock | None = None) -> str:
    """Train the run of a directory to its end and measure it; returns the record's state, "finished".

    `lock` is the run's, where the caller holds it already. Raises UserError on a user's mistake, Diverged on a diverged
    run, Stopped when a signal asked for a stop.
    """
    at = RunPaths(run_dir)
    run = read_run(at.run)
    torch.set_num_threads(run.execution.threads)
    ranks = start(at.root, at.rendezvous)
    try:
        with holding(at, lock) if ranks.first else nullcontext():
            try:
                state = _attempt(at, run, ranks)
            except (Stopped, Diverged):
                ranks.meet()
                raise
            ranks.meet()
            return state
    finally:
        ranks.close()


@dataclass
class State:
    """What a checkpoint holds, alive."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA
    images: int = 0
    loss_ema: float = math.nan

    def save(self, run: Run, directory: Path):
        content = {
            "run_id": run.run_id,
            "images": self.images,
            "loss_ema": self.loss_ema,
            "model": self.model.state_dict(),
            "ema": self.ema.averages,
            "optimizer": self.optimizer.state_dict(),
        }
        checkpoint.save(directory, content)

    def load(self, content: dict):
        self.images, self.loss_ema = content["images"], content["loss_ema"]
        self.model.load_state_dict(content["model"])
        self.ema.averages = content["ema"]
        self.optimizer.load_state_dict(content["optimizer"])


def build(run: Run, device: torch.device) -> State:
    """The untrained run: weights are a function of the run's seed alone."""
    torch.manual_seed(run.seed)
    model = DiT(run.shape).to(device)
    parameters = list(model.parameters())
    recipe = run.recipe
    groups = parameter_groups(model.named_parameters(), recipe, run.width)
    optimizer = torch.optim.AdamW(groups, lr=run.lr, betas=(recipe.beta1, recipe.beta2), fused=True)
    return State(model, optimizer, EMA(parameters, recipe.ema))


def _attempt(at: RunPaths, run: Run, ranks: Ranks) -> str:
    recipe = run.recipe
    if recipe.batch_size % ranks.world:
        raise UserError(f"{at.root}: a batch of {recipe.batch_size} images does not divide over {ranks.world} ranks")
    if read_state(at.metrics) == "finished":
        return "finished"
    stop = StopFlag()
    at.failure.unlink(missing_ok=True)

    # ---- data, model, and where an earlier attempt left off
    source = open_source(run.data)
    state = build(run, ranks.device)
    found = checkpoint.load_newest(at.checkpoint, run.run_id, ranks.device) if ranks.first else None
    if ranks.world > 1:
        found = _from_first(found, ranks)
    if found:
        state.load(found)

    # ---- the record: only rank 0 writes
    try:
        with Writer(at, run, state.images, ranks.world) if ranks.first else nullcontext() as writer:
            _train(at, run, ranks, state, source, writer, stop)
            _validate(run, ranks, state, writer)
            if writer:
                final = {"run_id": run.run_id, "images": state.images, "model": state.model.state_dict(), "ema": state.ema.averages}
                writer.finish(lambda: checkpoint.save(at.checkpoint, final, "final.pt"))
        return "finished"
    finally:
        stop.restore()


def _train(at: RunPaths, run: Run, ranks: Ranks, state: State, source, writer: Writer | None, stop: StopFlag):
    """Optimiser steps from where `state` is to the run's last image."""
    recipe, device = run.recipe, ranks.device
    parameters = list(state.model.parameters())
    gradients = Gradients(parameters, ranks)
    noise = Noise(run.seed, recipe.timesteps)
    batches = stream(source, noise, state.images, run.n_images, recipe.batch_size, ranks.rank, ranks.world, device)
    pending = torch.zeros(REPORT_STEPS, 2, device=device)  # loss and gradient norm of steps not yet looked at
    rates, filled = [], 0
    elapsed_before = writer.elapsed_before if writer else 0.0
    began = last_save = time.monotonic()

    for x0, text, eps, t in batches:
        rate = run.lr * rate_factor(recipe, state.images, run.n_images)
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = losses(state.model, x0, text, eps, t).mean()
        loss.backward()
        gradients.average()
        norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
        state.optimizer.step()
        gradients.zero()
        state.images += recipe.batch_size
        step = state.images // recipe.batch_size
        state.ema.update(step)
        pending[filled, 0], pending[filled, 1] = loss.detach(), norm.detach()
        rates.append(rate)
        filled += 1
        if filled < REPORT_STEPS and state.images < run.n_images:
            continue

        # ---- every REPORT_STEPS steps, the only place where the loop waits for the device and the other ranks
        due = time.monotonic() - last_save > run.execution.checkpoint_s
        flags = torch.tensor([float(stop.raised), float(due)], device=device)
        ranks.all_reduce(flags, dist.ReduceOp.MAX)
        pending[:, 0] /= ranks.world  # a rank's loss is the mean of its share; norms are equal on all
        pending[:, 1] /= ranks.world
        ranks.all_reduce(pending)
        stop_asked, save_due = flags.tolist()
        rows = _rows(pending[:filled].tolist(), rates, step - filled, recipe.batch_size, state)
        rows["elapsed_s"] = elapsed_before + time.monotonic() - began
        healthy = math.isfinite(state.loss_ema) and state.loss_ema < EXPLODED
        rates, filled = [], 0
        if writer:
            writer.write_steps(step - len(rows), rows)
        if not healthy:
            raise Diverged(
                f"{at.root}: the loss reached {state.loss_ema:.3g} at {state.images} images; the run has diverged "
                f"(rate {run.lr:.3g}); a smaller recipe.lr_scale makes another study"
            )
        if state.images < run.n_images and (stop_asked or save_due) and ranks.first:
            state.save(run, at.checkpoint)
        if save_due:
            last_save = time.monotonic()
        if stop_asked and state.images < run.n_images:
            raise Stopped(at, state.images, run.n_images)
    if ranks.first:
        state.save(run, at.checkpoint)


def _rows(values: list, rates: list[float], first_step: int, batch_size: int, state: State) -> np.ndarray:
    """Record rows of finished steps; advances the loss's EMA (the first loss starts it)."""
    rows = np.zeros(len(values), STEP)
    for i, (loss, norm) in enumerate(values):
        state.loss_ema = smoothed(state.loss_ema, loss, first_step + i)
        rows[i] = ((first_step + i + 1) * batch_size, loss, state.loss_ema, norm, rates[i], 0)
    return rows


def _from_first(found: dict | None, ranks: Ranks) -> dict | None:
    """Rank 0's checkpoint on every rank."""
    holder = [found]
    dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
    return holder[0]


def _validate(run: Run, ranks: Ranks, state: State, writer: Writer | None):
    """Measure EMA and live weights on every validation set."""
    if writer:
        writer.beat("validating", state.images, state.loss_ema, force=True)
    for i, data in enumerate([run.data, *run.validation.also.values()]):
        began = time.monotonic()
        fixed = triples(data, run.validation, run.recipe.timesteps)
        measure = lambda: triple_losses(state.model, fixed, run.validation.batch_size, ranks, run.recipe.precision)  # noqa: E731
        raw = measure().mean() if i == 0 else math.nan  # live weights in domain only: it halves the cost
        state.ema.swap()
        samples = measure()
        state.ema.swap()
        if not np.isfinite(samples).all():
            raise Diverged(f"{run.run_id}: the validation loss on {data.name} is not finite; the run has diverged")
        if writer:
            row = np.zeros((), VALIDATION)
            row["dataset"], row["images"], row["loss"] = data.name.encode(), state.images, samples.mean()
            row["raw_loss"], row["elapsed_s"] = raw, time.monotonic() - began
            writer.write_validation(i, row, samples)
