"""Weights of other people's feature extractors: fetched where there is a network, checked, cached. Without torch."""

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from ..config import Evaluation
from ..errors import UserError
from ..files import make_directory, remove
from ..naming import cache

DECODER = ("config.json", "diffusion_pytorch_model.safetensors")  # Files in the directory of a VAE.


class Weights(NamedTuple):
    name: str  # of the file
    url: str  # its authors'
    sha256: str  # the beginning, which they publish in name or URL


_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
_OPENAI = "https://openaipublic.azureedge.net/clip/models/"
_CLIP = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
WEIGHTS = {  # By torch-fidelity's names of extractors.
    "inception-v3-compat": Weights(_INCEPTION, f"{_FIDELITY}{_INCEPTION}", "6726825d"),
    "clip-vit-l-14": Weights(f"ViT-L-14-{_CLIP[:8]}.pt", f"{_OPENAI}{_CLIP}/ViT-L-14.pt", _CLIP),
    "vgg16": Weights("vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
}


def cached(extractor: str) -> Path:
    return cache() / "weights" / WEIGHTS[extractor].name


def weights_path(how: Evaluation) -> Path | None:
    """The file of weights that an FID needs; None where the extractor is ours."""
    return Path(how.weights or cached(how.extractor)) if how.extractor in WEIGHTS else None


def check_weights(how: Evaluation):
    """Raise UserError where an FID's file of weights is missing. Nothing is fetched from a network."""
    path = weights_path(how)
    if path and not path.is_file():
        fetch = f"`ditscale fetch-weights {how.extractor}` fetches it on a machine with internet"
        name = "name the file with --weights FILE (evaluation.fid.weights of a study)"
        raise UserError(f"{how.extractor}: the file of its weights is missing ({path}); {fetch}, or {name}")


def fetch_weights(extractor: str, target: Path | None = None, url: str = "") -> Path:
    """Download an extractor's weights to the cache or to `target`, unless the file exists; returns its path. url: of a
    mirror; the hash is checked all the same. Raises UserError, and leaves no file, when that fails."""
    weights = WEIGHTS[extractor]
    path, url = Path(target or cached(extractor)), url or weights.url
    if path.is_file() and _sha256(path).startswith(weights.sha256):
        return path
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with urllib.request.urlopen(url, timeout=60) as source, open(temporary, "wb") as file:
            shutil.copyfileobj(source, file)
        sha256 = _sha256(temporary)
        if not sha256.startswith(weights.sha256):
            other = f"its SHA-256 begins with {sha256[:8]}, not {weights.sha256[:8]}"
            raise UserError(f"{url}: is another file: {other}; nothing was kept; check the URL")
        os.replace(temporary, path)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        remedy = f"fetch it on a machine with internet and copy it to {path}"
        raise UserError(f"{url}: cannot be fetched ({reason}); {remedy}") from None
    finally:
        remove(temporary)
    return path


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
