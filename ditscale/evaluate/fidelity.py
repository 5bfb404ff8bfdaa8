"""torch-fidelity, imported late: it takes seconds, and torchvision with it."""

from __future__ import annotations

import sys

import torch


def torch_fidelity():
    """The module."""
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
