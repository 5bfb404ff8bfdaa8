"""The run's lock between real processes."""

import errno
import fcntl
import subprocess
import sys
import time

import pytest

from ditscale.rundir.lock import LockHeld, RunLock, is_locked


def test_two_hundred_starts_beside_a_status_loop(tmp_path):
    """Looking takes a lock for an instant; no start may fail of it, and none may go unseen."""
    path = tmp_path / "lock"
    RunLock(path).release()
    code = f"from ditscale.rundir.lock import is_locked\nwhile True: is_locked({str(path)!r})"
    watchers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    try:
        time.sleep(0.5)
        for _ in range(200):
            lock = RunLock(path)
            assert is_locked(path)
            lock.release()
            time.sleep(0.001)
        assert all(watcher.poll() is None for watcher in watchers)
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.wait()


def test_one_that_is_held_names_its_holder(tmp_path):
    code = (
        f"from ditscale.rundir.lock import RunLock; lock = RunLock({str(tmp_path / 'lock')!r}); "
        "print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockHeld, match=f"process {holder.pid} on .* is running it"):
        RunLock(tmp_path / "lock")
    (tmp_path / "lock").write_bytes(b"{\xff}")  # somebody else wrote there
    with pytest.raises(LockHeld, match=r"process \? on \? is running it"):
        RunLock(tmp_path / "lock")
    holder.kill()
    holder.communicate()
    RunLock(tmp_path / "lock").release()


def test_a_file_system_without_locks_refuses_no_run(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    RunLock(tmp_path / "lock").release()
    assert not is_locked(tmp_path / "lock")
