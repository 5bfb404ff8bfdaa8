"""Feature extractors by name, as torch-fidelity holds them: its own from a local file of weights, and ours."""

from __future__ import annotations

import hashlib
import sys
from typing import Callable

import torch
from torch import Tensor

from ..config import Data, Evaluation
from ..distributed.ranks import Ranks
from .miniature_reader import NAME, RECIPE, caption_reader
from .weights import check_weights, needed


def extractor(how: Evaluation, data: Data, ranks: Ranks) -> tuple[Callable[[Tensor], Tensor], str, int]:
    """features(uint8 [B, C, R, R]) float32 [B, F]; the name with the hash of the weights; and F.

    data: of the run, for our own extractor learns from it. Raises UserError as `check_weights` does.
    """
    check_weights(how)
    torch_fidelity()
    name, weights = how.extractor, needed(how)
    if name == NAME:
        reader, full_name = caption_reader(data, ranks)
        made = registered(reader)
    else:
        full_name = f"{name} {hashlib.sha256(weights.read_bytes()).hexdigest()[:12]}"
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

        layer = FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric("fid")
        made = _create(name, layer, feature_extractor_weights_path=str(weights)).to(ranks.device)

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        return made(x if x.shape[1] == 3 or name == NAME else x.expand(-1, 3, -1, -1))[0].float()

    channels = data.channels if name == NAME else 3
    width = features(
        torch.zeros(1, channels, data.resolution, data.resolution, dtype=torch.uint8, device=ranks.device)
    ).shape[1]
    return features, full_name, width


def registered(reader: torch.nn.Module):
    """Our reader as an extractor of torch-fidelity: calculate_metrics(feature_extractor="caption-reader") finds it by
    name."""
    torch_fidelity()
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class Reader(FeatureExtractorBase):
        def __init__(self, name, features_list, **options):
            super().__init__(name, features_list)
            self.reader = reader

        @staticmethod
        def get_provided_features_list():
            return (str(RECIPE["features"]),)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return str(RECIPE["features"])

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, x):
            return (self.reader(x),)

    FEATURE_EXTRACTORS_REGISTRY[NAME] = Reader  # its register_ function refuses a name's second extractor
    return _create(NAME, str(RECIPE["features"]))


def _create(name: str, layer: str, **options):
    from torch_fidelity.utils import create_feature_extractor

    return create_feature_extractor(name, [layer], cuda=False, verbose=False, **options)


def torch_fidelity():
    """The module torch_fidelity, imported late: it takes seconds, and torchvision with it."""
    _torchvision()
    import torch_fidelity

    return torch_fidelity


def _torchvision():
    """torchvision's wheel for CUDA, beside a torch for CPU, has no compiled operators, and its import stops where it
    describes two of them. With their schemas defined the rest of it works, and nothing here calls them."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        import torchvision  # noqa: F401
