"""A study directory that commit 13e51be wrote: one run finished, one told to stop at 768 of 4,928 images, a plain array
submitted. old_layout/study.tar.gz has it whole."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import h5py
import pytest

from ditscale.collect.table import collect
from ditscale.launch.backends.submission import read_all
from ditscale.launch.monitor.status import State, study_status
from ditscale.naming import StudyPaths, run_id
from ditscale.plan.run import read_run
from ditscale.rundir.attempts import read_attempts
from ditscale.rundir.checkpoints import resumable

FINISHED, STOPPED = "c1e9-d1-w16-s0-0e93dd", "c1e9-d1-w8-s0-cb993d"
LOSS = 0.8505292907357216  # of the finished run
# The validation loss of the stopped run and its last training losses, where 13e51be itself resumed it.
RESUMED, LAST = 1.0312346797436476, [1.0035411, 1.0981169, 1.0307845]


@pytest.fixture
def paths(tmp_path):
    with tarfile.open(Path(__file__).parent / "old_layout" / "study.tar.gz") as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # not in 3.11.2
    return StudyPaths(tmp_path / "study")


def test_it_is_read(paths):
    found = {s.run.run_id: s for s in study_status(paths)}
    assert (found[FINISHED].state, found[STOPPED].state) == (State.FINISHED, State.STOPPED)
    assert found[FINISHED].loss == pytest.approx(LOSS) and found[STOPPED].images == 512  # of the last heartbeat
    assert [a.ended for a in read_attempts(paths.run(STOPPED))] == ["stopped"]
    (submission,) = read_all(paths)
    assert (submission.token, submission.tasks) == ("41", [(FINISHED,), (STOPPED,)])
    for at in paths.run_dirs():  # who a run is has not changed
        run = read_run(at.run)
        assert run.run_id == at.name == run_id(run.budget_flops, run.depth, run.width, run.seed, run.defines())
    assert [row[0] for row in collect(paths.root).excluded] == [STOPPED]


@pytest.mark.slow
def test_it_is_resumed(paths):
    """From its checkpoint, to the losses that the old code came to; by the module that old job scripts call."""
    at = paths.run(STOPPED)
    assert [path.name for path in resumable(at.checkpoint)] == [f"images-{n:015d}" for n in (512, 768)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ditscale.launch.job", str(at.root)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{STOPPED}: finished\n", done.stderr
    first, second = read_attempts(at)
    assert (first.ended, second.ended, second.checkpoint) == ("stopped", "finished", f"images-{768:015d}")
    with h5py.File(at.metrics) as file:
        assert list(file["attempts"]["from_images"][:2]) == [0, 768]
        assert file["steps"]["loss"][-3:] == pytest.approx(LAST, rel=1e-3)
        assert file["validation"]["loss"][0] == pytest.approx(RESUMED, rel=1e-3)
    assert {s.state for s in study_status(paths)} == {State.FINISHED}
    assert json.loads((paths.jobs / "seen.json").read_text()).keys() == {FINISHED, STOPPED}
    again = subprocess.run(command, env=env, capture_output=True, text=True)
    assert again.stdout == f"{STOPPED}: finished already\n"
