"""The record of one run: metrics.h5, complete after any kill.

Datasets of fixed length, created up front, written in place and flushed, lost nothing in 150 SIGKILLs; files whose
structure grows were lost whole. So a record has its final structure from the start: one row for every training step of
the plan, with images = 0 in rows not reached yet. A resumed attempt rewrites the rows it repeats.

Fencing: an attempt opens the record by copying it, then renames the copy over the original. An older attempt that still
lives (on a lost node, for example) keeps writing to a file that no longer has a name.

Layout (attributes `layout` = 2, `run` = text of run.yaml, and, of a rehearsed run alone, `rehearsal`):
    steps        [steps]        images, loss, loss_ema, grad_norm, lr, elapsed_s
    validation   [sets]         dataset, images, loss, loss_se, raw_loss, elapsed_s
    samples      [sets, n]      each validation triple's loss with EMA weights, for paired differences of runs
    attempts     [1000]         started_unix, ended_unix, from_images, pid, ranks, host, ended, and MEASURED
    state        scalar         planned, running, stopped, diverged, finished
Layout 1 lacks MEASURED: it is read like 2, and the next attempt at the run converts it."""

import os
import re
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.lib.recfunctions import require_fields

from ..errors import UserError, command
from ..files import remove, unwritable

LAYOUT, LAYOUTS = 2, (1, 2)  # what is written, and what is read
STEP = np.dtype([("images", "i8"), *((name, "f4") for name in ("loss", "loss_ema", "grad_norm", "lr", "elapsed_s"))])
LOSSES = [(name, "f8") for name in ("loss", "loss_se", "raw_loss", "elapsed_s")]
VALIDATION = np.dtype([("dataset", "S64"), ("images", "i8"), *LOSSES])
MEASURED = np.dtype(  # of the training steps of one attempt on all its ranks; 0 or "" is unknown
    [
        ("device", "S48"),
        ("sharding", "S9"),  # of the weights over ranks
        ("micro_batch", "i4"),  # images of a rank in one pass through the model
        ("halvings", "i4"),  # of the micro-batch, because memory ran out
        ("skipped", "i4"),  # steps whose gradient was not finite
        ("images_per_s", "f4"),
        ("tokens_per_s", "f4"),
        ("flops_per_s", "f4"),  # of the model, exact, without recomputation
        ("mfu", "f4"),  # relative to the ranks' stated peak
        ("data_wait_s", "f4"),  # of the slowest rank
        ("peak_memory_bytes", "i8"),  # of the fullest rank: of its GPU, or of the process
        ("energy_j", "f4"),  # of the GPUs
    ]
)
ATTEMPT = np.dtype(
    [("started_unix", "f8"), ("ended_unix", "f8"), ("from_images", "i8"), ("pid", "i8"), ("ranks", "i4")]
    + [("host", "S64"), ("ended", "S16")]
    + MEASURED.descr
)
MAX_ATTEMPTS = 1000


