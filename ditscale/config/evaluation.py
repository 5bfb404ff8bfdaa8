"""What finished runs are measured on, and how."""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from ..errors import UserError, one_of
from ..units import number, whole
from .data import Data
from .mapping import NonNegativeInt, PositiveInt, Seed, key_name

METRICS = ("val_loss", "vlb", "likelihood", "fid")
# The first extractor is ditscale's own (evaluate/extractor.py).
EXTRACTORS = ("caption-reader", "inception-v3-compat", "clip-vit-l-14", "vgg16")
MIN_FID_IMAGES = 4  # An FID needs halves of two images, and three neighbours of each image.
ENOUGH_FID_IMAGES = 2048  # An FID of fewer images says more about their number than about the run.


@dataclass(frozen=True)
class Validation:
    """The fixed (image, noise, timestep) triples on which every run of a study is measured."""

    n: Annotated[int, partial(whole, low=2, high=100_000_000)] = 2048
    seed: Seed = 12345
    batch_size: PositiveInt = 256
    path: str = ""  # The file of held-out images, for sources that read files.
    also: dict[str, Data] = field(default_factory=dict)  # Out-of-domain data sets, by label.


@dataclass(frozen=True)
class Evaluation:
    """How a metric is measured on a finished run (docs/evaluation.md). What does not concern the metric has no effect
    on it."""

    n: NonNegativeInt = 0  # Held-out images. 0: validation.n.
    t_min: Annotated[float, partial(number, low=1e-6, high=0.5)] = 0.01  # vlb: The bound's end near the data.
    trace: Annotated[str, partial(one_of, valid=("hutchinson", "exact"))] = (
        "hutchinson"  # likelihood: How the divergence is computed.
    )
    probes: PositiveInt = 1  # likelihood: Hutchinson probes of each image.
    tolerance: Annotated[float, partial(number, low=1e-9, high=0.1)] = (
        1e-3  # likelihood: Error tolerance of the solver.
    )
    sampler: Annotated[str, partial(one_of, valid=("heun", "euler"))] = "heun"
    steps: PositiveInt = 32  # Steps of the sampler.
    guidance: Annotated[float, partial(number, low=0, high=100)] = 1.0  # Classifier-free guidance scale; 1 disables it.
    extractor: Annotated[str, partial(one_of, valid=EXTRACTORS)] = EXTRACTORS[0]  # fid: The feature extractor.
    weights: str = ""  # fid: The file with the extractor's weights; ditscale's own needs none.
    decoder: str = ""  # fid and samples of latents: The directory of the VAE that encoded them.
    few: bool = False  # fid: Whether fewer than ENOUGH_FID_IMAGES are allowed.

    @property
    def model_evaluations(self) -> int:
        """Evaluations of the model that a sample takes (diffusion/rectified_flow.py)."""
        return (2 * self.steps - 1 if self.sampler == "heun" else self.steps) * (2 if self.guidance != 1 else 1)

    def check(self, where: str):
        if self.n == 1:
            raise UserError(f"{key_name(where, 'n')}: 1 image has no standard error; use 2 or more")

    def check_guidance(self, caption_dropout: float, where: str):
        """Raise UserError where models that always saw captions would be guided."""
        if self.guidance != 1 and not caption_dropout:
            raise UserError(
                f"{key_name(where, 'guidance')}: {self.guidance:g} needs runs that were trained without some of their "
                "captions; plan a study with recipe.caption_dropout=0.1"
            )

    def check_fid(self, data: str, pixels: bool, n: int, where: str):
        """Raise UserError where there can be no FID of n images of the data set named `data`. pixels: whether these are
        pictures; otherwise they are latents. where: as in `check`."""
        choose = f"+{where}.extractor=" if where else "--extractor "
        decoder = f"+{where}.decoder=DIR" if where else "--decoder DIR (+evaluation.fid.decoder=DIR in a study)"
        if not pixels and not self.decoder:
            raise UserError(
                f"fid: {data} is latents, and FID needs pictures; name the directory of their VAE with {decoder}"
            )
        if not pixels and self.extractor == EXTRACTORS[0]:
            raise UserError(
                f"fid: the {EXTRACTORS[0]} learns from pictures, and {data} is latents; choose another extractor, for "
                f"example {choose}clip-vit-l-14"
            )
        if n < MIN_FID_IMAGES:
            raise UserError(f"{key_name(where, 'n')}: {n} images give no FID; use {ENOUGH_FID_IMAGES} or more")
        if n < ENOUGH_FID_IMAGES and not self.few:
            few = f"{where}.few=true" if where else "--few"
            raise UserError(
                f"{key_name(where, 'n')}: {n} images are too few for a meaningful FID; use {ENOUGH_FID_IMAGES} or "
                f"more, or add {few}"
            )
