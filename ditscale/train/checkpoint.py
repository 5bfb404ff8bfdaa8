"""Checkpoints of a run: written beside and renamed, the newest readable one wins, the one before is kept.

    checkpoint/images-<images, 15 digits>.pt    to resume: model, ema, optimizer, loss_ema, images, run_id
    checkpoint/final.pt                         of a finished run: model, ema, images, run_id
Read with weights_only, so no checkpoint runs code. Nothing is written or deleted by a fenced attempt (fence.py), and a file
that one deletes an instant after its fence is passed over.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..errors import UserError
from ..files import remove
from . import fence

KEEP = 2


def save(directory: Path, state: dict, name: str | None = None):
    """Write `state` under its images (or `name`), then delete all but the KEEP newest. Raises UserError on a full disk."""
    fence.check(directory.parent)
    directory.mkdir(exist_ok=True)
    target = directory / (name or f"images-{state['images']:015d}.pt")
    beside = target.with_suffix(f".tmp-{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            torch.save(state, file)
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


def load_newest(directory: Path, run_id: str, device) -> dict | None:
    """The newest checkpoint that can be read, or None. A damaged one is skipped, and deleted once an older one has loaded.

    Raises UserError when a checkpoint is of another run.
    """
    for leftover in directory.glob("*.tmp-*"):
        leftover.unlink(missing_ok=True)
    damaged, state = [], None
    while waiting := [path for path in _resumable(directory) if path not in damaged]:
        path = waiting[-1]
        state = _read(path, device)
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


def load_final(directory: Path, run_id: str, device) -> dict:
    """The final checkpoint. Raises UserError when the run has none yet, or it is damaged or of another run."""
    path = directory / "final.pt"
    if not path.is_file():
        raise UserError(f"{directory.parent}: the run is not finished; `ditscale run {directory.parent}` goes on with it")
    state = _read(path, device)
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


def _read(path: Path, device) -> dict | None:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception:  # a cut file raises any of half a dozen types, from zipfile to pickle
        return None