class Record:
    """The writer. One process at a time has it open (lock.py); errors of the disk are raised as UserError."""

    def __init__(self, path: Path, run: str, steps: int, datasets: list[str], n_validation: int, rehearsal: str = ""):
        """Open the record for a new attempt, or create it. run: text of run.yaml. Raises UserError when damaged."""
        self.path, self.beside = Path(path), Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
        try:
            if self.path.exists():
                read_state(self.path)  # A damaged file is an error now, not after hours of training.
                shutil.copyfile(self.path, self.beside)
            else:
                self._make(run, steps, len(datasets), n_validation, rehearsal)
            with open(self.beside, "rb+") as file:
                os.fsync(file.fileno())
            self.file = h5py.File(self.beside, "r+", locking=False)
            if self.file.attrs["layout"] < LAYOUT:  # It lacks the fields of MEASURED.
                before = require_fields(self.file["attempts"][:], ATTEMPT)
                del self.file["attempts"]
                _fixed(self.file, "attempts", (MAX_ATTEMPTS,), ATTEMPT)
                self.file["attempts"][:], self.file.attrs["layout"] = before, LAYOUT
                self.file.flush()
            os.replace(self.beside, self.path)
        except (OSError, RuntimeError) as error:  # h5py raises either for a write that failed.
            remove(self.beside)
            raise _full(self.path, error) from None
        self.attempt = min(int(np.count_nonzero(self.file["attempts"]["started_unix"])), MAX_ATTEMPTS - 1)

    def _make(self, run_text: str, steps: int, datasets: int, n_validation: int, rehearsal: str):
        with h5py.File(self.beside, "w") as file:
            file.attrs.update({"layout": LAYOUT, "run": run_text} | ({"rehearsal": rehearsal} if rehearsal else {}))
            _fixed(file, "steps", (steps,), STEP)
            _fixed(file, "validation", (datasets,), VALIDATION)
            _fixed(file, "samples", (datasets, n_validation), np.dtype("f4"))
            _fixed(file, "attempts", (MAX_ATTEMPTS,), ATTEMPT)
            _fixed(file, "state", (), np.dtype("S16"))
            file["state"][()] = b"planned"

    def begin(self, started_unix: float, from_images: int, ranks: int, host: str):
        """Open a row for this attempt, and set the state to running."""
        row = np.zeros((), ATTEMPT)
        row["started_unix"], row["from_images"], row["ranks"] = started_unix, from_images, ranks
        row["pid"], row["host"] = os.getpid(), host.encode()[:64]
        self._write("attempts", self.attempt, row)
        self._write("state", (), b"running")

    def measure(self, measured: dict[str, Any]):
        """Write values of this attempt, by the names of ATTEMPT; those not given keep their value."""
        row = self.file["attempts"][self.attempt]
        for name, value in measured.items():
            row[name] = value
        self._write("attempts", self.attempt, row)

    def end(self, state: str, ended_unix: float):
        """Close this attempt's row with the state in which it leaves the run."""
        self.measure({"ended_unix": ended_unix, "ended": state.encode()})
        self._write("state", (), state.encode())

    def write_steps(self, first: int, rows: np.ndarray):
        """Write rows of dtype STEP for the steps first, first + 1, ... (counted from 0)."""
        self._write("steps", slice(first, first + len(rows)), rows)

    def write_validation(self, index: int, row: np.ndarray, samples: np.ndarray):
        """Write a row of dtype VALIDATION, after its per-triple losses, for data set number `index`."""
        self._write("samples", index, samples)
        self._write("validation", index, row)

    def _write(self, name: str, where: Any, value: Any):
        try:
            self.file[name][where] = value
            self.file.flush()
        except (OSError, RuntimeError) as error:
            raise _full(self.path, error) from None

    def close(self):
        self.file.close()


