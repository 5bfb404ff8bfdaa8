"""Samples of a run, at the same captions and noise for every run of a study; and pictures, for people and feature
extractors, of what a model sees: pictures too, or latents that a VAE decodes."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..config import Evaluation
from ..diffusion.rectified_flow import Velocity, sample
from ..rundir.evaluation import has_samples, write_samples
from .decoder import as_bytes, load_decoder
from .finished import Finished
from .held_out import HeldOut

load_once = cache(load_decoder)


def generate(model: Velocity, data: HeldOut, index: Tensor, how: Evaluation, precision: str) -> Tensor:
    """Images [B, C, R, R] of positions index [B]. The model computes in the run's precision, the sampler in fp32."""
    x0, text = data.images(index)
    noise = data.noise("sampling noise", index, x0)
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


class Pictures:
    """Pictures uint8 [B, C', H, W] of a data set's images and of samples. Without a `decoder`, latents stay."""

    def __init__(self, data: HeldOut, decoder: str):
        self.data = data
        self.vae = load_once(decoder, data.device) if decoder and not data.pixels else None

    def of(self, images: Tensor) -> Tensor:
        """Pictures of images [B, C, R, R] as a model sees or makes them."""
        if self.vae is not None:
            return as_bytes(self.vae(self.data.source.denormalise(images)))
        return as_bytes(images) if self.data.pixels else images.float()

    def reference(self, index: Tensor) -> Tensor:
        """The held-out pictures at positions index [B]: what latents were made from, where the file has them."""
        originals = self.data.source.pictures(index)
        return self.of(self.data.images(index)[0]) if originals is None else originals.to(self.data.device)
