"""Your own images: latents of a frozen VAE with features of a frozen text encoder, from an HDF5 file. It holds latents
[n, C, R, R], text [n, T, D] and attributes shift, scale; the rest is optional. docs/data.md has the format."""

import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from ..image_file import OPTIONAL, REQUIRED, read_image_file
from . import draws
from .source import Source

READERS = 8  # Threads that read in parallel. They wait for the disk, so they need no core each.
SHUFFLE_ROUNDS = 4
FINGERPRINT_IMAGES = 16


class Rows:
    """Rows of a dataset, in any order, read by threads: on a network file system each row costs h5py a latency."""

    def __init__(self, path: Path, dataset: h5py.Dataset):
        self.path, self.dataset = path, dataset
        self.file, self.threads = open(path, "rb", buffering=0), ThreadPoolExecutor(READERS, "rows")
        contiguous = dataset.chunks is None and dataset.external is None and not dataset.is_virtual
        # Where the rows begin in the file. None: only HDF5 knows where they are.
        self.offset = dataset.id.get_offset() if contiguous and not dataset.dtype.hasobject else None

    def at(self, index: np.ndarray) -> np.ndarray:
        """Rows number `index`, int64 [B]: [B, ...]. Raises OSError when the file ends before them."""
        shape, dtype = self.dataset.shape[1:], self.dataset.dtype
        rows = np.empty((len(index), *shape), dtype)
        if self.offset is None:
            for i, row in enumerate(index):
                rows[i] = self.dataset[row]
        else:
            buffers = rows.reshape(len(index), math.prod(shape)).view(np.uint8)
            parts = zip(np.array_split(index, READERS), np.array_split(buffers, READERS))
            list(self.threads.map(lambda part: self._read(*part), parts))
        return rows if dtype.isnative else rows.astype(dtype.newbyteorder("="))

    def _read(self, index: np.ndarray, buffers: np.ndarray):
        for row, buffer in zip(index.tolist(), buffers):
            if os.preadv(self.file.fileno(), [buffer], self.offset + row * len(buffer)) != len(buffer):
                raise OSError(f"{self.path}: ends before row {row}")


class Latents(Source):
    """A file of images, shuffled anew in each pass, by the seed. Raises UserError when it is missing, damaged or lacks
    something."""

    text_vocab = 0
    n_images: int

    def __init__(self, path: Path | str, seed: int = 0):
        found = read_image_file(path)
        self.path, self.name, self.seed = found.path, found.path.stem, seed
        self.n_images, self.channels, self.resolution = found.n_images, found.channels, found.resolution
        self.text_length, self.text_dim = found.text_length, found.text_dim
        self.shift, self.scale, self.pixels = found.shift, found.scale, found.pixels
        self.encoders = dict(found.encoders)

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._order(index.cpu()).numpy()
        latents, text = (torch.from_numpy(self._datasets[name].at(rows)) for name in REQUIRED)
        return latents, text

    def normalise(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        return (images.float() - self.shift).mul_(self.scale), texts.float()

    def denormalise(self, images: Tensor) -> Tensor:
        return images / self.scale + self.shift

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the normalisation and of images spread over the file, whatever its path."""
        spread = np.unique(np.linspace(0, self.n_images - 1, FINGERPRINT_IMAGES).astype(np.int64))
        digest = hashlib.sha256(repr((self.n_images, self.shift, self.scale)).encode())
        for name in (*REQUIRED, "pictures"):
            digest.update(self._datasets[name].at(spread).tobytes() if name in self._datasets else b"")
        return digest.hexdigest()[:12]

    def captions(self, index: Tensor) -> list[str]:
        rows = self._optional("captions", index)
        return [""] * len(index) if rows is None else [caption.decode(errors="replace") for caption in rows]

    def pictures(self, index: Tensor) -> Tensor | None:
        rows = self._optional("pictures", index)
        return None if rows is None else torch.from_numpy(rows).permute(0, 3, 1, 2)

    def _optional(self, name: str, index: Tensor) -> np.ndarray | None:
        return self._datasets[name].at(self._order(index.cpu()).numpy()) if name in self._datasets else None

    @cached_property
    def _datasets(self) -> dict[str, Rows]:
        file = h5py.File(self.path, "r", locking=False)
        return {name: Rows(self.path, file[name]) for name in (*REQUIRED, *OPTIONAL) if name in file}

    def _order(self, position: Tensor) -> Tensor:
        """Image number at each position: pass `position // n` visits every image once, in an order of its own. A
        Feistel network on ceil(log4 n) bit halves permutes [0, 4^k); values beyond n - 1 are permuted again until they
        fall inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002)."""
        n = self.n_images
        bits = max(1, ((n - 1).bit_length() + 1) // 2)
        epoch, at = position // n, position % n
        outside = torch.ones_like(at, dtype=torch.bool)
        while outside.any():
            left, right = at >> bits, at & ((1 << bits) - 1)
            for r in range(SHUFFLE_ROUNDS):
                key = draws.key(self.seed, f"order {r}")
                mixed = draws.words(key, epoch * (1 << 2 * bits) % (1 << 38) + right, 1)[:, 0]
                left, right = right, left ^ (mixed & ((1 << bits) - 1))
            at = torch.where(outside, (left << bits) | right, at)
            outside = at >= n
        return at