def _fixed(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype):
    """Create a contiguous dataset whose space is allocated, and zeroed, now."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype), space, plist)


def _full(path: Path, error: Exception) -> UserError:
    in_text = re.search(r"errno = (\d+)", str(error))  # HDF5 has the number in its text.
    number = getattr(error, "errno", None) or int(in_text[1] if in_text else 0)
    reason = os.strerror(number) if number else str(error).split("(")[0].strip()
    return unwritable(path, OSError(number, reason), "run again: nothing recorded so far is lost")


class Damaged(UserError):
    """The record cannot be read."""


def open_record(path: Path) -> h5py.File:
    """Open a record for reading, beside its writer. Raises Damaged with what is wrong and what to do."""
    path, remedy = Path(path), f"move it away, then {command('run', Path(path).parent)}"
    if not path.exists():
        raise Damaged(f"{path}: is missing; the run has not started, or its record was moved away")
    if not path.is_file():
        raise Damaged(f"{path}: is not a file; {remedy}")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError:
        raise Damaged(f"{path}: is truncated or not HDF5; {remedy}") from None
    if file.attrs.get("layout") not in LAYOUTS or not {"steps", "validation", "attempts", "state"} <= set(file):
        file.close()
        raise Damaged(f"{path}: is not a run record of layout {LAYOUT}; {remedy}")
    return file


def is_full(path: Path) -> bool:
    """Whether a record has all steps and validation losses of its run, whatever its state. Raises Damaged."""
    if not Path(path).is_file():
        return False
    with open_record(path) as file:
        return bool(file["steps"][-1]["images"] and (file["validation"]["images"] > 0).all())


def read_state(path: Path) -> str:
    """The state, "planned" when there is no record yet. Raises as open_record does."""
    if not Path(path).exists():
        return "planned"
    with open_record(path) as file:
        return file["state"][()].decode()


def read_end(path: Path) -> tuple[str, float | None]:
    """The state, and the in-domain loss of a finished run. By HDF5's own calls, four times as fast as h5py's."""
    try:
        with _opened(path) as file:
            state = _value(file, b"state", np.zeros(1, "S16"))[0].decode()
            sets = h5py.h5d.open(file, b"validation").shape[0]
            loss = float(_value(file, b"validation", np.zeros(sets, [("loss", "f8")]))["loss"][0])
    except (KeyError, OSError):
        return read_state(path), None
    return state, loss if state == "finished" else None


@dataclass(frozen=True)
class Totals:
    """Of all attempts in a record; 0 and "" where that is not known."""

    skipped: int = 0  # steps
    data_wait_s: float = 0.0
    energy_j: float = 0.0
    ended_unix: float = 0.0  # of the last
    images_per_s: float = 0.0  # of the last that was measured
    device: str = ""


def read_totals(path: Path) -> Totals:
    """Sums over a run's attempts. Read from the attempts, since there may be a million steps, and at HDF5's offset in
    the file, since HDF5 takes several times as long to convert the rows."""
    try:
        with _opened(path) as file:
            attempts = h5py.h5d.open(file, b"attempts")
            offset, n, size = attempts.get_offset(), attempts.shape[0], attempts.get_storage_size()
    except (KeyError, OSError):
        return Totals()
    if offset is None or size != n * ATTEMPT.itemsize:  # It is of layout 1.
        return Totals()
    found = list[np.ndarray]()
    with open(path, "rb") as file:
        file.seek(offset)
        for first in range(0, n, 16):  # Nearly all runs have a few attempts, and there is space for many.
            rows = np.fromfile(file, ATTEMPT, min(16, n - first))
            found.append(rows[rows["started_unix"] > 0])
            if not rows["started_unix"].all():
                break
    rows = np.concatenate(found)
    measured = rows[rows["images_per_s"] > 0][-1:]
    sums = (int(rows["skipped"].sum()), float(rows["data_wait_s"].sum()), float(rows["energy_j"].sum()))
    speed, device = (float(measured[0]["images_per_s"]), measured[0]["device"].decode()) if len(measured) else (0.0, "")
    return Totals(*sums, float(rows["ended_unix"].max(initial=0)), speed, device)


def skipped_note(skipped: int, steps: int) -> str:
    """What to say about skipped steps of a run; "" up to 1 % of them."""
    return f"{skipped} of {steps} steps skipped: their gradient was not finite" if skipped > 0.01 * steps else ""


def _opened(path: Path) -> closing[h5py.h5f.FileID]:
    return closing(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, _UNLOCKED))


def _value(file: h5py.h5f.FileID, name: bytes, into: np.ndarray) -> np.ndarray:
    h5py.h5d.open(file, name).read(h5py.h5s.ALL, h5py.h5s.ALL, into)
    return into


_UNLOCKED = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
_UNLOCKED.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
_UNLOCKED.set_file_locking(False, True)


def read_steps(file: h5py.File) -> np.ndarray:
    """The rows reached so far, dtype STEP."""
    rows = file["steps"][:]
    return rows[rows["images"] > 0]


def read_validation(file: h5py.File) -> np.ndarray:
    """The validation losses so far, dtype VALIDATION, in-domain first."""
    rows = file["validation"][:]
    return rows[rows["images"] > 0]


def read_attempts(file: h5py.File) -> np.ndarray:
    """The attempts so far, dtype ATTEMPT."""
    rows = require_fields(file["attempts"][:], ATTEMPT)
    return rows[rows["started_unix"] > 0]
