"""Tensors in files of torch.distributed.checkpoint (DCP), each rank's pieces in its own. Imported late: it takes a
second.

Loading runs no code, whatever the files hold.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path, PurePosixPath

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import metadata as kinds
from torch.distributed.checkpoint.api import CheckpointException

warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # DCP, of a run on one rank

METADATA = {  # what a DCP checkpoint's .metadata, a pickle, may name: dataclasses of plain values
    (kinds.__name__, name): getattr(kinds, name)
    for name in (
        "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): dcp.filesystem._StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch", "float32"): torch.float32,
    ("torch.serialization", "_get_layout"): lambda name: torch.strided,
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib._local", "PosixPath"): PurePosixPath,
}  # fmt: skip


def save(named: dict[str, Tensor], directory: Path, group: ProcessGroup | None):
    """Write tensors, DTensors in their pieces, by all ranks of `group` together. Raises on all of them what one met."""
    try:
        # to copy ahead is for tensors on a GPU, and waits for the stream that trains
        writer = dcp.FileSystemWriter(directory, per_thread_copy_ahead=0)
        dcp.save(named, storage_writer=writer, process_group=group)
    except CheckpointException as error:
        raise first_of(error)


def first_of(error: BaseException) -> Exception:
    """What a rank has met, of all that DCP tells of it."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def load(named: dict[str, Tensor], directory: Path, group: ProcessGroup | None):
    """Fill tensors, however they lay when they were saved. Raises Exception or CheckpointException at files that are
    damaged."""
    dcp.load(named, storage_reader=Reader(directory), process_group=group)


class Reader(dcp.FileSystemReader):
    """DCP's reader, but that unpickling its metadata runs no code, and that it reads tensors only, from its directory
    only."""

    def read_metadata(self, *args, **kwargs) -> kinds.Metadata:
        with open(Path(self.path) / ".metadata", "rb") as file:
            found = _Unpickler(file).load()
        entries, places = found.state_dict_metadata.values(), found.storage_data.values()
        if not all(isinstance(entry, kinds.TensorStorageMetadata) for entry in entries):
            raise pickle.UnpicklingError("an entry is no tensor")
        if any("/" in place.relative_path for place in places):
            raise pickle.UnpicklingError("an entry lies elsewhere")
        return found


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        try:
            return METADATA[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint's metadata") from None
