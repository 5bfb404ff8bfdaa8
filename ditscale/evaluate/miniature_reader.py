"""A feature extractor that we train ourselves, for machines without others' weights: it reads captions off pictures.

A small convolutional network learns to name the words of a picture's caption; its last hidden layer is the features.
It is trained on the study's own training images under a seed of its own, once: the weights stay in the cache
(DITSCALE_CACHE, else ~/.cache/ditscale), and results name their hash. Scores from different extractors are not
comparable, nor are they comparable with Inception FID.
"""

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
from ..logs import log
from ..naming import cache, digest
from .to_pictures import as_bytes

NAME = "caption-reader"
FEATURES, STEPS, BATCH, RATE, SEED = 64, 1500, 64, 3e-3, 1_000_003
# What the name of the cached file depends on. A change of the network or its training takes a new version.
RECIPE = {"version": 1, "features": FEATURES, "steps": STEPS, "batch": BATCH, "rate": RATE, "seed": SEED}


class CaptionReader(nn.Module):
    """Pictures uint8 [B, C, R, R] to features [B, 64]; `logits` turns those into words [B, T, V]."""

    def __init__(self, channels: int, text_length: int, text_vocab: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(64, 96, 3, stride=2, padding=1), nn.GELU(),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * 96, FEATURES), nn.GELU(),
        )  # fmt: skip
        self.words = nn.Unflatten(1, (text_length, text_vocab))
        self.last = nn.Linear(FEATURES, text_length * text_vocab)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.float() / 127.5 - 1)

    def logits(self, x: Tensor) -> Tensor:
        """[B, T, V]."""
        return self.words(self.last(self(x)))


def caption_reader(data: Data, ranks: Ranks) -> tuple[CaptionReader, str]:
    """The reader of a data set's captions, from the cache or trained now; and its name with the hash of its weights.

    Raises UserError for data without pictures or without words.
    """
    if data.channels not in (1, 3) or not data.text_vocab:
        raise UserError(
            f"{NAME}: {data.name} has no pictures with words as captions; choose another --extractor, with --weights "
            "FILE"
        )
    path = cache() / f"{NAME}-{digest({**RECIPE, 'data': plain(replace(data, name='', seed=0))})[:12]}.pt"
    reader = CaptionReader(data.channels, data.text_length, data.text_vocab)
    if ranks.first:
        make_directory(path.parent)
        with open(path.with_suffix(".lock"), "a") as lock:
            with suppress(OSError):  # Without locks, several processes train it, with equal results.
                fcntl.flock(lock, fcntl.LOCK_EX)  # Of runs that end at once, one trains it and the others wait.
            if not _load(reader, path):
                log.info(f"training the feature extractor {NAME} (half a minute, once): {path}")
                train(reader, data)
                buffer = io.BytesIO()
                torch.save(reader.state_dict(), buffer)
                write_bytes(path, buffer.getvalue())
    for weights in reader.state_dict().values():  # All take those of rank 0, in case two machines round differently.
        if not ranks.first:
            weights.zero_()
        ranks.all_reduce(weights)
    sha256 = hashlib.sha256(b"".join(w.numpy().tobytes() for w in reader.state_dict().values()))
    return reader.to(ranks.device).eval().requires_grad_(False), f"{NAME} {sha256.hexdigest()[:12]}"


def train(reader: CaptionReader, data: Data):
    """Train in place, from fixed initial weights, on the CPU: half a minute."""
    source = open_source(replace(data, seed=SEED))
    with torch.random.fork_rng([]):
        torch.manual_seed(SEED)
        for module in reader.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        x, text = source.batch(torch.arange(BATCH) + step * BATCH)
        F.cross_entropy(reader.logits(as_bytes(x)).flatten(0, 1), text.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()


def _load(reader: CaptionReader, path: Path) -> bool:
    try:
        reader.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # The file is missing or cut short, which raises any of half a dozen types.
        return False
    return True
