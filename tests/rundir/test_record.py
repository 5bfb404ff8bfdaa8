"""The run record: complete after any kill, one writer, nothing half-written."""

import errno
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from numpy.lib.recfunctions import repack_fields

from ditscale.errors import UserError
from ditscale.rundir.record import (
    ATTEMPT,
    MEASURED,
    STEP,
    VALIDATION,
    Damaged,
    Record,
    open_record,
    read_attempts,
    read_end,
    read_state,
    read_steps,
    read_totals,
)

WRITER = """
import sys, numpy as np
from ditscale.rundir.record import Record, STEP
record = Record(sys.argv[1], "run: text", 100000, ["a"], 4)
record.begin(1.0, 0, 1, "here")
print("open", flush=True)
for k in range(100000):
    row = np.zeros(1, STEP); row["images"], row["loss"] = k + 1, k
    record.write_steps(k, row)
    if k % 10 == 0:
        print(k, flush=True)
"""


def rows(first, n):
    made = np.zeros(n, STEP)
    made["images"], made["loss"] = np.arange(first, first + n) + 1, np.arange(first, first + n)
    return made


def record(path, steps=100):
    return Record(path, "text", steps, ["in", "out"], 8)


@pytest.mark.slow
def test_every_acknowledged_row_survives_sigkill(tmp_path):
    for k in range(15):
        path = tmp_path / f"metrics{k}.h5"
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "open\n"
        time.sleep(0.02 * (k % 5))
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = [int(line) for line in process.communicate()[0].split()]
        with open_record(path) as file:
            found = read_steps(file)
        assert len(found) > (acknowledged[-1] if acknowledged else -1)
        assert np.array_equal(found["images"], np.arange(len(found)) + 1)
        assert np.array_equal(found["loss"], np.arange(len(found), dtype="f4"))


def test_an_older_attempt_is_fenced(tmp_path):
    path = tmp_path / "metrics.h5"
    old = record(path)
    old.write_steps(0, rows(0, 10))
    new = record(path)
    new.begin(5.0, 3, 1, "b")
    old.write_steps(10, rows(50, 10))  # a process on a lost node, still writing
    old.end("finished", 9.0)
    new.write_steps(10, rows(10, 5))
    new.close()
    with open_record(path) as file:
        assert np.array_equal(read_steps(file)["loss"], np.arange(15))
    assert read_state(path) == "running"
    old.close()
    assert read_state(path) == "running"
    assert os.listdir(tmp_path) == ["metrics.h5"]


def test_rows_are_rewritten_not_repeated(tmp_path):
    r = record(tmp_path / "metrics.h5")
    r.write_steps(0, rows(0, 20))
    r.write_steps(10, rows(10, 20))
    with open_record(r.path) as file:
        assert len(read_steps(file)) == 30
    r.close()


def test_reader_beside_writer(tmp_path):
    r = record(tmp_path / "metrics.h5")
    with open_record(r.path) as file:
        assert len(read_steps(file)) == 0
    r.write_steps(0, rows(0, 3))
    with open_record(r.path) as file:
        assert len(read_steps(file)) == 3
    v = np.zeros((), VALIDATION)
    v["images"], v["loss"] = 3, 0.5
    r.write_validation(0, v, np.full(8, 0.5))
    r.end("finished", 2.0)
    r.close()
    assert read_state(tmp_path / "metrics.h5") == "finished"


@pytest.mark.parametrize("content", [b"", b"not hdf5 at all", None])
def test_damaged_records(tmp_path, content):
    path = tmp_path / "metrics.h5"
    if content is None:
        r = record(path)
        r.close()
        content = path.read_bytes()[:700]
    path.write_bytes(content)
    with pytest.raises(Damaged, match="truncated or not HDF5"):
        read_state(path)
    with pytest.raises(Damaged):
        record(path)
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["metrics.h5"]
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(Damaged, match="not a run record"):
        read_state(tmp_path / "other.h5")
    with pytest.raises(Damaged, match="is missing"):
        open_record(tmp_path / "none.h5")
    (tmp_path / "directory.h5").mkdir()
    for read in (open_record, read_state, read_end, record):
        with pytest.raises(Damaged, match="directory.h5: is not a file; move it away"):
            read(tmp_path / "directory.h5")


@pytest.mark.parametrize(
    "error, says",
    [
        (OSError(errno.ENOSPC, "full"), "No space left on device); free space on the disk, then run again"),
        (OSError(errno.EDQUOT, "full"), "Disk quota exceeded); free space on the disk, then run again"),
        (RuntimeError("Can't write (errno = 28, error message = 'x')"), "No space left on device); free space"),
        (OSError(errno.EROFS, "ro"), "Read-only file system); mount the disk for writing, then run again"),
        (RuntimeError("Can't write (no more is known)"), "(Can't write); check that the place can be written"),
    ],
)
def test_a_place_that_cannot_be_written(tmp_path, monkeypatch, error, says):
    """Only where space has run out is space asked for; HDF5 may say so in its text alone."""

    def fails(*_):
        raise error

    monkeypatch.setattr(Record, "_make", fails)
    with pytest.raises(UserError) as told:
        record(tmp_path / "metrics.h5")
    assert says in str(told.value) and not os.listdir(tmp_path)


def test_skipped_steps_of_all_attempts(tmp_path):
    path = tmp_path / "metrics.h5"
    assert read_totals(path).skipped == 0
    for k in range(20):
        r = record(path)
        r.begin(10.0, 0, 1, "host")
        r.measure({"skipped": k})
        r.close()
    assert read_totals(path).skipped == 190
    with h5py.File(path, "r+") as file:  # as of layout 1
        rows = file["attempts"][:]
        del file["attempts"]
        file["attempts"] = repack_fields(rows[[name for name in ATTEMPT.names if name not in MEASURED.names]])
    assert read_totals(path).skipped == 0


def test_attempt_rows(tmp_path):
    for k in range(3):
        r = record(tmp_path / "metrics.h5")
        r.begin(10.0 + k, 16 * k, 2, "host")
        r.end("stopped", 11.0 + k)
        r.close()
    with open_record(tmp_path / "metrics.h5") as file:
        found = file["attempts"][:3]
    assert found.dtype == ATTEMPT
    assert found["from_images"].tolist() == [0, 16, 32] and (found["ended"] == b"stopped").all()


def test_measured_and_a_record_of_layout_1(tmp_path):
    """What an attempt measures is in its row; a record from before it was kept is read, and renewed by the next
    attempt."""
    path = tmp_path / "metrics.h5"
    r = record(path)
    r.begin(10.0, 0, 1, "host")
    r.measure({"images_per_s": 5.0, "sharding": b"full"})
    r.measure({"skipped": 3})
    r.end("stopped", 11.0)
    r.close()
    old = [name for name in ATTEMPT.names if name not in MEASURED.names]
    with h5py.File(path, "r+") as file:
        rows = file["attempts"][:]
        assert rows[0][["images_per_s", "sharding", "skipped"]].tolist() == (5.0, b"full", 3)
        del file["attempts"]
        file["attempts"] = rows[old]
        file.attrs["layout"] = 1
    with open_record(path) as file:
        assert read_attempts(file)[["ended", "images_per_s"]].tolist() == [(b"stopped", 0.0)]
    r = record(path)
    r.begin(12.0, 16, 1, "host")
    r.close()
    with open_record(path) as file:
        assert file.attrs["layout"] == 2 and file["attempts"].dtype == ATTEMPT
        assert read_attempts(file)["from_images"].tolist() == [0, 16]
