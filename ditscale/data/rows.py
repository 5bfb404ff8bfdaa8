"""Rows of an HDF5 dataset in any order, many at once: what a shuffled pass over a file larger than memory needs.

h5py's own selection of rows takes milliseconds a row where a dataset has chunks. Where it has none, h5py reads one row
after the other, and on a network file system each row costs a latency. Here, threads read rows in parallel.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

READERS = 8  # Threads that read in parallel. They wait for the disk, so they need no core each.


class Rows:
    """The rows of one dataset of an open file."""

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
