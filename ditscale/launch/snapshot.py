"""The exact source that runs execute: a copy in the study directory, so that edits never reach a run that waits.

code/<hash>/ditscale, where the hash is of the source; made in a staging directory and renamed when complete.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from ..errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent


def snapshot(code: Path) -> Path:
    """Copy the package's source under `code`, unless that very source is there; returns the directory to import from."""
    sources = sorted(PACKAGE.rglob("*.py"))
    content = {path.relative_to(PACKAGE.parent): path.read_bytes() for path in sources}
    digest = hashlib.sha256(b"".join(str(name).encode() + text for name, text in content.items())).hexdigest()[:12]
    target, staging = code / digest, code / f".{digest}.{os.getpid()}"
    if target.is_dir():
        return target
    try:
        for name, text in content.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(text)
        os.rename(staging, target)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if not target.is_dir():  # another launcher may have finished the same copy first
            raise UserError(f"{target}: cannot be written ({error.strerror}); free space on the disk and launch again") from None
    return target
