"""What finished runs are measured on, and how."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from .. import units
from ..errors import UserError, one_of
from .data import Data

METRICS = ("val_loss", "vlb", "likelihood", "fid")
TRACES = ("hutchinson", "exact")
SAMPLERS = ("heun", "euler")
# the first is ours (evaluate/miniature_reader.py)
EXTRACTORS = ("caption-reader", "inception-v3-compat", "clip-vit-l-14", "vgg16")
LEAST = 4  # images of an FID at all: halves of two, and three neighbours of each
FEWEST = 2048  # images of an FID: fewer give one that says more about their number than about the run


@dataclass(frozen=True)
class Validation:
    """The fixed (image, noise, timestep) triples on which every run of a study is measured."""

    n: int = 2048
    seed: int = 12345
    batch_size: int = 256
    path: str = ""  # file of held-out images, for sources that read files
    also: dict[str, Data] = field(default_factory=dict)  # out-of-domain data sets, by label

    def check(self, where: str):
        units.whole(self.n, f"{where}.n", low=2, high=100_000_000)
        units.whole(self.seed, f"{where}.seed", low=0, high=2**31 - 1)
        units.whole(self.batch_size, f"{where}.batch_size", low=1)


@dataclass(frozen=True)
class Evaluation:
    """How a metric is measured on a finished run (docs/evaluation.md). What does not concern the metric has no effect
    on it."""

    n: int = 0  # held-out images; 0: validation.n
    t_min: float = 0.01  # vlb: the data's end of the bound
    trace: str = "hutchinson"  # likelihood: how the divergence is computed
    probes: int = 1  # likelihood: of the trace, for each image
    tolerance: float = 1e-3  # likelihood: of the solver
    sampler: str = "heun"
    steps: int = 32  # of the sampler
    guidance: float = 1.0  # of the sampler, classifier-free: 1 is none
    extractor: str = EXTRACTORS[0]  # fid: of the features
    weights: str = ""  # fid: the file with the extractor's weights, but for ours
    decoder: str = ""  # fid and samples of latents: the directory of the VAE that they came from
    few: bool = False  # fid: of fewer than FEWEST images, whatever it is worth

    def check(self, where: str):
        """`where`: the place of the keys in a study; "" where they are options of a command."""
        at = {f.name: f"{where}.{f.name}" if where else f"--{f.name.replace('_', '-')}" for f in fields(self)}
        for name, low in (("n", 0), ("probes", 1), ("steps", 1)):
            units.whole(getattr(self, name), at[name], low=low)
        if self.n == 1:
            raise UserError(f"{at['n']}: 1 image has no standard error; use 2 or more")
        for name, names in (("trace", TRACES), ("sampler", SAMPLERS), ("extractor", EXTRACTORS)):
            one_of(getattr(self, name), names, at[name])
        units.number(self.guidance, at["guidance"], low=0, high=100)
        units.number(self.t_min, at["t_min"], low=1e-6, high=0.5)
        units.number(self.tolerance, at["tolerance"], low=1e-9, high=0.1)
