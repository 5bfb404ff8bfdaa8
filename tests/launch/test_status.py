"""Status from files alone, read again and again."""

import h5py
import pytest

from ditscale.launch.seen import Seen
from ditscale.launch.status import study_status
from ditscale.naming import StudyPaths
from ditscale.plan.run import read_run
from ditscale.store.record import Record


@pytest.fixture
def study(one_run):
    run_dir = one_run()
    paths = StudyPaths(run_dir.parent.parent)
    paths.jobs.mkdir()
    at = paths.run(run_dir.name)
    run = read_run(at.run)
    record = Record(at.metrics, "", run.steps, ["scenes"], run.validation.n)
    record.begin(1.0, 0, 1, "here")
    record.end("finished", 2.0)
    record.close()
    return paths, at


def test_what_is_remembered_is_what_is_there(study):
    paths, at = study
    first = study_status(paths)
    assert [s.state for s in first] == ["finished"] and (paths.jobs / "seen.json").exists()
    assert study_status(paths) == first
    with h5py.File(at.metrics, "r+") as file:  # it was mended, say, and goes on
        file["state"][()] = b"stopped"
    assert [s.state for s in study_status(paths)] == ["stopped"]
    at.run.write_text(at.run.read_text().replace("seed: 0", "seed: 1", 1))
    assert study_status(paths)[0].run == read_run(at.run) != first[0].run


def test_a_damaged_or_missing_memory_costs_time_only(study):
    paths, _ = study
    first = study_status(paths)
    (paths.jobs / "seen.json").write_text("{")
    assert study_status(paths) == first
    (paths.jobs / "seen.json").unlink()
    assert study_status(paths) == first
    assert Seen(paths.jobs / "seen.json").before
