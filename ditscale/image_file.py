"""An HDF5 file of images as docs/data.md describes it: what it says of itself, and whether it fits a study. Reads no
image and loads no torch, so that a login node can check the files of a study."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from .config import SHAPE, Data
from .errors import UserError

REQUIRED, OPTIONAL = ("latents", "text"), ("captions", "pictures")
ENCODERS = ("vae", "text_encoder")  # Attributes that name the models that made latents and text.


class Encoded(Protocol):
    """Images whose encoders may be known: {attribute: name of the model}."""

    @property
    def encoders(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class ImageFile:
    """Shapes and normalisation of a file: latents [n_images, channels, resolution, resolution], text [n_images,
    text_length, text_dim]; a model sees (latents - shift) * scale."""

    path: Path
    n_images: int
    channels: int
    resolution: int
    text_length: int
    text_dim: int
    shift: float
    scale: float
    pixels: bool  # Whether the images are pictures on [-1, 1].
    encoders: Mapping[str, str]
    text_vocab: int = 0  # A file holds features and no ids.


def read_image_file(path: Path | str) -> ImageFile:
    """What a file says of itself. Raises UserError when it is missing, damaged or lacks something."""
    path = Path(path)
    if not path.is_file():
        remedy = "set data.path=FILE, and validation.path=FILE for held-out images"
        raise UserError(f"data file {path}: there is no such file; {remedy}")
    if not os.access(path, os.R_OK):
        raise UserError(f"data file {path}: cannot be read; give yourself permission to read it")
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = _described(path, file)
    except OSError:
        raise UserError(f"data file {path}: is not HDF5, or is truncated; write it again (docs/data.md)") from None
    except (KeyError, ValueError, RuntimeError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        needs = "latents [n, C, R, R], text [n, T, D] and attributes shift and scale"
        raise UserError(f"data file {path}: {reason}; it needs {needs} (docs/data.md)") from None
    if not (math.isfinite(found.shift) and math.isfinite(found.scale) and found.scale):
        numbers = f"shift {found.shift:g} and scale {found.scale:g}"
        raise UserError(f"data file {path}: {numbers} make no images; see docs/data.md")
    return found


def _described(path: Path, file: h5py.File) -> ImageFile:
    n, channels, resolution, width = _shape(file, "latents", 4)
    if width != resolution:
        raise ValueError(f"latents of {resolution} x {width} are not square")
    n_text, text_length, text_dim = _shape(file, "text", 3)
    if n != n_text or n == 0:
        raise ValueError(f"{n} latents but {n_text} texts")
    for name, wanted in (("captions", "text [n]"), ("pictures", "uint8 [n, H, W, 3]")):
        if name in file and not _fits(file[name], name, n):
            raise ValueError(f"{name} is not {wanted}")
    encoders = {name: _text(file.attrs[name]) for name in ENCODERS if name in file.attrs}
    shift, scale = _number(file, "shift"), _number(file, "scale")
    pixels = bool(_number(file, "pixels")) if "pixels" in file.attrs else channels in (1, 3)
    return ImageFile(path, n, channels, resolution, text_length, text_dim, shift, scale, pixels, encoders)


def _shape(file: h5py.File, name: str, axes: int) -> tuple[int, ...]:
    """The shape of a dataset of numbers. Raises ValueError where it is missing or another thing."""
    rows = file.get(name)
    if not isinstance(rows, h5py.Dataset):
        raise ValueError(f"{name} is missing" if rows is None else f"{name} is no dataset")
    if rows.ndim != axes or rows.dtype.kind not in "fiu":
        raise ValueError(f"{name} is {rows.dtype} {list(rows.shape)}")
    return rows.shape


def _fits(rows: Any, name: str, n: int) -> bool:
    """Whether optional rows are of the documented type, one for each of the `n` images."""
    if not isinstance(rows, h5py.Dataset) or not rows.ndim or len(rows) != n:
        return False
    if name == "captions":
        return rows.ndim == 1 and h5py.check_string_dtype(rows.dtype) is not None
    return (rows.ndim, rows.dtype, rows.shape[3:]) == (4, np.uint8, (3,))


def _number(file: h5py.File, name: str) -> float:
    if name not in file.attrs:
        raise ValueError(f"the attribute {name} is missing")
    value = np.asarray(file.attrs[name])
    if value.size != 1 or value.dtype.kind not in "fiub":
        raise ValueError(f"the attribute {name} is not one number")
    return float(value.reshape(-1)[0])


def _text(value: Any) -> str:
    """A name, which some writers store as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def check_shapes(data: Data, actual: Any):
    """Raise UserError where a data set, of the attributes SHAPE, has other shapes than its description."""
    if unlike := other_shapes(data, actual):
        each = ", ".join(
            f"{name} is {there} in the configuration but {here} in the data" for name, there, here in unlike
        )
        settings = " ".join(f"data.{name}={here}" for name, _, here in unlike)
        raise UserError(f"data {data.name}: {each}; set {settings}")


def other_shapes(data: Data, actual: Any) -> list[tuple[str, int, int]]:
    """(name, described, actual) of each attribute of SHAPE in which a data set differs from its description."""
    pairs = ((name, getattr(data, name), getattr(actual, name)) for name in SHAPE)
    return [(name, there, here) for name, there, here in pairs if there != here]


def check_enough(name: str, has: int | None, n: int):
    """Raise UserError where `n` images are to be measured of a data set of `has` (None: endless)."""
    if has is not None and has < n:
        use = f"use validation.n={has} (--n {has} of `ditscale evaluate`), or fewer"
        raise UserError(f"{name}: holds {has} images, fewer than {n}; {use}")


def check_makers(run: Encoded, other: Encoded, name: str):
    """Raise UserError where the data set `name` is of another VAE or text encoder than a run's own data."""
    for kind, model in run.encoders.items():
        if (of_other := other.encoders.get(kind, model)) != model:
            unlike = f"its {kind} is {of_other}, but the run's own data was encoded with {model}"
            raise UserError(f"{name}: {unlike}; encode {name} with {model} too")
