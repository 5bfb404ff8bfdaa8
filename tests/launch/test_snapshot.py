import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ditscale.config import configs_dir
from ditscale.errors import UserError
from ditscale.launch import snapshot as module
from ditscale.launch.backends.preamble import importing_from
from ditscale.launch.snapshot import snapshot


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """A checkout of the user's own, whose package is copied instead of this one."""
    package = tmp_path / "checkout" / "ditscale"
    shutil.copytree(module.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", package)
    return package


def contents(root: Path) -> dict:
    return {
        p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }


def test_the_copy_is_whole_and_is_what_gets_imported(tmp_path):
    source = snapshot(tmp_path / "code")
    wanted = contents(module.PACKAGE) | {Path("configs") / name: text for name, text in contents(configs_dir()).items()}
    assert contents(source / "ditscale") == wanted and Path("report/style.css") in wanted
    assert not list(source.rglob("__pycache__"))
    assert snapshot(tmp_path / "code") == source and len(os.listdir(tmp_path / "code")) == 1
    code = (
        "import ditscale; from ditscale.config import compose, configs_dir; compose(['study=paper']); "
        "print(ditscale.__file__); print(configs_dir())"
    )
    with importing_from(source, {}):  # even from the checkout itself
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=module.PACKAGE.parent, env=env, capture_output=True, text=True
        )
    at = source.resolve() / "ditscale"
    assert found.stdout.splitlines() == [str(at / "__init__.py"), str(at / "configs")], found.stderr
    assert os.environ.get("PYTHONSAFEPATH") is None
    # what Python compiles is no change
    assert list(source.rglob("__pycache__")) and snapshot(tmp_path / "code") == source


def test_other_source_is_another_copy_and_leaves_the_first_alone(tmp_path, edited):
    first = snapshot(tmp_path / "code")
    before = contents(first)
    (edited / "report" / "style.css").write_text("body {}")
    second = snapshot(tmp_path / "code")
    assert second != first and contents(first) == before
    assert (second / "ditscale/report/style.css").read_text() == "body {}"


def test_a_copy_without_its_mark_is_made_again(tmp_path):
    source = snapshot(tmp_path / "code")
    whole = contents(source)
    (source / "complete").unlink()
    (source / "ditscale" / "pipeline.py").unlink()
    assert snapshot(tmp_path / "code") == source and contents(source) == whole
    assert len(os.listdir(tmp_path / "code")) == 1


def test_the_mark_is_the_last_file_written(tmp_path):
    source = snapshot(tmp_path / "code")
    assert max((p for p in source.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns).name == "complete"


@pytest.mark.slow
def test_a_copy_that_is_used_is_never_replaced(tmp_path):
    """Elements of an array start together and all want the copy. Each, once it has it, finds it whole, and the same
    one."""
    look = """
import os, sys, time
from pathlib import Path
from ditscale.launch.snapshot import snapshot
for n in range(6):
    time.sleep(max(0, float(sys.argv[2]) + 1.5 * n - time.time()))
    target = snapshot(Path(sys.argv[1]) / str(n))
    first = os.stat(target).st_ino
    until = time.time() + 0.3
    while time.time() < until:
        assert os.stat(target).st_ino == first and (target / "ditscale" / "pipeline.py").is_file()
"""
    start = str(time.time() + 3)
    racing = [
        subprocess.Popen([sys.executable, "-c", look, str(tmp_path), start], stderr=subprocess.PIPE) for _ in range(6)
    ]
    assert [(p.communicate()[1].decode(), p.returncode) for p in racing] == [("", 0)] * 6
    assert all(len(list(code.iterdir())) == 1 for code in tmp_path.iterdir())


def test_a_changed_copy_is_refused(tmp_path):
    source = snapshot(tmp_path / "code")
    victim = source / "ditscale" / "units.py"
    assert victim.stat().st_mode & 0o222 == 0
    text = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(text.replace(b"1", b"2", 1))  # of the same length
    with pytest.raises(UserError, match="was changed after it was made"):
        snapshot(tmp_path / "code")


@pytest.mark.parametrize("name", [".env", "train/server.pem", "id_rsa", "data/aws_credentials.json", "hub.token"])
def test_names_of_secrets_are_refused(tmp_path, edited, name):
    (edited / name).write_text("x")
    with pytest.raises(UserError, match=f"{Path(name).name}: looks like a secret .its name is like"):
        snapshot(tmp_path / "code")
    assert not (tmp_path / "code").exists()


@pytest.mark.parametrize("kind", ["", "RSA ", "OPENSSH ", "ENCRYPTED "])
def test_private_keys_are_refused_whatever_they_are_called(tmp_path, edited, kind):
    (edited / "launch" / "notes.txt").write_text(f"for the cluster:\n-----BEGIN {kind}PRIVATE KEY-----\nabc\n")
    with pytest.raises(UserError, match="notes.txt: looks like a secret .it contains a private key"):
        snapshot(tmp_path / "code")
    assert not (tmp_path / "code").exists()


def test_more_than_100_mib_is_refused(tmp_path, edited):
    with open(edited / "model" / "weights.pt", "wb") as file:
        file.truncate(110 * 2**20)
    with pytest.raises(UserError, match="holds 11[01] MiB.* at most 100.*weights.pt, 110 MiB"):
        snapshot(tmp_path / "code")
    assert not (tmp_path / "code").exists()


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    """What the system says, and what helps against it."""

    def says(code) -> str:
        with pytest.raises(UserError, match=r"code/\w+: cannot be written \(.*\); .*, then launch again") as told:
            snapshot(code)
        return str(told.value)

    (tmp_path / "code").write_text("a file")
    assert f"(Not a directory); move {tmp_path / 'code'} away" in says(tmp_path / "code")
    for number, advice in (
        (errno.ENOSPC, "(No space left on device); free space on the disk"),
        (errno.EACCES, "(Permission denied); make the place writable for you"),
        (errno.EROFS, "(Read-only file system); mount the disk for writing"),
        (errno.EIO, "(Input/output error); check that the place can be written"),
    ):
        refused = OSError(number, os.strerror(number))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", lambda *_, refused=refused, **__: raised(refused))
            assert advice in says(tmp_path / "other" / "code")


def raised(error):
    raise error
