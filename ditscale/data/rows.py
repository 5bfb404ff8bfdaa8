"""Rows of an HDF5 dataset in any order, many at once: what a shuffled pass over a file larger than memory needs.

h5py's own selection of rows takes milliseconds a row where a dataset has chunks, and where it has none, reads one after
the other: on a network's file system a row is a latency. Here, readers work side by side.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

READERS = 8  # at once; they wait for the disk, not for a core


class Rows:
    """The rows of one dataset of an open file."""

    def __init__(self, path: Path, dataset: h5py.Dataset):
        self.dataset, self.dtype, self.shape = dataset, dataset.dtype, dataset.shape[1:]
        plain = (
            dataset.chunks is None
            and dataset.external is None
            and not dataset.is_virtual
            and not dataset.dtype.hasobject
        )
        # where it lies in the file, in one piece; None: HDF5 knows
        self.offset = dataset.id.get_offset() if plain else None
        self.path, self._file, self._readers = path, None, None

    def at(self, index: np.ndarray) -> np.ndarray:
        """Rows number `index`, int64 [B]: [B, ...]. Raises OSError when the file ends before them."""
        rows = np.empty((len(index), *self.shape), self.dtype)
        if self.offset is None:
            for i, row in enumerate(index):
                rows[i] = self.dataset[row]
        else:
            self._side_by_side(index, rows)
        return rows if self.dtype.isnative else rows.astype(self.dtype.newbyteorder("="))

    def _side_by_side(self, index: np.ndarray, rows: np.ndarray):
        if self._file is None:
            self._file, self._readers = open(self.path, "rb", buffering=0), ThreadPoolExecutor(READERS, "rows")
        into = rows.reshape(len(index), math.prod(self.shape)).view(np.uint8)
        parts = zip(np.array_split(index, READERS), np.array_split(into, READERS))
        list(self._readers.map(lambda part: self._read(*part), parts))

    def _read(self, index: np.ndarray, into: np.ndarray):
        for row, held in zip(index.tolist(), into):
            if os.preadv(self._file.fileno(), [held], self.offset + row * len(held)) != len(held):
                raise OSError(f"{self.path}: ends before row {row}")
