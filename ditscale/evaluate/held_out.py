"""The held-out images that a run is measured on: a data set's own, or those of another data set of the same shapes."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import SHAPE, Data, Validation
from ..data import draws
from ..data.latents import Latents
from ..data.source import open_source
from ..errors import UserError
from ..image_file import check_enough
from ..plan.run import Run

LABEL = re.compile(r"(?!se(_|$))[\w.-]+", re.ASCII)  # In a study's table, loss_se is a standard error.
BIN = 2 / 255  # Width of one of 256 levels of a pixel on [-1, 1].


def held_out(data: Data, validation: Validation) -> Data:
    """Where a data set's held-out images are: drawn ones under the validation's seed; of files the first in the order
    of seed 0, own data in the validation's file and others in theirs. They do not depend on the run's data seed."""
    own = data not in validation.also.values()
    seed = 0 if data.source == "latents" else validation.seed
    return replace(data, seed=seed, path=own and validation.path or data.path)


def data_sets(run: Run) -> dict[str, Data]:
    """The data sets a run can be measured on, by name: its own, then its study's `validation.also`."""
    return {run.data.name: run.data, **run.validation.also}


def with_files(run: Run, files: dict[str, str]) -> Run:
    """The run with further data sets, {label: file}. Raises UserError at a taken label or an unreadable file."""
    names = {name for label, data in data_sets(run).items() for name in (label, data.name)}
    also = dict(run.validation.also)
    for label, path in files.items():
        option = f"--dataset {label}={path}"
        if label in names:
            raise UserError(f"{option}: {label} is a data set of the run's study; give the file another label")
        if not LABEL.fullmatch(label):
            raise UserError(f"{option}: a label is of letters, digits, '.', '-' and '_', as in coco2014={path}")
        if not Path(path).is_file():
            raise UserError(f"{option}: there is no such file")
        source = Latents(path)
        also[label] = Data(label, "latents", path=path, **{name: getattr(source, name) for name in SHAPE})
    return replace(run, validation=replace(run.validation, also=also))


class HeldOut:
    """n held-out images, by position. seed: of all noise. Raises UserError when there are fewer, or of other shapes."""

    def __init__(self, data: Data, validation: Validation, n: int, seed: int, device: torch.device):
        self.name, self.n, self.seed, self.device = data.name, n, seed, device
        self.config = held_out(data, validation)
        self.source = open_source(self.config)
        check_enough(self.config.path or data.name, self.source.n_images, n)
        self.pixels = self.source.pixels
        self.dims = self.source.channels * self.source.resolution**2  # Values of an image.
        self.unit = "bits per dimension" if self.pixels else "nats per dimension"

    @property
    def settings(self) -> dict[str, str]:  # What identifies the images of a file, besides the data set's name.
        return {"file": self.source.fingerprint} if self.source.fingerprint else {}

    def in_unit(self, nats: np.ndarray) -> np.ndarray:
        return nats / math.log(2) if self.pixels else nats

    def images(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, C, R, R] and texts at positions index [B], on the device."""
        x0, text = self.source.batch(index)
        return x0.to(self.device), text.to(self.device)

    def levels(self, x0: Tensor) -> Tensor:
        """Pictures rounded to 8-bit levels, also beyond black and white, as in training; back to [-1, 1]."""
        return ((x0 + 1) / BIN).round() * BIN - 1

    def noise(self, stream: str, index: Tensor, like: Tensor) -> Tensor:
        """Standard normal of the shape of `like` [B, ...], a function of (seed, stream, position)."""
        return draws.normal(draws.key(self.seed, stream), index, like[0].numel()).view(like.shape).to(self.device)

    def uniform(self, stream: str, index: Tensor, like: Tensor) -> Tensor:
        """Uniform in (0, 1), likewise."""
        return draws.uniform(draws.key(self.seed, stream), index, like[0].numel()).view(like.shape).to(self.device)

    def signs(self, stream: str, index: Tensor, like: Tensor) -> Tensor:
        """-1 or 1 with equal chance, likewise."""
        return self.uniform(stream, index, like).sub_(0.5).sign_()
