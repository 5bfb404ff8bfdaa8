"""Status from files alone, read again and again."""

import json
import os
import subprocess

import h5py
import pytest

from ditscale.errors import UserError
from ditscale.launch.monitor.status import study_status, table
from ditscale.naming import StudyPaths
from ditscale.plan.run import read_run
from ditscale.rundir.record import Record


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
    with h5py.File(at.metrics, "r+") as file:  # somebody has repaired it, for example
        file["state"][()] = b"stopped"
    assert [s.state for s in study_status(paths)] == ["stopped"]
    at.run.write_text(at.run.read_text().replace("seed: 0", "seed: 1", 1))
    assert study_status(paths)[0].run == read_run(at.run) != first[0].run


def test_a_damaged_or_missing_memory_costs_time_only(study):
    paths, at = study
    first = study_status(paths)
    stamp, end = json.loads((paths.jobs / "seen.json").read_text())[at.name]
    entries = [3, "x", [], [stamp], [stamp, 3], [3, end], [stamp, {}], [stamp, end | {"loss": "x"}], [stamp, [end]]]
    for content in ("", "{", "3", '["x"]', *(json.dumps({at.name: entry}) for entry in entries)):
        (paths.jobs / "seen.json").write_text(content)
        assert study_status(paths) == first
    (paths.jobs / "seen.json").write_bytes(b"\xff\xfe\0")
    assert study_status(paths) == first
    (paths.jobs / "seen.json").unlink()
    assert study_status(paths) == first
    assert json.loads((paths.jobs / "seen.json").read_text())[at.name] == [stamp, end]


def test_skipped_steps_are_in_the_note_and_remembered(study):
    paths, at = study
    run = read_run(at.run)
    with h5py.File(at.metrics, "r+") as file:
        rows = file["attempts"][:2]
        rows["started_unix"], rows["skipped"] = 1.0, (2, 1)
        file["attempts"][:2] = rows
    for _ in range(2):
        (found,) = study_status(paths)
        assert found.reason == f"3 of {run.steps} steps skipped: their gradient was not finite"
    assert found.reason in table([found]) and found.reason in (paths.jobs / "seen.json").read_text()
    old = json.loads((paths.jobs / "seen.json").read_text())
    del old[at.name][1]["reason"]  # noted by a version that had none
    (paths.jobs / "seen.json").write_text(json.dumps(old))
    assert study_status(paths) == [found]
    with h5py.File(at.metrics, "r+") as file:
        file["state"][()] = b"running"
    at.heartbeat.write_text(json.dumps({"images": 10 * run.recipe.batch_size}))
    (found,) = study_status(paths)
    assert found.state == "interrupted" and found.reason.endswith(
        "resume it; 3 of 10 steps skipped: their gradient was not finite"
    )


@pytest.mark.parametrize("content", ["[]", "3", "{", "null", '{"images": "x", "reason": 3}', "\xff"])
def test_json_that_no_run_has_written_counts_as_none(study, content):
    paths, at = study
    before = study_status(paths)
    (paths.jobs / "seen.json").unlink()
    for path in (at.heartbeat, at.failure, at.attempts / "notes.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode("latin1"))
    assert study_status(paths) == before


def test_a_run_that_ended_before_it_wrote_anything(one_run):
    run_dir = one_run()
    paths = StudyPaths(run_dir.parent.parent)
    said = lambda: [(s.state, s.reason) for s in study_status(paths)]
    assert said() == [("planned", "")]
    child = subprocess.Popen(["sleep", "60"])
    for name in ("attempt-001/1_0_log.err", "attempt-002/x_0_log.out", f"attempt-002/{child.pid}_0_log.err"):
        path = run_dir / "log" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert said() == [("planned", "")]  # its process may only be slow to start
    child.kill()
    child.wait()
    assert said() == [("planned", f"its last attempt wrote nothing; see {path}")]
    (run_dir / "attempts").mkdir()  # it came as far as that
    assert said() == [("planned", f"its last attempt wrote nothing; see {path}")]


def test_what_may_not_be_read_is_one_line(study, monkeypatch):
    """As root everything may be read, so the refusal is made here."""
    paths, at = study

    def refuse(call, refused):
        def asked(path, *more, **named):
            if os.fspath(path) == os.fspath(refused):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return call(path, *more, **named)

        return asked

    for name, refused in (("listdir", paths.runs), ("stat", at.run), ("listdir", at.root)):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse(getattr(os, name), refused))
            with pytest.raises(UserError) as told:
                study_status(paths)
        assert str(told.value) == f"{refused}: cannot be read (Permission denied)"
