"""Evaluation of a finished run: validation losses again, and samples with their captions, into evaluation.h5.

evaluation.h5 (attribute `layout` = 1, and the settings):
    samples/generated    uint8 [n, R, R, C] when the data are pictures (C = 1 or 3), float32 [n, R, R, C] latents otherwise
    samples/reference    the held-out images that bear the same captions, likewise
    samples/captions     text [n]
    validation           dataset, n, loss, loss_se
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from ..data import draws
from ..data.open import open_source
from ..diffusion.sampler import sample
from ..files import write_bytes
from ..naming import RunPaths
from ..plan.run import Run
from ..store.strata import standard_error
from ..train.ranks import Ranks
from .finished import load
from .validation import triple_losses, triples


@dataclass(frozen=True)
class Evaluation:
    """What was measured. `losses`: (data set, n, mean, standard error)."""

    run: Run
    losses: tuple[tuple[str, int, float, float], ...]
    n_samples: int
    steps: int
    wall_s: float

    def summary(self) -> str:
        lines = [f"{self.run.run_id}: {self.run.n_params} parameters (EMA weights), {self.run.n_images} images"]
        lines += [f"  {name}: validation loss {loss:.5f} +- {se:.5f} (n = {n})" for name, n, loss, se in self.losses]
        lines.append(f"  {self.n_samples} samples, {self.steps} Heun steps; {self.wall_s:.1f} s")
        return "\n".join(lines)


def evaluate(run_dir: Path | str, n_samples: int = 16, steps: int = 32, seed: int = 0) -> Evaluation:
    """Measure a finished run and draw samples; writes evaluation.h5 whole or not at all.

    Every run of a study gets the same captions and the same noise. Raises UserError when the run is unfinished.
    """
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run, model = load(run_dir, device)
    losses = []
    for data in (run.data, *run.validation.also.values()):
        fixed = triples(data, run.validation, run.recipe.timesteps)
        found = triple_losses(model, fixed, run.validation.batch_size, Ranks(0, 1, device), run.recipe.precision)
        losses.append((data.name, len(found), float(found.mean()), standard_error(found)))

    source = open_source(replace(run.data, seed=run.validation.seed, path=run.validation.path or run.data.path))
    index = torch.arange(n_samples)
    reference, text = source.batch(index)
    noise = draws.normal(draws.key(seed, "sampling noise"), index, reference[0].numel()).view(reference.shape).to(device)
    generated = sample(model, noise, text.to(device), steps)
    captions = [source.caption(row) for row in text]

    made = Evaluation(run, tuple(losses), n_samples, steps, time.monotonic() - began)
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs.update({"layout": 1, "run_id": run.run_id, "sampler": "heun", "steps": steps, "seed": seed, "wall_s": made.wall_s})
        file["samples/generated"] = _pictures(generated.cpu())
        file["samples/reference"] = _pictures(reference)
        file.create_dataset("samples/captions", data=captions, dtype=h5py.string_dtype())
        table = np.array([(n.encode(), k, m, s) for n, k, m, s in losses], dtype=[("dataset", "S64"), ("n", "i8"), ("loss", "f8"), ("loss_se", "f8")])
        file["validation"] = table
    write_bytes(RunPaths(run_dir).evaluation, memory.getvalue())
    return made


def _pictures(x_BCRR: Tensor) -> np.ndarray:
    """[B, C, R, R] in about [-1, 1] to pixels [B, R, R, C] in 0..255; latents stay floats."""
    x = x_BCRR.permute(0, 2, 3, 1).float()
    if x.shape[-1] not in (1, 3):
        return x.numpy()
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
