"""Claims: one writer at a time, by whatever witness there is; and the end of a crash loop."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from ditscale.naming import RunPaths
from ditscale.rundir import attempts as module
from ditscale.rundir import fencing
from ditscale.rundir.attempts import Busy, CrashLoop, claim, end, last_attempt, read_attempts
from ditscale.rundir.lock import RunLock, is_locked
from ditscale.rundir.outcomes import Fenced, note_failure
from ditscale.rundir.session import Heartbeat


@pytest.fixture
def at(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SUBMITIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue here
    (tmp_path / "run").mkdir()
    return RunPaths(tmp_path / "run")


def in_slurm(monkeypatch, array, index, restart=0):
    for name, value in (
        ("JOB_ID", array + index),
        ("ARRAY_JOB_ID", array),
        ("ARRAY_TASK_ID", index),
        ("RESTART_COUNT", restart),
    ):
        monkeypatch.setenv(f"SLURM_{name}", str(value))


CLAIM = """
from ditscale.rundir.attempts import Busy, claim
from ditscale.naming import RunPaths
while True:
    try:
        me, lock = claim(RunPaths({root!r}))
        break
    except Busy:
        pass
print(me.number)
"""


def test_numbers_go_up_and_only_one_gets_each(at):
    """Six processes race; each holds the run from its claim to its end, so the others wait for that."""
    command = [sys.executable, "-c", CLAIM.format(root=str(at.root))]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    numbers = sorted(int(process.communicate()[0]) for process in racing)
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert [a.number for a in read_attempts(at)] == numbers and last_attempt(at).number == 6


def test_a_living_process_keeps_its_run_and_a_dead_one_does_not(at):
    first, lock = claim(at)
    with pytest.raises(Busy, match=f"process {os.getpid()} on .* is running it"):
        claim(at)
    lock.release()
    assert claim(at)[0].number == first.number + 1
    end(at, first, "stopped")
    assert [a.ended for a in read_attempts(at)] == ["stopped", ""]


def test_a_lock_without_an_attempt_is_respected(at):
    """Someone trains from a notebook, say, or an older version does."""
    lock = RunLock(at.lock)
    with pytest.raises(Busy, match=f"process {os.getpid()} on .* is running it"):
        claim(at)
    assert not read_attempts(at)
    lock.release()


def test_the_restart_of_a_job_takes_over_from_a_process_that_lives_on(at, monkeypatch):
    """Its node was lost to Slurm: the old process holds the lock, beats its heart, and is fenced."""
    in_slurm(monkeypatch, 7, 3)
    old, held = claim(at)
    heart, nested = Heartbeat(at.heartbeat, 100), Heartbeat(at.root.parent / "nested.json", 100)
    with fencing.holding_token(at.root, old.number):
        heart.beat("training", 10, 0.5, 1, force=True)

        in_slurm(monkeypatch, 7, 3, restart=1)
        new, lock = claim(at)
        assert (new.number, new.job, new.restart) == (2, "7_3", 1)
        lock.release()
        assert not is_locked(at.lock)  # the name is the new attempt's, while the old one has its lock still
        before = at.heartbeat.read_text()
        for writer in (heart, nested):  # nor does it write the directory of a nested run
            with pytest.raises(Fenced, match="attempt 1 ends: attempt 2 has taken over"):
                writer.beat("training", 20, 0.5, 1, force=True)
        with ThreadPoolExecutor() as pool, pytest.raises(Fenced):  # as the thread that writes checkpoints
            pool.submit(fencing.check).result()
        assert at.heartbeat.read_text() == before and not nested.path.exists()
    with fencing.holding_token(at.root, new.number):
        heart.beat("training", 30, 0.5, 1, force=True)
    fencing.check()  # without a token nothing is checked: a run that was started from a notebook, for example
    held.release()


def test_another_job_is_believed_alive_by_its_heartbeat_where_squeue_is_silent(at, monkeypatch):
    in_slurm(monkeypatch, 7, 3)
    claim(at)
    path = at.root / "attempts" / "0001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere", "node": "node9"}))
    at.heartbeat.write_text("{}")
    in_slurm(monkeypatch, 8, 0)
    with pytest.raises(Busy, match="job 7_3 on node9 is running it"):
        claim(at)
    old = time.time() - 2 * module.LIVE_S
    os.utime(at.heartbeat, (old, old))
    assert claim(at)[0].number == 2


def test_progress_of_what_is_read_from_a_run_is_progress(at, monkeypatch):
    """While a run's readings are trained and measured, its own checkpoints stand still."""
    monkeypatch.setattr(module, "read_run", lambda path: SimpleNamespace(readings=("short",)))
    at.checkpoint.mkdir()
    short = RunPaths(at.root.parent / "short")
    seen = []
    for images in (16, 32):
        (short.checkpoint / f"images-{images:015d}").mkdir(parents=True)
        seen.append(module._newest_checkpoint(at))
    assert len(set(seen)) == 2 and seen[1].endswith("images-000000000000032")


def test_attempts_without_progress_end_and_progress_or_a_new_launch_starts_again(at, monkeypatch):
    at.checkpoint.mkdir()
    for restart in range(module.IDLE_ATTEMPTS):
        in_slurm(monkeypatch, 7, 3, restart)
        claim(at)
    in_slurm(monkeypatch, 7, 3, module.IDLE_ATTEMPTS)
    with pytest.raises(CrashLoop, match="5 attempts of job 7_3 got no further than its first checkpoint"):
        claim(at)
    in_slurm(monkeypatch, 9, 0)
    claim(at)  # another job: somebody has launched again
    for restart in range(3 * module.IDLE_ATTEMPTS):
        (at.checkpoint / f"images-{restart:015d}").mkdir()
        in_slurm(monkeypatch, 9, 0, restart)
        claim(at)


def test_a_failure_is_noted_where_it_can_be(at):
    note_failure(at, "first line\nsecond")
    assert json.loads(at.failure.read_text())["reason"] == "first line second"
    at.failure.unlink()
    at.failure.mkdir()  # as on a full disk: it cannot be written
    note_failure(at, "the error itself is on its way to the log")
    assert os.listdir(at.root) == ["failure.json"]


def test_an_attempt_whose_file_was_cut_short_is_none(at):
    claim(at)
    (at.root / "attempts" / "0001.json").write_text("")
    assert claim(at)[0].number == 2


@pytest.mark.parametrize("saved, seen, lost", [(160, 320, 160), (0, 320, 320), (320, 320, 0), (336, 320, 0)])
def test_the_next_attempt_knows_what_was_lost(at, saved, seen, lost):
    """What the heartbeat has beyond the newest checkpoint is trained again; nothing of a first attempt is."""
    first, lock = claim(at)
    assert (first.before_unix, first.lost_images) == (0.0, 0)
    lock.release()
    if saved:
        (at.checkpoint / f"images-{saved:015d}").mkdir(parents=True)
    at.heartbeat.write_text(json.dumps({"images": seen, "unix": 123.5}))
    again, lock = claim(at)
    lock.release()
    assert (again.before_unix, again.lost_images) == (123.5, lost)
    assert read_attempts(at) == [first, again]
