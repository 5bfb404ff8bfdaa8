"""Files written whole or not at all, and files created exactly once."""

import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from ditscale import files
from ditscale.errors import UserError, command
from ditscale.files import write_bytes, write_once
from ditscale.laws import seal

# What systems answer where a file system has no hard links, or no further one for this file.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK)


def without(monkeypatch, *methods):
    """Take away hard links ("link", with what the system answers) and the rename that never replaces ("rename")."""
    if "rename" in methods:
        monkeypatch.setattr(files, "_renamed", lambda *_: False)
    for number in (m for m in methods if m != "rename"):
        monkeypatch.setattr(os, "link", lambda *_, number=number: raised(OSError(number, os.strerror(number))))


def raised(error):
    raise error


@pytest.mark.parametrize("to_disk", [False, True])
@pytest.mark.parametrize("methods", [(), *((n,) for n in NO_LINKS), *((n, "rename") for n in NO_LINKS)])
def test_created_once_and_never_overwritten(tmp_path, monkeypatch, caplog, methods, to_disk):
    path = tmp_path / "file"
    without(monkeypatch, *methods)
    write_once(path, "first", to_disk)
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["file"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == ("rename" in methods) and all(f"{path}: its file system has no hard links" in s for s in said)
    before = path.stat()
    for _ in range(2):
        with pytest.raises(FileExistsError):
            write_once(path, "second", to_disk)
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["file"]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_link_that_nfs_made_twice(tmp_path, monkeypatch):
    """The answer to the first request was lost, so the client asked again, and was told that the name is taken."""
    link = os.link

    def repeated(*names):
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", repeated)
    write_once(tmp_path / "file", "mine")
    assert (tmp_path / "file").read_text() == "mine" and os.listdir(tmp_path) == ["file"]


RACE = """
import errno, os, sys
from pathlib import Path
from ditscale import files
root, me, methods = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")
def refuse(*_):
    raise OSError(errno.EPERM, "no hard links")
if "link" in methods:
    os.link = refuse
if "rename" in methods:
    files._renamed = lambda *_: False
(root / f"ready-{me}").touch()
while len(list(root.glob("ready-*"))) < 2:
    pass
won = []
for n in range(300):
    try:
        files.write_once(root / str(n), me * 1000)
        won.append(n)
    except FileExistsError:
        if "rename" not in methods:  # no reader ever sees a part
            assert len((root / str(n)).read_text()) == 1000
print(*won)
"""


@pytest.mark.parametrize("methods", ["", "link", "link,rename"])
def test_of_two_that_race_exactly_one_wins(tmp_path, methods):
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    racing = [
        subprocess.Popen([*command, me, methods], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for me in "ab"
    ]
    said = [process.communicate(timeout=60) for process in racing]
    assert [process.returncode for process in racing] == [0, 0], said
    a, b = (set(map(int, out.split())) for out, _ in said)
    assert not a & b and a | b == set(range(300))
    for n in range(300):
        assert (tmp_path / str(n)).read_text() == ("a" if n in a else "b") * 1000
    assert len(os.listdir(tmp_path)) == 302


@pytest.mark.parametrize("methods", [(), (errno.EPERM,), (errno.EPERM, "rename")])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, methods):
    without(monkeypatch, *methods)
    monkeypatch.setattr(os, "fsync", lambda _: raised(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    for write in (lambda path: write_once(path, "x", to_disk=True), lambda path: write_bytes(path, b"x")):
        with pytest.raises(UserError, match=r"file: cannot be written \(No space left on device\); free space"):
            write(tmp_path / "file")
        assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_disk_that_is_full_in_truth(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no mounts here")
    try:
        for write in (lambda path: write_once(path, "x" * 10**6), lambda path: write_bytes(path, b"x" * 10**6)):
            with pytest.raises(UserError, match="No space left on device.; free space on the disk"):
                write(disk / "file")
            assert not os.listdir(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_commands_paste(tmp_path):
    directory = tmp_path / "it's a $tudy"
    directory.mkdir()
    line = command("echo", directory, "--job").strip("`").replace("ditscale echo", "echo", 1)
    said = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert said.stdout == f"{directory} --job\n"
    assert command("launch", "study") == "`ditscale launch study`"


@dataclass(frozen=True)
class Made:
    """What `seal` needs of a forecast."""

    inputs: SimpleNamespace
    created: str | None = None
    sha256: str | None = None

    def to_dict(self) -> dict:
        return {"created": self.created, "sha256": self.sha256, "inputs": vars(self.inputs)}


@pytest.mark.parametrize("methods", [(), (errno.EPERM,), (errno.EPERM, "rename")])
def test_a_seal_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, methods):
    """Somebody writes it between the look and the writing; also where there are no hard links."""
    path, other = tmp_path / "forecast.json", b'{"sealed": "by somebody else"}\n'
    path.write_bytes(other)
    without(monkeypatch, *methods)
    monkeypatch.setattr(type(path), "exists", lambda _: False)
    with pytest.raises(UserError, match="written by someone else meanwhile; it is never overwritten"):
        seal(path, Made(SimpleNamespace(measured_probes=[])))
    assert path.read_bytes() == other and os.listdir(tmp_path) == ["forecast.json"]
    seal(tmp_path / "another.json", Made(SimpleNamespace(measured_probes=[])))
    assert len(os.listdir(tmp_path)) == 2
