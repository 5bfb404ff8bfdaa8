"""Weights of other people's feature extractors: fetched where there is a network, checked, kept in the cache. Without
torch.

Compute nodes never fetch: they find the file in the cache, or where a study's `weights` says.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ..config import Evaluation
from ..errors import UserError
from ..files import make_directory, remove
from ..naming import cache

PIECE = 2**20  # bytes at a time
DECODER = ("config.json", "diffusion_pytorch_model.safetensors")  # what the directory of a VAE has


@dataclass(frozen=True)
class Weights:
    """A file: its name, where its authors keep it, and how its SHA-256 begins: as they say it in the name or the
    address."""

    name: str
    url: str
    sha256: str


_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
_CLIP = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
WEIGHTS = {  # by torch-fidelity's names of extractors
    "inception-v3-compat": Weights(
        "weights-inception-2015-12-05-6726825d.pth", f"{_FIDELITY}weights-inception-2015-12-05-6726825d.pth", "6726825d"
    ),
    "clip-vit-l-14": Weights(
        f"ViT-L-14-{_CLIP[:8]}.pt", f"https://openaipublic.azureedge.net/clip/models/{_CLIP}/ViT-L-14.pt", _CLIP
    ),
    "vgg16": Weights("vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
}


def kept(extractor: str) -> Path:
    """Where an extractor's weights are, or would be, in the cache."""
    return cache() / "weights" / WEIGHTS[extractor].name


def needed(how: Evaluation) -> Path | None:
    """The file of weights that an FID takes; None where the extractor is ours."""
    return Path(how.weights or kept(how.extractor)) if how.extractor in WEIGHTS else None


def check_weights(how: Evaluation):
    """Raise UserError where an FID's file of weights is not there: nothing is looked for on a network."""
    path = needed(how)
    if path and not path.is_file():
        raise UserError(
            f"{how.extractor}: its weights are not there ({path}); `ditscale fetch-weights {how.extractor}` gets them "
            "on a machine with internet, or name the file: --weights FILE (evaluation.fid.weights of a study)"
        )


def fetch_weights(extractor: str, target: Path | None = None, url: str = "") -> Path:
    """Download an extractor's weights to the cache or to `target`, unless they are there; returns the path.

    url: of a mirror; the hash is checked all the same. Raises UserError, and leaves no file, when that fails.
    """
    weights = WEIGHTS[extractor]
    path, url = Path(target or kept(extractor)), url or weights.url
    if path.is_file() and _sha256(path).startswith(weights.sha256):
        return path
    make_directory(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with urllib.request.urlopen(url, timeout=60) as source, open(beside, "wb") as file:
            while piece := source.read(PIECE):
                file.write(piece)
        found = _sha256(beside)
        if not found.startswith(weights.sha256):
            raise UserError(
                f"{url}: is not the file it should be: its SHA-256 begins with {found[:8]}, not {weights.sha256[:8]}; "
                "nothing was kept"
            )
        os.replace(beside, path)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(
            f"{url}: cannot be fetched ({reason}); on a machine with internet, then copy it to {path}"
        ) from None
    finally:
        remove(beside)
    return path


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
