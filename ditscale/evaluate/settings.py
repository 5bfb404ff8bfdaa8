"""What to measure and how: the options of `ditscale evaluate`."""

from __future__ import annotations

from dataclasses import dataclass

from .. import units
from ..diffusion.sampler import SAMPLERS
from ..diffusion.vlb import T_MIN
from ..errors import one_of
from .likelihood import TRACES

METRICS = ("val_loss", "vlb", "likelihood", "fid")
EXTRACTORS = ("caption-reader", "inception-v3-compat", "clip-vit-l-14", "vgg16")  # the first is ours (reader.py)


@dataclass(frozen=True)
class Settings:
    """Raises UserError, naming the option, at a value that cannot be."""

    metrics: tuple[str, ...] = ("val_loss",)
    datasets: tuple[str, ...] = ()  # names or labels; none: the run's own and all of its study's validation.also
    n: int | None = None  # images; None: validation.n of the study
    seed: int | None = None  # of the noise; None: validation.seed, so that runs of a study share it
    batch_size: int | None = None  # images in a chunk; None: validation.batch_size
    t_min: float = T_MIN  # the data's end of the bound
    trace: str = "hutchinson"
    probes: int = 1
    tolerance: float = 1e-3  # of the likelihood's solver
    sampler: str = "heun"
    steps: int = 32
    samples: int = 16  # images to draw for people to look at
    extractor: str = EXTRACTORS[0]  # of the features that FID, KID, precision and recall compare
    weights: str = ""  # the file with its weights, but for ours
    few: bool = False  # an FID of fewer than fid.LEAST images, whatever it is worth

    def __post_init__(self):
        for name in self.metrics:
            one_of(name, METRICS, "--metrics")
        for name, low in (("n", 2), ("seed", 0), ("batch_size", 1), ("probes", 1), ("steps", 1), ("samples", 0)):
            if getattr(self, name) is not None:
                units.whole(getattr(self, name), f"--{name.replace('_', '-')}", low=low)
        one_of(self.trace, TRACES, "--trace")
        one_of(self.sampler, SAMPLERS, "--sampler")
        one_of(self.extractor, EXTRACTORS, "--extractor")
        units.number(self.t_min, "--t-min", low=1e-6, high=0.5)
        units.number(self.tolerance, "--tolerance", low=1e-9, high=0.1)
