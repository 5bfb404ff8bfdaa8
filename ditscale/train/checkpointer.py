"""The tensors of a run's checkpoints, written and read by all ranks together. They are named <part>.<parameter>; parts
are model, ema, exp_avg, exp_avg_sq (AdamW's), and ema.1, ema.2, ... of recipe.ema_also. Saved on n ranks they load on
m, sharded in any way. A save copies them to the CPU; a thread does the rest while training continues."""

import os
import threading
from pathlib import Path
from typing import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed.ranks import Ranks
from ..errors import UserError
from ..logs import log
from ..rundir import checkpoints
from .layout.replicated import Layout

CLOSE_S = 30.0  # Seconds for a last checkpoint to complete when a run ends: where a rank has died it never will.


class Checkpointer:
    """Checkpoints in the files of torch.distributed.checkpoint. All ranks call `save`, `wait` and `load_newest`
    together. parts: tensors that are laid out as the layout's weights are. directory: may be set after `wait`."""

    def __init__(self, layout: Layout, parts: dict[str, list[Tensor]], directory: Path, ranks: Ranks):
        self.parts, self.directory, self.ranks = parts, directory, ranks
        cuda = ranks.device.type == "cuda"
        copy = lambda tensor: torch.zeros_like(tensor, device="cpu", pin_memory=cuda)
        self.copies = {part: [*map(copy, tensors)] for part, tensors in parts.items()}
        mesh = layout.mesh_on("cpu") if cuda else None
        named = {part: layout.named(copies, mesh) for part, copies in self.copies.items()}
        self.named = {f"{part}.{name}": t for part, by_name in named.items() for name, t in by_name.items()}
        # The loop's own group must not be used in another thread.
        self.group = dist.new_group(backend="gloo") if ranks.world > 1 else None
        self.copied = torch.cuda.Event() if cuda else None
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None  # of this rank's last save
        self.writer = ranks.broadcast(os.getpid())

    @staticmethod
    def warm_up():
        # When a run is asked to stop, there may be no time to import it; and in the thread, it would slow the loop.
        from . import dcp_io  # noqa: F401

    @torch.no_grad()
    def save(self, facts: dict):
        """Begin a checkpoint of the tensors as they are now, after the one before. `facts` go into its state.json."""
        self.wait()
        for copy, tensor in self._pairs():
            copy.copy_(tensor, non_blocking=True)
        if self.copied:
            self.copied.record()
        self.warm_up()
        self.thread = threading.Thread(target=self._write, args=(facts,), daemon=True)
        self.thread.start()

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((copy, tensor) for part in self.parts for copy, tensor in zip(self.copies[part], self.parts[part]))

    def _write(self, facts: dict):
        try:
            if self.copied:
                torch.cuda.set_device(self.ranks.device)  # A thread begins on the first GPU.
                self.copied.synchronize()
            if self.ranks.first:
                self._write_first(facts)
            elif self.ranks.broadcast(False, self.group):
                self._fill(checkpoints.staged(self.directory, facts["images"], self.writer))
            else:
                raise self._not_written()
        except BaseException as error:
            self.error = error

    def _write_first(self, facts: dict):
        """By rank 0, which makes the directory. They write once it is there, and are told where it fails."""
        begun = []

        def fill(staged: Path):
            begun.append(self.ranks.broadcast(True, self.group))
            self._fill(staged)

        try:
            checkpoints.save(self.directory, facts, fill, self.writer)
        finally:
            if not begun:
                self.ranks.broadcast(False, self.group)

    def _fill(self, directory: Path):
        from . import dcp_io

        dcp_io.save(self.named, directory, self.group)

    def _not_written(self) -> checkpoints.CheckpointNotWritten:
        return checkpoints.CheckpointNotWritten(f"{self.directory}: a checkpoint cannot be written; rank 0 says why")

    def close(self):
        """However the run ends, let what is being written complete, well or not."""
        if self.thread:
            self.thread.join(CLOSE_S)

    def wait(self):
        """Until no rank is writing a checkpoint. Raises CheckpointNotWritten or Fenced, on all ranks, if one failed."""
        if self.thread:
            self.thread.join()
            self.thread = None
        if not self.ranks.all_true(self.error is None):
            raise self.error if self.error and self.ranks.first else self._not_written()

    @torch.no_grad()
    def load_newest(self, run_id: str) -> dict | None:
        """Fill the tensors from the newest checkpoint that all ranks can read; returns its facts, or None without one.
        Raises UserError as checkpoints.load_newest does, on all ranks."""
        if self.ranks.first:
            try:
                load = lambda path: self._load(self.ranks.broadcast(path))
                facts = checkpoints.load_newest(self.directory, run_id, load)
            except UserError as error:
                self.ranks.broadcast(error)
                raise
            self.ranks.broadcast(facts)
        else:
            while isinstance(facts := self.ranks.broadcast(None), Path):
                self._load(facts)
            if isinstance(facts, Exception):
                raise facts
        if facts:
            for copy, tensor in self._pairs():
                tensor.copy_(copy)
        return facts

    def _load(self, path: Path) -> str:
        """Read into the copies; returns why a rank could not, or "". UserError on rank 0 where damage is not why."""
        from . import dcp_io

        failure = None
        try:
            dcp_io.load(self.named, path, self.group)
        except (Exception, dcp_io.CheckpointException) as error:  # A cut or altered file may raise anything.
            failure = dcp_io.first_failure(error)
        if self.ranks.all_true(failure is None):
            return ""
        reason = f"{type(failure).__name__}: {failure}".splitlines()[0] if failure else "another rank says why"
        if failure and not self.ranks.first:
            log.warning(f"rank {self.ranks.rank}: {path.name} cannot be read ({reason})")
        is_damage = not isinstance(failure, (OSError, MemoryError)) or isinstance(failure, FileNotFoundError)
        if not self.ranks.all_true(is_damage) and self.ranks.first:
            raise UserError(f"{path}: cannot be read ({reason}); fix the cause and run again")
        return reason
