"""Feature extractors by name: torch-fidelity's, from a local file of weights, and ours."""

import hashlib
import sys
from types import ModuleType
from typing import Callable

import torch
from torch import Tensor

from ..config import Data, Evaluation
from ..distributed.ranks import Ranks
from .miniature_reader import caption_reader
from .weights import check_weights, weights_path


def load_extractor(how: Evaluation, data: Data, ranks: Ranks) -> tuple[Callable[[Tensor], Tensor], str, int]:
    """features(uint8 [B, C, R, R]) float32 [B, F]; the name with the hash of the weights; and F.

    data: the run's own data set, from which our extractor learns. Raises UserError as `check_weights` does.
    """
    check_weights(how)
    path = weights_path(how)
    forward: Callable[[Tensor], Tensor]
    if path is None:
        forward, name = caption_reader(data, ranks)
        channels = data.channels
    else:
        torch_fidelity()
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
        from torch_fidelity.utils import create_feature_extractor

        name = f"{how.extractor} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        layer = FEATURE_EXTRACTORS_REGISTRY[how.extractor].get_default_feature_layer_for_metric("fid")
        options = {"cuda": False, "verbose": False, "feature_extractor_weights_path": str(path)}
        network = create_feature_extractor(how.extractor, [layer], **options).to(ranks.device)
        channels, forward = 3, lambda x: network(x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1))[0].float()
    features = torch.no_grad()(forward)
    shape = 1, channels, data.resolution, data.resolution
    width = features(torch.zeros(shape, dtype=torch.uint8, device=ranks.device)).shape[1]
    return features, name, width


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
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", schema)
        import torchvision  # noqa: F401
