"""Writing files whole or not at all."""

import errno
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path

from .errors import UserError
from .logs import log

# What helps, by what the system says of a place that cannot be written.
REMEDIES = {errno.EROFS: "mount the disk for writing"}
REMEDIES |= dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space on the disk")
REMEDIES |= dict.fromkeys((errno.EACCES, errno.EPERM), "make the place writable for you")
AT_FDCWD, RENAME_NOREPLACE = -100, 1  # of Linux' renameat2


def write_text(path: Path, text: str, to_disk: bool = True):
    write_bytes(path, text.encode(), to_disk)


def write_bytes(path: Path, content: bytes, to_disk: bool = True):
    """Write a file whole or not at all, over what is there. Raises UserError on a full or read-only disk. to_disk: wait
    for the disk, which takes a busy one 0.2 s; False for what need not survive the machine."""
    beside = _beside(path)
    try:
        _fill(beside, content, to_disk)
        os.replace(beside, path)
    except OSError as error:
        remove(beside)
        raise unwritable(path, error) from None


def write_once(path: Path, text: str, to_disk: bool = False):
    """Create a file that does not exist yet. Nothing is ever overwritten, and no reader sees a part of the file: it
    gets its name by a hard link or by a rename that never replaces; a warning says where the file system has neither.
    Raises FileExistsError, or UserError on a full or read-only disk. to_disk: as in write_bytes."""
    beside = _beside(path)
    try:
        _fill(beside, text.encode(), to_disk)
        if not (_linked(beside, path) or _renamed(beside, path)):
            _fill(path, text.encode(), to_disk)
            log.warning(f"{path}: its file system has no hard links; a reader may see this file before it is complete")
        if to_disk:
            folder_to_disk(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        remove(beside)


def _beside(path: Path) -> Path:
    """A name that no other process, on this node or another, uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}")


def _fill(path: Path, content: bytes, to_disk: bool):
    """Create a file with this content; none is left where that fails. Raises OSError."""
    with open(path, "xb") as file:
        try:
            file.write(content)
            file.flush()
            if to_disk:
                os.fsync(file.fileno())
        except OSError:
            remove(path)
            raise


def _linked(beside: Path, path: Path) -> bool:
    """Give a file its name by a hard link; False where there are none. Raises FileExistsError where it is taken."""
    try:
        os.link(beside, path)
    except FileExistsError:
        if beside.stat().st_nlink < 2:  # NFS repeats a request whose answer was lost, and then refuses what succeeded.
            raise
    except OSError:
        return False
    return True


def _renamed(beside: Path, path: Path) -> bool:
    """The same by a rename that never replaces."""
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = (AT_FDCWD, os.fsencode(beside), AT_FDCWD, os.fsencode(path))
    if renameat2 is None or renameat2(*names, RENAME_NOREPLACE):
        if path.exists():
            raise FileExistsError(path)
        return False
    return True


def folder_to_disk(folder: Path):
    """Wait until the disk has a directory's names. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_mapping(path: Path, kinds: dict | None = None) -> dict:
    """The mapping in a JSON file; empty where that is missing or damaged, or a value is not of its type in `kinds`."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):  # ValueError: not JSON, or not even UTF-8
        return {}
    return content if isinstance(content, dict) and of_kinds(content, kinds or {}) else {}


def of_kinds(content: dict, kinds: dict) -> bool:
    """Whether those keys of `kinds` that a mapping has are of their types."""
    return all(isinstance(content[key], kind) for key, kind in kinds.items() if key in content)


def remove(path: Path):
    """Delete a file if possible: on a read-only disk not even a missing one can be."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def make_directory(path: Path):
    """Make a directory and its parents. Raises UserError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); {remedy(error, path)}") from None


def unwritable(path: Path, error: OSError, then: str = "") -> UserError:
    """The error of a path that cannot be written: the reason, what helps, and what to do `then`."""
    after = f", then {then}" if then else ""
    return UserError(f"{path}: cannot be written ({error.strerror}); {remedy(error, path)}{after}")


def remedy(error: OSError, path: Path) -> str:
    """What to do where `path` could not be made or written."""
    in_the_way = next((at for at in (path, *path.parents) if os.path.isfile(at)), None)
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and in_the_way:
        return f"move {in_the_way} away: a directory must be there"
    return REMEDIES.get(error.errno or 0, "check that the place can be written")
