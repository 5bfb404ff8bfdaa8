"""Your own images: latents of a frozen VAE with features of a frozen text encoder, from an HDF5 file.

    latents    float16 or float32 [n, C, R, R], as the VAE gives them
    text       float16 or float32 [n, T, D]
    captions   text [n], optional
    attributes shift, scale: the images a model sees are (latents - shift) * scale. They live in the file, because latents
               normalised one way in training and another in evaluation is an error that no loss curve shows.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from . import draws

SHUFFLE_ROUNDS = 4


class Latents:
    """A `Source` over a file of n images. Position i holds image order(i): a new shuffle for each pass over the file.

    The file is opened at the first read, so that the object can travel to worker processes. Raises UserError when the file
    is missing, damaged, or lacks a dataset or attribute.
    """

    text_vocab = 0

    def __init__(self, path: Path | str, seed: int = 0):
        self.path, self.seed, self._file = Path(path), seed, None
        if not self.path.is_file():
            raise UserError(f"data file {path}: there is no such file; set data.path=FILE")
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                n, self.channels, self.height, self.width = file["latents"].shape
                n_text, self.text_length, self.text_dim = file["text"].shape
                self.shift, self.scale = float(file.attrs["shift"]), float(file.attrs["scale"])
        except OSError:
            raise UserError(f"data file {path}: is not HDF5, or is truncated") from None
        except (KeyError, ValueError) as error:
            raise UserError(
                f"data file {path}: needs latents [n, C, R, R], text [n, T, D] and attributes shift and scale ({error})"
            ) from None
        if n != n_text or n == 0:
            raise UserError(f"data file {path}: {n} latents but {n_text} texts")
        self.n_images, self.name = n, self.path.stem

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, R, R] and text features float32 [B, T, D] at positions `index` (int64 [B])."""
        if self._file is None:
            self._file = h5py.File(self.path, "r", locking=False)
        rows, back = np.unique(self._order(index.cpu()).numpy(), return_inverse=True)  # h5py wants increasing rows
        latents = torch.from_numpy(self._file["latents"][rows][back].astype(np.float32))
        text = torch.from_numpy(self._file["text"][rows][back].astype(np.float32))
        return (latents - self.shift) * self.scale, text

    def caption(self, text: Tensor) -> str:
        """Features do not read back into words."""
        return ""

    def _order(self, position: Tensor) -> Tensor:
        """Image number at each position: pass `position // n` visits every image once, in an order of its own.

        A Feistel network on ceil(log4 n) bit halves permutes [0, 4^k); values beyond n - 1 walk on until they fall inside
        (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). So order needs no table and no state.
        """
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
