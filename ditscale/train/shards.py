"""The tensors of a checkpoint: sharded files of torch.distributed.checkpoint (DCP), written and read by all ranks together.

    <part>.<parameter>      part: model, ema, exp_avg, exp_avg_sq (AdamW's); whole tensors, in pieces wherever they were saved
Saved on n ranks they load on m, sharded in any way. A save copies the tensors to the host, in the order of the device's own
stream, and the rest happens in a thread, while the run goes on.
"""

from __future__ import annotations

import os
import pickle
import threading
import warnings
from pathlib import Path, PurePosixPath

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import metadata as kinds
from torch.distributed.checkpoint.api import CheckpointException

from ..errors import UserError
from . import checkpoint
from .ranks import Ranks
from .replicate import Replicated
from .shard import Sharded

warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # DCP, of a run on one rank

CLOSE_S = 30.0  # for a checkpoint to come to its end when the run does: where a rank is gone it never will
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


class Shards:
    """A run's checkpoints: `parts` are tensors that lie as the layout's weights do. Made by all ranks together."""

    def __init__(self, layout: Replicated | Sharded, parts: dict[str, list[Tensor]], directory: Path, ranks: Ranks):
        self.parts, self.directory, self.ranks = parts, directory, ranks
        cuda = ranks.device.type == "cuda"
        self.host = {
            part: [torch.zeros_like(t, device="cpu", pin_memory=cuda) for t in tensors] for part, tensors in parts.items()
        }
        mesh = layout.mesh_on("cpu") if layout.kind != "replicate" and cuda else None
        self.named = {
            f"{part}.{name}": tensor
            for part, tensors in self.host.items()
            for name, tensor in layout.named(tensors, mesh).items()
        }
        self.group = dist.new_group(backend="gloo") if ranks.world > 1 else None  # the loop's own may not be used in a thread
        self.copied = torch.cuda.Event() if cuda else None
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.writer = ranks.share(os.getpid())

    # ---- saving

    @torch.no_grad()
    def save(self, facts: dict):
        """Begin a checkpoint of the tensors as they are now; settles the one before. `facts` go into its state.json."""
        self.settle()
        for part, tensors in self.parts.items():
            for host, tensor in zip(self.host[part], tensors):
                host.copy_(tensor, non_blocking=True)
        if self.copied:
            self.copied.record()
        self.thread = threading.Thread(target=self._write, args=(facts,), daemon=True)
        self.thread.start()

    def _write(self, facts: dict):
        try:
            if self.copied:
                self.copied.synchronize()
            if self.ranks.first:
                checkpoint.save(self.directory, facts, self._fill, self.writer)
            else:
                self._fill(checkpoint.staged(self.directory, facts["images"], self.writer))
        except BaseException as error:
            self.error = error

    def _fill(self, beside: Path):
        try:
            dcp.save(self.named, storage_writer=dcp.FileSystemWriter(beside), process_group=self.group)
        except CheckpointException as error:  # the same on all ranks: which of them failed, and how
            first = next(iter(error.failures.values()))[0]
            raise first if isinstance(first, Exception) else RuntimeError(str(first))

    def close(self):
        """However the run ends: let what is being written come to its end, good or bad."""
        if self.thread:
            self.thread.join(CLOSE_S)

    @property
    def failed(self) -> bool:
        return self.error is not None

    def settle(self):
        """Wait until no rank is writing a checkpoint. Raises what went wrong with the last, on every rank: Unsaved, or Fenced."""
        if self.thread:
            self.thread.join()
            self.thread = None
        if not self.ranks.agree(self.error is None):
            unsaved = checkpoint.Unsaved(f"{self.directory}: a checkpoint cannot be written; rank 0 says why")
            raise self.error if self.error and self.ranks.first else unsaved

    # ---- loading

    @torch.no_grad()
    def load_newest(self, run_id: str) -> dict | None:
        """Fill the tensors from the newest checkpoint that all ranks can read; returns its facts, None when there is none.

        Rank 0 says which, so that ranks never disagree. Raises UserError as checkpoint.load_newest does, on every rank.
        """
        if self.ranks.first:
            try:
                found = checkpoint.load_newest(self.directory, run_id, lambda path: self._load(self.ranks.share(path)))
            except UserError as error:
                self.ranks.share(error)
                raise
            self.ranks.share(found)
        else:
            while isinstance(found := self.ranks.share(None), Path):
                self._load(found)
            if isinstance(found, Exception):
                raise found
        if found:
            for part, tensors in self.parts.items():
                for host, tensor in zip(self.host[part], tensors):
                    tensor.copy_(host)
        return found

    def _load(self, path: Path) -> bool:
        """Read a checkpoint into the host's tensors; whether every rank could."""
        try:
            dcp.load(self.named, storage_reader=Reader(path), process_group=self.group)
            good = True
        except (Exception, CheckpointException):  # a cut or altered file raises whatever it comes to
            good = False
        return self.ranks.agree(good)


class Reader(dcp.FileSystemReader):
    """DCP's reader, but that unpickling its metadata runs no code, and that it reads tensors only, from its directory only."""

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
