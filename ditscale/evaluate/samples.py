"""Samples of a run for people to look at: the same captions and the same noise for every run of a study."""

from pathlib import Path

import torch
from torch import Tensor

from ..config import Evaluation
from ..diffusion.rectified_flow import Velocity
from ..diffusion.sampler import sample
from ..rundir.evaluation import has_samples, write_samples
from .finished import Finished
from .held_out import HeldOut
from .to_pictures import Pictures

STREAM = "sampling noise"


def generate(model: Velocity, data: HeldOut, index: Tensor, how: Evaluation, precision: str) -> Tensor:
    """Images [B, C, R, R] at the captions and with the noise of positions index [B]. The model computes in the run's
    precision, the sampler in fp32."""
    x0, text = data.images(index)
    noise = data.noise(STREAM, index, x0)
    with torch.autocast(data.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return sample(model, noise, text, how.steps, how.sampler, how.guidance)


def draw(path: Path, finished: Finished, data: HeldOut, how: Evaluation):
    """Write data.n samples next to the held-out images of the same captions, unless the file has them already."""
    settings: dict = {"sampler": how.sampler, "steps": how.steps, "guidance": how.guidance, "seed": data.seed}
    settings |= {"decoder": how.decoder} if how.decoder else {}
    if has_samples(path, data.n, settings, finished.window):
        return
    index, pictures, run = torch.arange(data.n), Pictures(data, how.decoder), finished.run
    generated = pictures.of(generate(finished.ema, data, index, how, run.recipe.precision))
    reference = pictures.reference(index) if how.decoder else pictures.of(data.images(index)[0])
    arrays = [x.cpu().movedim(1, -1).numpy() for x in (generated, reference)]
    write_samples(path, run.run_id, arrays[0], arrays[1], data.source.captions(index), settings, finished.window)
