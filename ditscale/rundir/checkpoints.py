"""Checkpoints of a run: directories, written under another name and then renamed. The newest readable one wins.

    checkpoint/images-<images, 15 digits>/    to resume: state.json, and of a trained run its tensors (checkpointer.py)
    checkpoint/final.pt                       of a finished run: model, ema, ema_also (lists of tensors, a window
                                              each), images, run_id; of a rehearsed one JSON

state.json holds run_id, images, what else its writer needs to resume, and the size of every other file: a directory
that lacks a file, or has a part of one, is damaged. Nothing read here runs code. A fenced attempt (fencing.py) writes
and deletes nothing. Without torch, for rehearsed runs."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import BinaryIO, Callable

from ..errors import UserError
from ..files import folder_to_disk, remove, unwritable
from ..logs import log
from . import fencing

KEEP = 2
FACTS = "state.json"
FULL_BYTES = 2**20  # A disk with fewer bytes left is full.


class CheckpointNotWritten(UserError):
    """A checkpoint could not be written. Raised on all ranks of the run."""


def staged(directory: Path, images: int, writer: int) -> Path:
    """Where a checkpoint is built by the process `writer` before it gets its name."""
    return directory / f"images-{images:015d}.tmp-{writer}"


def save(directory: Path, facts: dict, fill: Callable[[Path], None] | None = None, writer: int = 0):
    """Write a checkpoint of `facts` and of the files that `fill` puts into the directory it is given, then delete all
    but the KEEP newest. `writer`: whose staged directory it is, if not this process's. Raises CheckpointNotWritten."""
    fencing.check()
    beside = staged(directory, facts["images"], writer or os.getpid())
    try:
        beside.mkdir(parents=True, exist_ok=True)
        if fill:
            fill(beside)
        sizes = {path.name: path.stat().st_size for path in beside.iterdir()}
        with open(beside / FACTS, "w") as file:
            json.dump(facts | {"files": sizes}, file)
            file.flush()
            os.fsync(file.fileno())
        folder_to_disk(beside)
        fencing.check()
        if not (target := beside.with_suffix("")).exists():  # An earlier attempt's has the same content.
            os.rename(beside, target)
            folder_to_disk(directory)
    except Exception as error:
        raise _unsaved(beside.with_suffix(""), error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    _delete(resumable(directory)[:-KEEP])


def save_final(directory: Path, write: Callable[[BinaryIO], None]):
    """Write final.pt whole or not at all. Raises CheckpointNotWritten on a full disk."""
    fencing.check()
    target = directory / "final.pt"
    beside = directory / f"final.tmp-{os.getpid()}"
    try:
        directory.mkdir(exist_ok=True)
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        fencing.check()
        os.replace(beside, target)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise _unsaved(target, error) from None
    finally:
        remove(beside)


def _unsaved(target: Path, error: Exception) -> CheckpointNotWritten:
    fencing.check()  # A newer attempt deletes what older ones have staged, which is no error of the disk.
    if not isinstance(error, OSError) or not error.strerror:  # torch does not pass the reason on
        full = shutil.disk_usage(target.parent).free < FULL_BYTES
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else OSError(0, "the disk did not take all")
    then = "run again: the checkpoint before it is untouched"
    return CheckpointNotWritten(str(unwritable(target, error, then)))


def load_newest(directory: Path, run_id: str, load: Callable[[Path], str] | None = None) -> dict | None:
    """The facts of the newest checkpoint that can be read, or None; damaged ones are then deleted. `load` reads a
    directory that is complete by its facts and returns why it cannot, or "". Raises UserError for a checkpoint of
    another run, and when none can be read though one is complete: the cause may lie elsewhere."""
    fencing.check()
    for leftover in directory.glob("*.tmp-*"):
        remove(leftover) if leftover.is_file() else shutil.rmtree(leftover, ignore_errors=True)
    damaged: list[Path] = []
    unread, facts = "", None
    for path in reversed(resumable(directory)):
        facts = _read(path)
        if facts and facts["run_id"] != run_id:
            raise UserError(f"{path}: belongs to run {facts['run_id']}, not {run_id}; move it away")
        why = load(path) if facts and load else ""
        if facts and not why:
            break
        unread = f"{path}: cannot be read ({why})" if facts else unread
        damaged += [path] if path.exists() else []
        facts = None
    if unread and not facts:
        raise UserError(f"{unread}; fix the cause, or move {directory} aside to restart from scratch")
    for other in damaged:
        rest = f"resuming from {path.name}" if facts else "there is no older checkpoint; starting from scratch"
        log.warning(f"{other.name} cannot be read; {rest}")
    _delete(damaged)
    return facts


def clear(directory: Path):
    """Delete the checkpoints that only serve to resume."""
    _delete(resumable(directory))


def resumable(directory: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in directory.glob("images-*") if re.fullmatch(r"images-\d{15}", path.name))


def _read(path: Path) -> dict | None:
    """The facts of a complete checkpoint, None for a damaged one. Raises UserError where it cannot be read."""
    try:
        facts = json.loads((path / FACTS).read_text())
        sizes = facts.pop("files")
        whole = all("/" not in name and (path / name).stat().st_size == size for name, size in sizes.items())
        return facts if whole and isinstance(facts["images"], int) and isinstance(facts["run_id"], str) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fix the cause and run again") from None


def _delete(paths: list[Path]):
    for path in paths:
        fencing.check()
        going = path.with_name(f"{path.name}.tmp-{os.getpid()}")  # Half of it is never taken for a checkpoint.
        try:
            os.rename(path, going)
        except OSError:
            continue  # An older attempt was faster, or the disk is read-only.
        shutil.rmtree(going, ignore_errors=True)
