"""The tensors of a run's checkpoints, written and read by all ranks together.

    <part>.<parameter>      part: model, ema, exp_avg, exp_avg_sq (AdamW's), and ema.1, ema.2, ... of recipe.ema_also;
                            whole tensors, in pieces wherever they were saved
Saved on n ranks they load on m, sharded in any way. A save copies the tensors to the host, in the order of the device's
own stream, and the rest happens in a thread, while the run goes on.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed.ranks import Ranks
from ..errors import UserError
from ..rundir import checkpoints
from .layout.choose import Layout

CLOSE_S = 30.0  # for a checkpoint to come to its end when the run does: where a rank is gone it never will


class Checkpointer:
    """A run's checkpoints: `parts` are tensors that lie as the layout's weights do. Made by all ranks together."""

    def __init__(self, layout: Layout, parts: dict[str, list[Tensor]], directory: Path, ranks: Ranks):
        self.parts, self.directory, self.ranks = parts, directory, ranks
        cuda = ranks.device.type == "cuda"
        self.host = {
            part: [torch.zeros_like(t, device="cpu", pin_memory=cuda) for t in tensors]
            for part, tensors in parts.items()
        }
        mesh = layout.mesh_on("cpu") if layout.kind != "replicate" and cuda else None
        self.named = {
            f"{part}.{name}": tensor
            for part, tensors in self.host.items()
            for name, tensor in layout.named(tensors, mesh).items()
        }
        # the loop's own may not be used in a thread
        self.group = dist.new_group(backend="gloo") if ranks.world > 1 else None
        self.copied = torch.cuda.Event() if cuda else None
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.writer = ranks.broadcast(os.getpid())

    # ---- saving

    @staticmethod
    def make_ready():
        """Have at hand what a save needs: when a run is told to stop there may be no time to look for it."""
        from . import dcp_io  # noqa: F401  in the loop, not in the thread, where it would take turns with it

    @torch.no_grad()
    def save(self, facts: dict):
        """Begin a checkpoint of the tensors as they are now; settles the one before. `facts` go into its state.json."""
        self.settle()
        for part, tensors in self.parts.items():
            for host, tensor in zip(self.host[part], tensors):
                host.copy_(tensor, non_blocking=True)
        if self.copied:
            self.copied.record()
        self.make_ready()
        self.thread = threading.Thread(target=self._write, args=(facts,), daemon=True)
        self.thread.start()

    def _write(self, facts: dict):
        try:
            if self.copied:
                torch.cuda.set_device(self.ranks.device)  # a thread begins on the first
                self.copied.synchronize()
            if self.ranks.first:
                self._write_first(facts)
            elif self._told():
                self._fill(checkpoints.staged(self.directory, facts["images"], self.writer))
            else:
                raise self._unsaved()
        except BaseException as error:
            self.error = error

    def _write_first(self, facts: dict):
        """The checkpoint, by the rank that makes its directory. The others write only when that is there: else they
        would wait for it until the collectives' time is up."""
        begun = False

        def fill(beside: Path):
            nonlocal begun
            begun = self._told(True)
            self._fill(beside)

        try:
            checkpoints.save(self.directory, facts, fill, self.writer)
        finally:
            if not begun:
                self._told(False)

    def _told(self, begun: bool = False) -> bool:
        """Rank 0's `begun`, on every rank."""
        holder = [begun]
        if self.group:
            dist.broadcast_object_list(holder, src=0, group=self.group, device=torch.device("cpu"))
        return holder[0]

    def _fill(self, beside: Path):
        from . import dcp_io

        dcp_io.save(self.named, beside, self.group)

    def _unsaved(self) -> checkpoints.CheckpointNotWritten:
        return checkpoints.CheckpointNotWritten(f"{self.directory}: a checkpoint cannot be written; rank 0 says why")

    def close(self):
        """However the run ends: let what is being written come to its end, good or bad."""
        if self.thread:
            self.thread.join(CLOSE_S)

    @property
    def failed(self) -> bool:
        return self.error is not None

    def settle(self):
        """Wait until no rank is writing a checkpoint. Raises what went wrong with the last, on every rank:
        CheckpointNotWritten, or Fenced."""
        if self.thread:
            self.thread.join()
            self.thread = None
        if not self.ranks.all_true(self.error is None):
            raise self.error if self.error and self.ranks.first else self._unsaved()

    # ---- loading

    @torch.no_grad()
    def load_newest(self, run_id: str) -> dict | None:
        """Fill the tensors from the newest checkpoint that all ranks can read; returns its facts, None when there is
        none.

        Rank 0 says which, so that ranks never disagree. Raises UserError as checkpoints.load_newest does, on all ranks.
        """
        if self.ranks.first:
            try:
                found = checkpoints.load_newest(
                    self.directory, run_id, lambda path: self._load(self.ranks.broadcast(path))
                )
            except UserError as error:
                self.ranks.broadcast(error)
                raise
            self.ranks.broadcast(found)
        else:
            while isinstance(found := self.ranks.broadcast(None), Path):
                self._load(found)
            if isinstance(found, Exception):
                raise found
        if found:
            for part, tensors in self.parts.items():
                for host, tensor in zip(self.host[part], tensors):
                    tensor.copy_(host)
        return found

    def _load(self, path: Path) -> str:
        """Read a checkpoint into the host's tensors; why a rank could not, "" where all could. Raises UserError on rank
        0 where that does not mean that it is damaged."""
        from . import dcp_io

        trouble = None
        try:
            dcp_io.load(self.named, path, self.group)
        except (Exception, dcp_io.CheckpointException) as error:  # a cut or altered file raises whatever it comes to
            trouble = dcp_io.first_of(error)
        if self.ranks.all_true(trouble is None):
            return ""
        why = f"{type(trouble).__name__}: {trouble}".splitlines()[0] if trouble else "another rank says why"
        if trouble and not self.ranks.first:
            print(f"rank {self.ranks.rank}: {path.name} cannot be read ({why})", flush=True)
        elsewhere = isinstance(trouble, (OSError, MemoryError)) and not isinstance(trouble, FileNotFoundError)
        if not self.ranks.all_true(not elsewhere) and self.ranks.first:
            raise UserError(f"{path}: cannot be read ({why}); mend that and run again")
        return why
