"""A finished run, ready to be evaluated."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError
from ..model.compile import compiles, speed_up
from ..model.dit import DiT
from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..rundir.record import read_state
from .posthoc_ema import between

FINGERPRINT_VALUES = 64  # of each parameter


@dataclass(frozen=True)
class Finished:
    """A run and its models: with the EMA weights, which are the run's result, and with those of its last step.
    `window`: of the EMA weights, where another than the run's own was asked for; `profile_error`: of what those were
    made of (train/ema.py)."""

    run: Run
    ema: nn.Module
    raw: nn.Module
    window: float | None = None
    profile_error: float = 0.0

    def fingerprint(self) -> str:
        """Equal for equal weights, whatever the device: of the first values of each parameter."""
        sums = hashlib.sha256()
        for parameter in [*self.ema.parameters(), *self.raw.parameters()]:
            sums.update(parameter.detach().flatten()[:FINGERPRINT_VALUES].float().cpu().numpy().tobytes())
        return sums.hexdigest()[:12]

    @property
    def settings(self) -> dict:
        """What says of a measurement whose weights they were: of the run's result, these alone."""
        other = {"ema": self.window, "ema profile error": float(f"{self.profile_error:.3g}")}
        return {"model": self.fingerprint()} | ({} if self.window is None else other)

    def to(self, device: torch.device) -> Finished:
        """On a device, and compiled as the training was."""
        for model in (self.ema, self.raw):
            speed_up(model.to(device), compiles(self.run, device))
        return self


def load(run_dir: Path | str, window: float | None = None) -> Finished:
    """Read a run's models to the CPU, the EMA over `window`, or over the run's own. Raises UserError when the run is
    unfinished, its checkpoint does not fit, or that window can be had from none that the run kept."""
    at = RunPaths(run_dir)
    run = read_run(at.run)
    if run.rehearsal:
        raise UserError(f"{at.root}: was rehearsed, so there is no model to evaluate")
    own, windows = run.recipe.ema, run.recipe.windows
    coefficients, error = between(own if window is None else window, windows)
    content = load_final(at.checkpoint, run.run_id, torch.device("cpu"))
    ema, raw = (DiT(run.shape).eval().requires_grad_(False) for _ in range(2))
    try:
        ema.load_state_dict(content["model"])
        raw.load_state_dict(content["model"])
        kept = zip(content["ema"], *content.get("ema_also", ()), strict=True)
        for parameter, averages in zip(ema.parameters(), kept, strict=True):
            (most, first), *rest = [(x, a) for x, a in zip(coefficients.tolist(), averages, strict=True) if x]
            parameter.copy_(first).mul_(most)
            for x, average in rest:
                parameter.add_(average, alpha=x)
    except (RuntimeError, ValueError):
        raise UserError(f"{at.checkpoint}/final.pt: is of another design or size than run.yaml says") from None
    return Finished(run, ema, raw, None if window == own else window, error)


def has_final(directory: Path, run_id: str) -> bool:
    """Whether the run's final checkpoint is there and can be read."""
    try:
        return torch.load(directory / "final.pt", mmap=True, weights_only=True)["run_id"] == run_id
    except Exception:  # there is none, or see below
        return False


def load_final(directory: Path, run_id: str, device=None) -> dict:
    """The final checkpoint. Raises UserError when the run has none yet, or it is damaged or of another run."""
    path, at = directory / "final.pt", RunPaths(directory.parent)
    again = f"move {at.metrics} away, then `ditscale run {at.root}` trains it again"
    if not path.is_file() and at.metrics.is_file() and read_state(at.metrics) == "finished":
        raise UserError(f"{path}: is gone; {again}")
    if not path.is_file():
        raise UserError(f"{at.root}: the run is not finished; `ditscale run {at.root}` goes on with it")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        of = content["run_id"]
    except Exception:  # a cut file raises any of half a dozen types, from zipfile to pickle
        raise UserError(f"{path}: cannot be read; {again}") from None
    if of != run_id:
        raise UserError(f"{path}: is of run {of}, not {run_id}; move it away")
    return content
