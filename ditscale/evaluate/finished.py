"""A finished run, ready to be evaluated."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError
from ..model.dit import DiT
from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..train import checkpoint
from ..train.state import speed_up

FINGERPRINT_VALUES = 64  # of each parameter


@dataclass(frozen=True)
class Finished:
    """A run and its models: with the EMA weights, which are the run's result, and with those of its last step."""

    run: Run
    ema: nn.Module
    raw: nn.Module

    def fingerprint(self) -> str:
        """Equal for equal weights, whatever the device: of the first values of each parameter."""
        sums = hashlib.sha256()
        for parameter in [*self.ema.parameters(), *self.raw.parameters()]:
            sums.update(parameter.detach().flatten()[:FINGERPRINT_VALUES].float().cpu().numpy().tobytes())
        return sums.hexdigest()[:12]

    def to(self, device: torch.device) -> Finished:
        """On a device, and compiled as the training was."""
        for model in (self.ema, self.raw):
            speed_up(model.to(device), replace(self.run.execution, recompute="none"), device)
        return self


def load(run_dir: Path | str) -> Finished:
    """Read a run's models to the CPU. Raises UserError when the run is unfinished or its checkpoint does not fit."""
    at = RunPaths(run_dir)
    run = read_run(at.run)
    if run.rehearsal:
        raise UserError(f"{at.root}: was rehearsed, so there is no model to evaluate")
    content = checkpoint.load_final(at.checkpoint, run.run_id, torch.device("cpu"))
    ema, raw = (DiT(run.shape).eval().requires_grad_(False) for _ in range(2))
    try:
        ema.load_state_dict(content["model"])
        raw.load_state_dict(content["model"])
        for parameter, average in zip(ema.parameters(), content["ema"], strict=True):
            parameter.copy_(average)
    except (RuntimeError, ValueError):
        raise UserError(f"{at.checkpoint}/final.pt: is of another design or size than run.yaml says") from None
    return Finished(run, ema, raw)
