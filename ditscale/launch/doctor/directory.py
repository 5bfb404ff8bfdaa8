"""What `ditscale doctor` finds about one thing, and about the file system of a study."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Iterator

from ...errors import UserError
from ...files import write_once

OK, NOTE, BAD = "ok", "note", "bad"
SKEW_S = 5.0
LOW_GIB = 10.0


@dataclass(frozen=True)
class Finding:
    """`level`: ok, note (works, but know it) or bad; `what` was found, `remedy` is what to do."""

    level: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.what}{f'; {self.remedy}' if self.remedy else ''}"


ok, note, bad = (partial(Finding, level) for level in (OK, NOTE, BAD))


def directory(root: Path) -> list[Finding]:
    """All findings about the directory of a study, or where one will be. Writes and removes files of its own there."""
    try:
        with scratch_at(root) as scratch:
            at = scratch.parent
            found = [shared(at), _locks(scratch), _renames(scratch)]
            (scratch / "now").write_text("")
            skew = (scratch / "now").stat().st_mtime - time.time()
            free = shutil.disk_usage(at).free / 2**30
    except OSError as error:
        return [bad(f"{_existing(root)} cannot be written ({error.strerror})", "put the study on another file system")]
    remedy = "heartbeats may look old or new by that; ask for NTP"
    wrong = note(f"the file system's clock is {skew:+.0f} s off this machine's", remedy)
    found.append(wrong if abs(skew) > SKEW_S else ok("the file system's clock agrees with this machine's"))
    low = note(f"only {free:.1f} GiB free", "`ditscale plan` says how much a study takes")
    return [*found, low if free <= LOW_GIB else ok(f"{free:.0f} GiB free")]


@contextmanager
def scratch_at(root: Path) -> Iterator[Path]:
    """A new directory in `root`, or in the first of its parents that exists; deleted afterwards. Raises OSError."""
    scratch = Path(tempfile.mkdtemp(prefix=".ditscale-doctor-", dir=_existing(root)))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _existing(root: Path) -> Path:
    root = Path(root).absolute()
    return next(path for path in (root, *root.parents) if path.is_dir())


def file_system(at: Path) -> str:
    """The type of the file system that contains a directory, by /proc/mounts."""
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mounts = [(row[1].encode().decode("unicode_escape"), row[2]) for row in rows if len(row) > 2]
    above = [(len(point), kind) for point, kind in mounts if Path(at).is_relative_to(point)]
    return max(above)[1] if above else "?"


def shared(at: Path) -> Finding:
    """Whether a directory looks as if other machines see it."""
    kind = file_system(at.resolve())
    if kind in ("tmpfs", "ramfs", "overlay") or f"{at.resolve()}/".startswith(("/tmp/", "/var/tmp/", "/dev/shm/")):
        remedy = "other nodes must see the study; `ditscale doctor DIR --job` checks that"
        return note(f"{at} ({kind}) looks local to this machine", remedy)
    return ok(f"{at} is on {kind}")


def _locks(scratch: Path) -> Finding:
    path = scratch / "lock"
    try:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            code = f"import fcntl; fcntl.flock(open({str(path)!r}), fcntl.LOCK_SH | fcntl.LOCK_NB)"
            seen = subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0
    except OSError as error:
        remedy = "two launches at once are then not refused; each run is still claimed by one attempt"
        return note(f"no file locks here ({error.strerror})", remedy)
    if not seen:
        return note("file locks are not seen by other processes", "do not launch from two places at once")
    return ok("file locks work between processes")


def _renames(scratch: Path) -> Finding:
    """Renaming over a file, and creating one that only one process can: what records and attempts rely on."""
    (scratch / "a").write_text("new")
    (scratch / "b").write_text("old")
    os.replace(scratch / "a", scratch / "b")
    try:
        write_once(scratch / "b", "third")
    except FileExistsError:
        if (scratch / "b").read_text() == "new":
            return ok("rename and exclusive creation work")
    except UserError:
        pass
    return bad("rename or exclusive creation does not work here", "put the study on another file system")
