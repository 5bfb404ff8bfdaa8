"""A finished run, ready to be evaluated."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..errors import UserError
from ..model.dit import DiT
from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..train import checkpoint


def load(run_dir: Path | str, device: torch.device) -> tuple[Run, nn.Module]:
    """The run and its model with EMA weights. Raises UserError when the run is unfinished or its checkpoint does not fit."""
    at = RunPaths(run_dir)
    run = read_run(at.run)
    if run.rehearsal:
        raise UserError(f"{at.root}: was rehearsed, so there is no model to evaluate")
    content = checkpoint.load_final(at.checkpoint, run.run_id, device)
    model = DiT(run.shape).to(device).eval().requires_grad_(False)
    try:
        model.load_state_dict(content["model"])
        for parameter, average in zip(model.parameters(), content["ema"], strict=True):
            parameter.copy_(average)
    except (RuntimeError, ValueError):
        raise UserError(f"{at.checkpoint}/final.pt: is of another design or size than run.yaml says") from None
    return run, model
