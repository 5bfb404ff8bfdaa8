"""Your own images: latents of a frozen VAE with features of a frozen text encoder, from an HDF5 file.

latents    float16 or float32 [n, C, R, R], as the VAE gives them
text       float16 or float32 [n, T, D]
captions   text [n], optional: for people
pictures   uint8 [n, H, W, 3], optional: what the latents were made from. FID holds samples against these; without them,
           against the decoded latents, which lack what the VAE loses
attributes shift, scale: the images a model sees are (latents - shift) * scale. They live in the file, because latents
           normalised one way in training and another in evaluation is an error that no loss curve shows.
           vae, text_encoder, optional: names of what made latents and text; a run is measured on no others
           pixels, optional: 1 where the "latents" are pictures on [-1, 1], as 1 or 3 channels are taken to be; else 0
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from . import draws
from .rows import Rows

KINDS = ("latents", "text", "captions", "pictures")
MAKERS = ("vae", "text_encoder")
SHUFFLE_ROUNDS = 4
FINGERPRINT_IMAGES = 16


class Latents:
    """A `Source` over a file of n images. Position i holds image order(i): a new shuffle for each pass over the file.

    The file is opened at the first read, so that the object can travel to worker processes. Raises UserError when the
    file is missing, damaged, or lacks a dataset or attribute.
    """

    text_vocab = 0

    def __init__(self, path: Path | str, seed: int = 0):
        self.path, self.seed, self._file = Path(path), seed, None
        if not self.path.is_file():
            raise UserError(
                f"data file {path}: there is no such file; set data.path=FILE, and validation.path=FILE for "
                "held-out images"
            )
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                n, self.channels, self.height, self.width = file["latents"].shape
                self.pixels = bool(file.attrs.get("pixels", self.channels in (1, 3)))
                n_text, self.text_length, self.text_dim = file["text"].shape
                self.shift, self.scale = float(file.attrs["shift"]), float(file.attrs["scale"])
                self.made_by = {key: str(file.attrs[key]) for key in MAKERS if key in file.attrs}
                kept = {name: file[name] for name in ("captions", "pictures") if name in file}
                for name, rows in kept.items():
                    if len(rows) != n or (name == "pictures" and (rows.dtype != np.uint8 or rows.shape[3:] != (3,))):
                        wanted = "text [n]" if name == "captions" else "uint8 [n, H, W, 3]"
                        raise ValueError(f"{name} is {rows.dtype} {list(rows.shape)}, not {wanted}")
        except OSError:
            raise UserError(f"data file {path}: is not HDF5, or is truncated") from None
        except (KeyError, ValueError) as error:
            raise UserError(
                f"data file {path}: needs latents [n, C, R, R], text [n, T, D] and attributes shift and scale, and may "
                f"have captions and pictures ({error})"
            ) from None
        if not (math.isfinite(self.shift) and math.isfinite(self.scale) and self.scale):
            raise UserError(
                f"data file {path}: shift {self.shift:g} and scale {self.scale:g} make no images; see docs/data.md"
            )
        if n != n_text or n == 0:
            raise UserError(f"data file {path}: {n} latents but {n_text} texts")
        self.n_images, self.name = n, self.path.stem

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, R, R] and text features float32 [B, T, D] at positions `index` (int64 [B])."""
        return self.ready(*self.stored(index))

    def stored(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """As `Source` says: latents and text as the file has them."""
        order = self._order(index.cpu()).numpy()
        return torch.from_numpy(self._rows("latents", order)), torch.from_numpy(self._rows("text", order))

    def ready(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """As `Source` says."""
        return (images.float() - self.shift).mul_(self.scale), texts.float()

    @cached_property
    def fingerprint(self) -> str:
        """Of the normalisation and of images spread over the file: another for another file, the same wherever it
        lies."""
        spread = np.unique(np.linspace(0, self.n_images - 1, FINGERPRINT_IMAGES).astype(np.int64))
        found = hashlib.sha256(repr((self.n_images, self.shift, self.scale)).encode())
        for rows in (self._rows(name, spread) for name in ("latents", "text", "pictures")):
            found.update(b"" if rows is None else rows.tobytes())
        return found.hexdigest()[:12]

    def as_encoded(self, x: Tensor) -> Tensor:
        """Latents as the VAE gives them, of images [B, C, R, R] as a model sees them."""
        return x / self.scale + self.shift

    def captions(self, index: Tensor) -> list[str]:
        """As `Source` says: features do not read back into words, but a file may keep these."""
        kept = self._rows("captions", self._order(index.cpu()).numpy())
        return [""] * len(index) if kept is None else [caption.decode(errors="replace") for caption in kept]

    def pictures(self, index: Tensor) -> Tensor | None:
        """As `Source` says."""
        kept = self._rows("pictures", self._order(index.cpu()).numpy())
        return None if kept is None else torch.from_numpy(kept).permute(0, 3, 1, 2)

    def _rows(self, name: str, order: np.ndarray) -> np.ndarray | None:
        """A dataset's rows of the images `order`; None where the file has no such dataset."""
        if self._file is None:
            self._file = h5py.File(self.path, "r", locking=False)
            self._tables = {name: Rows(self.path, self._file[name]) for name in KINDS if name in self._file}
        return self._tables[name].at(order) if name in self._tables else None

    def _order(self, position: Tensor) -> Tensor:
        """Image number at each position: pass `position // n` visits every image once, in an order of its own.

        A Feistel network on ceil(log4 n) bit halves permutes [0, 4^k); values beyond n - 1 walk on until they fall
        inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). So order needs no table and no state.
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
