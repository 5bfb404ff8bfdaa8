"""Captions dropped at random in training, so that a model learns the velocity without a caption too: what
classifier-free guidance needs (Ho and Salimans, arXiv 2207.12598, algorithm 1)."""

import torch
from torch import Tensor

from . import draws


def no_caption(text: Tensor) -> Tensor:
    """The encoding of no caption, shaped as `text`: the id 0, which every source keeps for it, or features of 0."""
    return torch.zeros_like(text)


class Dropout:
    """Drops the caption of image number i of a run with a given probability: a pure function of (seed, i)."""

    def __init__(self, seed: int, probability: float):
        self.key, self.probability = draws.key(seed, "caption dropout"), probability

    def __call__(self, index_B: Tensor, text: Tensor) -> Tensor:
        """`text` [B, T, ...] of the images numbered index [B], with some of the captions dropped."""
        if not self.probability:
            return text
        dropped = draws.uniform(self.key, index_B, 1)[:, 0] < self.probability
        return torch.where(dropped.view(-1, *[1] * (text.dim() - 1)), no_caption(text), text)
