"""Samples of a run for people to look at: the same captions and the same noise for every run of a study."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import Evaluation
from ..data.captions import no_caption
from ..diffusion.sampler import sample
from ..rundir.evaluation import has_samples, write_samples
from .held_out import HeldOut
from .to_pictures import sight

STREAM = "sampling noise"


def generate(
    model: nn.Module, data: HeldOut, index: Tensor, like: Tensor, text: Tensor, how: Evaluation, precision: str
) -> Tensor:
    """Images [B, C, R, R], shaped as `like`, at captions `text` and with the noise of positions index [B]; the model
    computes in the run's precision, the sampler in fp32."""
    with torch.autocast(like.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return sample(
            model, data.noise(STREAM, index, like), text, how.steps, how.sampler, how.guidance, no_caption(text)
        )


def draw(
    path: Path,
    run_id: str,
    model: nn.Module,
    data: HeldOut,
    n: int,
    how: Evaluation,
    precision: str,
    window: float | None = None,
):
    """Write n samples beside the held-out images that bear their captions, unless they are there. window: of the EMA
    weights, where it is not the run's own."""
    settings = {"sampler": how.sampler, "steps": how.steps, "guidance": how.guidance, "seed": data.seed}
    settings |= {"decoder": how.decoder} if how.decoder else {}
    if not n or has_samples(path, n, settings, window):
        return
    index = torch.arange(n)
    reference, text = data.images(index)
    generated = generate(model, data, index, reference, text, how, precision)
    see = sight(data, how.decoder)
    kept = data.source.pictures(index) if how.decoder else None
    held = see(reference) if kept is None else kept
    pictures = (x.cpu().movedim(1, -1).numpy() for x in (see(generated), held))
    write_samples(path, run_id, *pictures, data.source.captions(index), settings, window)
