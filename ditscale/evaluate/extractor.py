"""Feature extractors by name: torch-fidelity's, from a local file of weights; and ours, a small convolutional network
that learns to read captions off the study's own pictures, once: the weights stay in the cache (DITSCALE_CACHE, else
~/.cache/ditscale), and results name their hash. Scores from different extractors are not comparable."""

import fcntl
import hashlib
import io
import sys
from contextlib import suppress
from dataclasses import replace
from types import ModuleType
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Data, Evaluation, plain
from ..data.source import open_source
from ..distributed.ranks import Ranks
from ..errors import UserError
from ..files import make_directory, write_bytes
from ..logs import log
from ..naming import cache, digest
from .decoder import as_bytes
from .weights import check_weights, weights_path

NAME = "caption-reader"
FEATURES, STEPS, BATCH, RATE, SEED = 64, 1500, 64, 3e-3, 1_000_003
# What the name of the cached file depends on. A change of the network or its training takes a new version.
RECIPE = {"version": 1, "features": FEATURES, "steps": STEPS, "batch": BATCH, "rate": RATE, "seed": SEED}


def load_extractor(how: Evaluation, data: Data, ranks: Ranks) -> tuple[Callable[[Tensor], Tensor], str, int]:
    """features(uint8 [B, C, R, R]) float32 [B, F]; the name with the hash of the weights; and F. data: the run's own
    data set, from which our extractor learns. Raises UserError as `check_weights` does."""
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
    """The module torch_fidelity, imported late because it takes seconds, and torchvision with it: also a wheel for CUDA
    with a torch for CPU, whose import fails until the schemas of two operators, which nothing calls, are defined."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
        import torchvision  # noqa: F401
    import torch_fidelity

    return torch_fidelity


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
        return self.words(self.last(self(x)))


def caption_reader(data: Data, ranks: Ranks) -> tuple[CaptionReader, str]:
    """The reader, from the cache or trained now; its name with a hash. Raises UserError without pictures or words."""
    if data.channels not in (1, 3) or not data.text_vocab:
        another = "choose another --extractor, with --weights FILE"
        raise UserError(f"{NAME}: {data.name} has no pictures with words as captions; {another}")
    path = cache() / f"{NAME}-{digest({**RECIPE, 'data': plain(replace(data, name='', seed=0))})[:12]}.pt"
    reader = CaptionReader(data.channels, data.text_length, data.text_vocab)
    if ranks.first:
        make_directory(path.parent)
        with open(path.with_suffix(".lock"), "a") as lock:
            with suppress(OSError):  # Without locks, several processes train it, with equal results.
                fcntl.flock(lock, fcntl.LOCK_EX)  # Of runs that end at once, one trains it and the others wait.
            try:
                reader.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            except Exception:  # The file is missing or cut short, which raises any of half a dozen types.
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
