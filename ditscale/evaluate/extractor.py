"""Feature extractors by name, in torch-fidelity's interface: its own, from a local file of weights, and ours."""

from __future__ import annotations

import hashlib
import sys
from types import ModuleType
from typing import Any, Callable

import torch
from torch import Tensor, nn

from ..config import Data, Evaluation
from ..distributed.ranks import Ranks
from .miniature_reader import FEATURES, NAME, caption_reader
from .weights import check_weights, weights_path


def load_extractor(how: Evaluation, data: Data, ranks: Ranks) -> tuple[Callable[[Tensor], Tensor], str, int]:
    """features(uint8 [B, C, R, R]) float32 [B, F]; the name with the hash of the weights; and F.

    data: the run's own data set, from which our extractor learns. Raises UserError as `check_weights` does.
    """
    check_weights(how)
    torch_fidelity()
    name, path = how.extractor, weights_path(how)
    if path is None:
        reader, full_name = caption_reader(data, ranks)
        network, channels = register(reader), data.channels
    else:
        full_name = f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

        layer = FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric("fid")
        network, channels = _create(name, layer, feature_extractor_weights_path=str(path)).to(ranks.device), 3

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        return network(x if x.shape[1] == channels else x.expand(-1, channels, -1, -1))[0].float()

    shape = 1, channels, data.resolution, data.resolution
    width = features(torch.zeros(shape, dtype=torch.uint8, device=ranks.device)).shape[1]
    return features, full_name, width


def register(reader: nn.Module) -> nn.Module:
    """Our reader as an extractor of torch-fidelity: calculate_metrics(feature_extractor="caption-reader") finds it by
    name."""
    torch_fidelity()
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class Reader(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **options: Any):
            super().__init__(name, features_list)
            self.reader = reader

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return (str(FEATURES),)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return str(FEATURES)

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (self.reader(x),)

    FEATURE_EXTRACTORS_REGISTRY[NAME] = Reader  # torch-fidelity's own register function refuses to replace a name.
    return _create(NAME, str(FEATURES))


def _create(name: str, layer: str, **options: Any) -> nn.Module:
    from torch_fidelity.utils import create_feature_extractor

    return create_feature_extractor(name, [layer], cuda=False, verbose=False, **options)


def torch_fidelity() -> ModuleType:
    """The module torch_fidelity, imported late because it takes seconds, and torchvision with it."""
    _import_torchvision()
    import torch_fidelity

    return torch_fidelity


def _import_torchvision():
    """Import torchvision, also a wheel for CUDA with a torch for CPU. Such a wheel has no compiled operators, and its
    import fails where it describes two of them. Once their schemas are defined the rest works; nothing here calls
    them."""
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
