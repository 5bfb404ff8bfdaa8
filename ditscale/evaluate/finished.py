"""A finished run, ready to be evaluated."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from ..errors import UserError
from ..model.compile import compiles, speed_up
from ..model.dit import DiT
from ..naming import RunPaths
from ..plan.run import Run, read_run
from ..rundir.record import read_state

FINGERPRINT_VALUES = 64  # Values of each parameter that the fingerprint covers.


@dataclass(frozen=True)
class Finished:
    """A run and its models: with the EMA weights, which are the run's result, and with those of its last step. window:
    of the EMA, where it is not the run's own. profile_error: of that average, where `combine` made it of others."""

    run: Run
    ema: DiT
    raw: DiT
    window: float | None = None
    profile_error: float = 0.0

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for parameter in [*self.ema.parameters(), *self.raw.parameters()]:
            digest.update(parameter.detach().flatten()[:FINGERPRINT_VALUES].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:12]

    @property
    def settings(self) -> dict:
        window = {"ema": self.window, "ema profile error": float(f"{self.profile_error:.3g}")}
        return {"model": self.fingerprint()} | ({} if self.window is None else window)

    def to(self, device: torch.device) -> Self:
        for model in (self.ema, self.raw):
            speed_up(model.to(device), compiles(self.run, device))
        return self


def load_finished(run_dir: Path | str, window: float | None = None) -> Finished:
    """A run's models, on the CPU, the EMA over `window`, or over the run's own. Raises UserError when the run is
    unfinished, its checkpoint does not fit, or no combination of its windows gives this one."""
    at = RunPaths(run_dir)
    run = read_run(at.run)
    if run.rehearsal:
        raise UserError(f"{at.root}: was rehearsed, so there is no model to evaluate")
    coefficients, error = combine(run.recipe.ema if window is None else window, run.recipe.windows)
    content = load_final(at.checkpoint, run.run_id, torch.device("cpu"))
    ema, raw = (DiT(run.shape).eval().requires_grad_(False) for _ in range(2))
    try:
        ema.load_state_dict(content["model"])
        raw.load_state_dict(content["model"])
        all_averages = zip(content["ema"], *content.get("ema_also", ()), strict=True)
        for parameter, averages in zip(ema.parameters(), all_averages, strict=True):
            (c, first), *rest = [(c, a) for c, a in zip(coefficients.tolist(), averages, strict=True) if c]
            parameter.copy_(first).mul_(c)
            for c, average in rest:
                parameter.add_(average, alpha=c)
    except (RuntimeError, ValueError):
        raise UserError(f"{at.checkpoint}/final.pt: is of another design or size than run.yaml says") from None
    return Finished(run, ema, raw, None if window == run.recipe.ema else window, error)


def combine(window: float, windows: Sequence[float]) -> tuple[np.ndarray, float]:
    """Coefficients [len(windows)] that combine the averages over the kept `windows` to the one over `window` at a run's
    end (Karras et al., arXiv 2312.02696, section 3.2 and appendix C), and the relative error of the combined profile.

    Over t in [0, 1] of the run the profile of a window is p_g(t) = (g + 1) t^g, g = 1/window - 1, and <p_a, p_b> =
    (a + 1)(b + 1) / (a + b + 1). The coefficients x minimise |p - sum_i x_i p_i|; the error is that minimum over |p|.
    Unlike the authors', they sum to 1, so that a weight that no longer changes keeps its value (docs/recipe.md has the
    error's floor). Raises UserError at a window outside of those."""
    if window in windows:
        return np.array([float(w == window) for w in windows]), 0.0
    used = np.array([w > 0 for w in windows])  # A plain copy, window 0, has no profile.
    low, high = (pick((w for w in windows if w > 0), default=0) for pick in (min, max))
    if not low < window < high:
        kept = f"is neither one that the run kept ({', '.join(f'{w:g}' for w in windows)}) nor between two"
        raise UserError(f"EMA window {window:g}: {kept}; to have it, plan with recipe.ema_also=[{window:g}]")
    g, target = 1 / np.array(windows)[used] - 1, 1 / window - 1
    product = lambda a, b: (a + 1) * (b + 1) / (a + b + 1)
    gram, onto, own, one = product(g[:, None], g), product(g, target), product(target, target), np.ones((len(g), 1))
    x = np.linalg.solve(np.block([[gram, one], [one.T, 0]]), [*onto, 1])[:-1]  # The last is the Lagrange multiplier.
    coefficients = np.zeros(len(windows))
    coefficients[used] = x
    return coefficients, float(np.sqrt(max(own - 2 * x @ onto + x @ gram @ x, 0) / own))


def has_final(directory: Path, run_id: str) -> bool:
    try:
        return torch.load(directory / "final.pt", mmap=True, weights_only=True)["run_id"] == run_id
    except Exception:  # The file is missing or cut short, which raises any of half a dozen types.
        return False


def load_final(directory: Path, run_id: str, device: torch.device | None = None) -> dict:
    """The final checkpoint. Raises UserError when the run has none yet, or it is damaged or of another run."""
    path, at = directory / "final.pt", RunPaths(directory.parent)
    restart = f"move {at.metrics} aside, then `ditscale run {at.root}` trains it again"
    if not path.is_file() and at.metrics.is_file() and read_state(at.metrics) == "finished":
        raise UserError(f"{path}: is gone; {restart}")
    if not path.is_file():
        raise UserError(f"{at.root}: the run is not finished; `ditscale run {at.root}` resumes it")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        owner = content["run_id"]
    except Exception:  # A file cut short raises any of half a dozen types, from zipfile to pickle.
        raise UserError(f"{path}: cannot be read; {restart}") from None
    if owner != run_id:
        raise UserError(f"{path}: is of run {owner}, not {run_id}; move it aside")
    return content
