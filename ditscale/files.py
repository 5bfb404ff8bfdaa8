"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from .errors import UserError

# by what the system says of a place that it does not let us write
REMEDIES = {
    errno.ENOSPC: "free space on the disk",
    errno.EDQUOT: "free space on the disk",
    errno.EROFS: "mount the disk for writing",
    errno.EACCES: "make the place writable for you",
    errno.EPERM: "make the place writable for you",
}


def write_text(path: Path, text: str, to_disk: bool = True):
    """write_bytes of text."""
    write_bytes(path, text.encode(), to_disk)


def write_bytes(path: Path, content: bytes, to_disk: bool = True):
    """Write a file whole or not at all: beside, to disk, then renamed. Raises UserError on a full or read-only disk.

    to_disk: False for what need not survive the machine; a busy disk takes a fifth of a second for it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            if to_disk:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        remove(beside)
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def write_once(path: Path, text: str):
    """Make a file that must not be there yet; no reader ever sees a part of it. Raises FileExistsError, or OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text)
        try:
            os.link(beside, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with open(path, "x") as file:
                file.write(text)
    finally:
        remove(beside)


def read_mapping(path: Path, kinds: dict | None = None) -> dict:
    """The mapping in a JSON file that can be done without: empty where there is none, or it is damaged. `kinds` as in
    `of_kinds`."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):  # ValueError: not JSON, or not even UTF-8
        return {}
    return content if isinstance(content, dict) and of_kinds(content, kinds or {}) else {}


def of_kinds(content: dict, kinds: dict) -> bool:
    """Whether what a mapping has of the keys in `kinds` is of their types."""
    return all(isinstance(content[key], kind) for key, kind in kinds.items() if key in content)


def remove(path: Path):
    """Delete a file where that can be done: on a read-only disk even one that is not there cannot be."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def make_directory(path: Path):
    """Make a directory and its parents. Raises UserError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); {remedy(error, path)}") from None


def remedy(error: OSError, path: Path) -> str:
    """What to do where `path` could not be made or written."""
    in_the_way = next((at for at in (path, *path.parents) if os.path.isfile(at)), None)
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and in_the_way:
        return f"move {in_the_way} away, where a directory is to be"
    return REMEDIES.get(error.errno, "see that the place can be written")
