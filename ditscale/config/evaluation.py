"""What finished runs are measured on, and how."""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

from ..errors import UserError, one_of
from ..units import number, whole
from .data import Data
from .mapping import NonNegativeInt, PositiveInt, Problems, Seed, key_name

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
    """How a metric is measured on a finished run (docs/evaluation.md); what does not concern it has no effect."""

    n: NonNegativeInt = 0  # Held-out images. 0: validation.n.
    t_min: Annotated[float, partial(number, low=1e-6, high=0.5)] = 0.01  # vlb: The bound's end near the data.
    trace: Literal["hutchinson", "exact"] = "hutchinson"  # likelihood: How the divergence is computed.
    probes: PositiveInt = 1  # likelihood: Hutchinson probes of each image.
    tolerance: Annotated[float, partial(number, low=1e-9, high=0.1)] = 1e-3  # likelihood: Of the solver's error.
    sampler: Literal["heun", "euler"] = "heun"
    steps: PositiveInt = 32  # Steps of the sampler.
    guidance: Annotated[float, partial(number, low=0, high=100)] = 1.0  # Classifier-free guidance scale; 1 disables it.
    extractor: Annotated[str, partial(one_of, valid=EXTRACTORS)] = EXTRACTORS[0]  # fid: The feature extractor.
    weights: str = ""  # fid: The file with the extractor's weights; ditscale's own needs none.
    decoder: str = ""  # fid and samples of latents: The directory of the VAE that encoded them.
    few: bool = False  # fid: Whether fewer than ENOUGH_FID_IMAGES are allowed.

    def passes(self, metric: str) -> float:
        """The cost of measuring one image by a metric, in forward passes of the model."""
        # A solve at the default tolerance takes 52 evaluations on the miniature (docs/measured/evaluation.md), each
        # a forward pass and, for each probe, a backward pass of twice its cost.
        known = {"val_loss": 4, "vlb": 1, "likelihood": 60 * (1 + 2 * self.probes)}
        return known.get(metric, self.model_evaluations)

    @property
    def model_evaluations(self) -> int:
        """Evaluations of the model that a sample takes (diffusion/rectified_flow.py)."""
        return (2 * self.steps - 1 if self.sampler == "heun" else self.steps) * (2 if self.guidance != 1 else 1)

    def problems(self) -> Problems:
        if self.n == 1:
            yield "n", "1 image has no standard error; use 2 or more"

    def check_guidance(self, caption_dropout: float, where: str):
        """Raise UserError where models that always saw captions would be guided."""
        if self.guidance != 1 and not caption_dropout:
            needs = "needs runs that were trained without some of their captions"
            key, plan = key_name(where, "guidance"), "plan a study with recipe.caption_dropout=0.1"
            raise UserError(f"{key}: {self.guidance:g} {needs}; {plan}")

    def check_fid(self, data: str, pixels: bool, n: int, where: str):
        """Raise UserError where there can be no FID of n images of the data set named `data`, which are pictures if
        `pixels`, else latents. where: the place in a study, "" for the options of a command."""
        choose = f"+{where}.extractor=" if where else "--extractor "
        decoder = f"+{where}.decoder=DIR" if where else "--decoder DIR (+evaluation.fid.decoder=DIR in a study)"
        few, own, key = f"{where}.few=true" if where else "--few", EXTRACTORS[0], key_name(where, "n")
        if not pixels and not self.decoder:
            needs = f"{data} is latents, and FID needs pictures"
            raise UserError(f"fid: {needs}; name the directory of their VAE with {decoder}")
        if not pixels and self.extractor == own:
            learns = f"the {own} learns from pictures, and {data} is latents"
            raise UserError(f"fid: {learns}; choose another extractor, for example {choose}clip-vit-l-14")
        if n < MIN_FID_IMAGES:
            raise UserError(f"{key}: {n} images give no FID; use {ENOUGH_FID_IMAGES} or more")
        if n < ENOUGH_FID_IMAGES and not self.few:
            too_few = f"{n} images are too few for a meaningful FID"
            raise UserError(f"{key}: {too_few}; use {ENOUGH_FID_IMAGES} or more, or add {few}")
