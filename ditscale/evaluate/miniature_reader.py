"""A feature extractor that we train ourselves, where nobody's weights can be had: it reads captions off pictures.

A small convolutional network learns to name the words of a picture's caption; its last hidden layer is the features.
The recipe is all here, its data are the study's own training images under a seed of their own, and it is trained once:
the weights lie in the cache (DITSCALE_CACHE, else ~/.cache/ditscale), and results name their hash. Numbers of two
extractors cannot be compared, nor can these with Inception's.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Data, plain
from ..data.open import open_source
from ..distributed.ranks import Ranks
from ..errors import UserError
from ..files import make_directory, write_bytes
from ..naming import cache, digest
from .to_pictures import as_bytes

NAME = "caption-reader"
RECIPE = {"version": 1, "features": 64, "steps": 1500, "batch": 64, "rate": 3e-3, "seed": 1_000_003}


class CaptionReader(nn.Module):
    """Pictures uint8 [B, C, R, R] to features [B, 64]; `words` turns those into logits [B, T, V]."""

    def __init__(self, channels: int, text_length: int, text_vocab: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(64, 96, 3, stride=2, padding=1), nn.GELU(),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * 96, RECIPE["features"]), nn.GELU(),
        )  # fmt: skip
        self.words = nn.Unflatten(1, (text_length, text_vocab))
        self.last = nn.Linear(RECIPE["features"], text_length * text_vocab)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.float() / 127.5 - 1)

    def loss(self, x: Tensor, text: Tensor) -> Tensor:
        """Cross-entropy of the caption's words, the mean over them, in nats."""
        return F.cross_entropy(self.words(self.last(self(x))).flatten(0, 1), text.flatten())


def caption_reader(data: Data, ranks: Ranks) -> tuple[CaptionReader, str]:
    """The reader of a data set's captions, from the cache or trained now; and its name with the hash of its weights.

    Raises UserError for data without pictures or without words.
    """
    if data.channels not in (1, 3) or not data.text_vocab:
        raise UserError(
            f"{NAME}: {data.name} is not pictures with words as captions; name another --extractor, with --weights FILE"
        )
    path = cache() / f"{NAME}-{digest({**RECIPE, 'data': plain(replace(data, name='', seed=0))})[:12]}.pt"
    reader = CaptionReader(data.channels, data.text_length, data.text_vocab)
    if ranks.first:
        make_directory(path.parent)
        with open(path.with_suffix(".lock"), "a") as lock:
            with suppress(OSError):  # no locks here: then each trains it, and comes to the same
                fcntl.flock(lock, fcntl.LOCK_EX)  # of runs that end at once, one trains it and the others wait
            if not _load(reader, path):
                train(reader, data)
                made = io.BytesIO()
                torch.save(reader.state_dict(), made)
                write_bytes(path, made.getvalue())
    for weights in reader.state_dict().values():  # those of rank 0, should two machines round differently
        if not ranks.first:
            weights.zero_()
        ranks.all_reduce(weights)
    sums = hashlib.sha256(b"".join(w.numpy().tobytes() for w in reader.state_dict().values()))
    return reader.to(ranks.device).eval().requires_grad_(False), f"{NAME} {sums.hexdigest()[:12]}"


def train(reader: CaptionReader, data: Data):
    """Train in place, from a fixed start, on the CPU: half a minute."""
    source = open_source(replace(data, seed=RECIPE["seed"]))
    with torch.random.fork_rng([]):
        torch.manual_seed(RECIPE["seed"])
        for module in reader.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=RECIPE["rate"])
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, RECIPE["steps"])
    for step in range(RECIPE["steps"]):
        x, text = source.batch(torch.arange(RECIPE["batch"]) + step * RECIPE["batch"])
        reader.loss(as_bytes(x), text).backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()


def _load(reader: CaptionReader, path: Path) -> bool:
    try:
        reader.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # it is not there, or a cut file, which raises any of half a dozen types
        return False
    return True
