"""Checkpoints of a run: written beside and renamed, the newest readable one wins, the one before is kept.

    checkpoint/images-<images, 15 digits>.pt    to resume: model, ema, optimizer, loss_ema, images, run_id
    checkpoint/final.pt                         of a finished run: model, ema, images, run_id
Read with weights_only, so no checkpoint runs code. Nothing is written or deleted by a fenced attempt (fence.py), and a file
that one deletes an instant after its fence is passed over. A rehearsed run's have JSON
inside.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Callable

from ..errors import UserError
from ..files import remove
from . import fence

KEEP = 2


@dataclass(frozen=True)
class Form:
    """How a state becomes bytes, and comes back: write(state, file), read(path, device)."""

    write: Callable[[dict, BinaryIO], None]
    read: Callable[[Path, object], dict]


def _torch_write(state: dict, file: BinaryIO):
    import torch  # here: rehearsed runs and their tools go without

    torch.save(state, file)


def _torch_read(path: Path, device) -> dict:
    import torch

    return torch.load(path, map_location=device, weights_only=True)


TORCH = Form(_torch_write, _torch_read)
JSON = Form(lambda state, file: file.write(json.dumps(state).encode()), lambda path, device: json.loads(path.read_bytes()))


def save(directory: Path, state: dict, name: str | None = None, form: Form = TORCH):
    """Write `state` under its images (or `name`), then delete all but the KEEP newest. Raises UserError on a full disk."""
    fence.check(directory.parent)
    directory.mkdir(exist_ok=True)
    target = directory / (name or f"images-{state['images']:015d}.pt")
    beside = target.with_suffix(f".tmp-{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            form.write(state, file)
            file.flush()
            os.fsync(file.fileno())
        fence.check(directory.parent)
        os.replace(beside, target)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        fence.check(directory.parent)  # a newer attempt clears away what older ones have begun
        reason = getattr(error, "strerror", None) or "the disk did not take all of it"
        raise UserError(f"{target}: cannot be written ({reason}); the checkpoint before it is untouched; free space, run again") from None
    finally:
        remove(beside)
    _delete(directory, _resumable(directory)[:-KEEP])


def load_newest(directory: Path, run_id: str, device=None, form: Form = TORCH) -> dict | None:
    """The newest checkpoint that can be read, or None. A damaged one is skipped, and deleted once an older one has loaded.

    Raises UserError when a checkpoint is of another run.
    """
    for leftover in directory.glob("*.tmp-*"):
        leftover.unlink(missing_ok=True)
    damaged, state = [], None
    while waiting := [path for path in _resumable(directory) if path not in damaged]:
        path = waiting[-1]
        state = _read(path, device, form)
        if state is not None:
            break
        if path.exists():
            damaged.append(path)
    if state is not None and state["run_id"] != run_id:
        raise UserError(f"{path}: is of run {state['run_id']}, not {run_id}; move it away")
    for other in damaged:
        rest = f"resuming from {path.name}" if state else "no older checkpoint is there; starting again"
        print(f"{other.name} cannot be read; {rest}", flush=True)
        other.unlink(missing_ok=True)
    return state


def load_final(directory: Path, run_id: str, device=None) -> dict:
    """The final checkpoint. Raises UserError when the run has none yet, or it is damaged or of another run."""
    path = directory / "final.pt"
    if not path.is_file():
        raise UserError(f"{directory.parent}: the run is not finished; `ditscale run {directory.parent}` goes on with it")
    state = _read(path, device, TORCH)
    if state is None:
        raise UserError(f"{path}: cannot be read; delete it and `ditscale run {directory.parent}`")
    if state["run_id"] != run_id:
        raise UserError(f"{path}: is of run {state['run_id']}, not {run_id}; move it away")
    return state


def clear(directory: Path):
    """Delete what only serves to resume."""
    _delete(directory, _resumable(directory))


def _delete(directory: Path, paths: list[Path]):
    for path in paths:
        fence.check(directory.parent)
        path.unlink(missing_ok=True)


def _resumable(directory: Path) -> list[Path]:
    return sorted(directory.glob("images-*.pt"))


def _read(path: Path, device, form: Form) -> dict | None:
    try:
        return form.read(path, device)
    except Exception:  # a cut file raises any of half a dozen types, from zipfile to pickle
        return None
