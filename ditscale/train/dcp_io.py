"""Tensors in files of torch.distributed.checkpoint (DCP). Loading runs no code. Imported late: it takes a second."""

import pickle
import warnings
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.api import CheckpointException

warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # DCP, of a run on one rank


def memory_format(kind: object, name: str) -> Any:
    """What getattr may do in .metadata: before Python 3.11.4, enum members are pickled as getattr(class, name)."""
    if kind is not dcp_metadata._MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"getattr of {kind!r} is no part of a checkpoint's metadata")
    return dcp_metadata._MEM_FORMAT_ENCODING[name]


METADATA: dict[tuple[str, str], Any] = {  # what a DCP checkpoint's .metadata, a pickle, may name: plain dataclasses
    (dcp_metadata.__name__, name): getattr(dcp_metadata, name)
    for name in (
        "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): dcp.filesystem._StorageInfo,
    ("builtins", "getattr"): memory_format,
    ("torch", "Size"): torch.Size,
    ("torch", "float32"): torch.float32,
    ("torch.serialization", "_get_layout"): lambda name: torch.strided,
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib._local", "PosixPath"): PurePosixPath,
}  # fmt: skip


def save(named: dict[str, Tensor], directory: Path, group: ProcessGroup | None):
    """Write tensors, DTensors as shards, by all ranks of `group` together. Raises what one rank met on all of them."""
    try:
        # Copying ahead is meant for tensors on a GPU, and would wait for the stream that trains.
        writer = dcp.FileSystemWriter(directory, per_thread_copy_ahead=0)
        dcp.save(named, storage_writer=writer, process_group=group)
    except CheckpointException as error:
        raise first_failure(error)


def first_failure(error: BaseException) -> Exception:
    """The first underlying exception of a DCP CheckpointException; any other exception is its own."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def load(named: dict[str, Tensor], directory: Path, group: ProcessGroup | None):
    """Fill tensors, however they lay when saved. Raises Exception or CheckpointException where files are damaged."""
    dcp.load(named, storage_reader=Reader(directory), process_group=group)


class Reader(dcp.FileSystemReader):
    """DCP's reader, but unpickling its metadata runs no code, and it reads only tensors, of its own directory."""

    def read_metadata(self, *args, **kwargs) -> dcp_metadata.Metadata:
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _Unpickler(file).load()
        entries, infos = metadata.state_dict_metadata.values(), metadata.storage_data.values()
        if not all(isinstance(entry, dcp_metadata.TensorStorageMetadata) for entry in entries):
            raise pickle.UnpicklingError("an entry is no tensor")
        if any("/" in info.relative_path for info in infos):
            raise pickle.UnpicklingError("an entry is in another directory")
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in METADATA:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint's metadata")
        return METADATA[module, name]
