"""The exact source that runs execute: a copy in the study directory, so that edits never reach a pending run.

code/<hash>/ditscale is the whole installed package, its configs/ inside as in a wheel; the hash covers all names and
contents. A copy is staged under another name, marked complete by a file of its own, then renamed."""

import hashlib
import os
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

from ..config import configs_dir
from ..errors import UserError
from ..files import unwritable

PACKAGE = Path(__file__).resolve().parent.parent
MARK = "complete"
LIMIT = 100 * 2**20  # Bytes. The package itself is about 1 MiB, so a larger one has stray files in it.

# Names of keys, logins and tokens that may lie in a checkout, and must not reach a study directory, which others read.
SECRETS = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", "*credentials*", ".netrc",
    "*.token", "token",
)  # fmt: skip
PRIVATE_KEY = re.compile(rb"^-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----", re.M)  # of a PEM file of any name


def snapshot(code: Path) -> Path:
    """Copy the package into `code`, unless this very copy is there; returns the directory to import from. Raises
    UserError where the package may contain a secret or is too large, or the copy cannot be written or was changed."""
    content = _content()
    digest = _digest(content)
    target, staging = code / digest, code / f".{digest}.{os.getpid()}"
    if (target / MARK).is_file():
        there = {f"ditscale/{name}": path.read_bytes() for name, path in _files(target / "ditscale").items()}
        if _digest(there) != digest:
            then = "delete it once none of them is pending or running, then launch again"
            raise UserError(f"{target}: was changed after it was made, and runs import it; {then}")
        return target
    try:
        for name, text in content.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(text)
            (staging / name).chmod(0o444)
        (staging / MARK).write_text(f"{len(content)} files\n")
        if target.exists() and not (target / MARK).is_file():  # One without a mark gives way.
            shutil.rmtree(target, ignore_errors=True)
        os.rename(staging, target)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if not (target / MARK).is_file():  # Another launcher may have finished the same copy first.
            raise unwritable(target, error, "launch again") from None
    return target


def _content() -> dict[str, bytes]:
    """The files to copy, by their names in the copy. A package that is too large is refused before it is read."""
    files = _files(PACKAGE) | {f"configs/{name}": path for name, path in _files(configs_dir()).items()}
    for path in files.values():
        if pattern := next((p for p in SECRETS if fnmatch(path.name.lower(), p)), None):
            raise _secret(path, f"its name is like {pattern}")
    sizes = {path: path.stat().st_size for path in files.values()}
    if sum(sizes.values()) > LIMIT:
        size, largest = max((size, path) for path, size in sizes.items())
        keeps = f"a study keeps a copy of at most {LIMIT / 2**20:.0f}; move away what is no source"
        holds = f"{PACKAGE}: holds {sum(sizes.values()) / 2**20:.0f} MiB, and {keeps}"
        raise UserError(f"{holds} (the largest is {largest}, {size / 2**20:.0f} MiB) and launch again")
    content = {f"ditscale/{name}": files[name].read_bytes() for name in sorted(files)}
    for name, text in content.items():
        if PRIVATE_KEY.search(text):
            raise _secret(files[name.removeprefix("ditscale/")], "it contains a private key")
    return content


def _secret(path: Path, why: str) -> UserError:
    then = "and a study keeps a copy of the package; move it elsewhere and launch again"
    return UserError(f"{path}: looks like a secret ({why}), {then}")


def _files(root: Path) -> dict[str, Path]:
    """Regular files under a directory, by their names in it; without what Python compiled."""
    found = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    return {name.as_posix(): path for name, path in found.items() if "__pycache__" not in name.parts}


def _digest(content: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(f"{name}\0{len(content[name])}\0".encode() + content[name])
    return digest.hexdigest()[:12]
