"""Waiting for runs: where an account has no room at first, and where Slurm lists a job that is no more."""

from dataclasses import replace
from subprocess import CompletedProcess

from ditscale import slurm_client
from ditscale.config import compose
from ditscale.launch import wait as module
from ditscale.launch.backends import slurm_array
from ditscale.launch.monitor.status import run_status
from ditscale.launch.wait import bring_to_end
from ditscale.naming import StudyPaths
from ditscale.plan.run import read_run
from ditscale.slurm_client import Job


def test_where_nothing_can_be_submitted_it_waits_between_tries(one_run, monkeypatch):
    """Jobs of other studies take all the room twice; Slurm is not asked again at once."""
    run_dir = one_run()
    paths = StudyPaths(run_dir.parent.parent)
    at = paths.run(run_dir.name)
    planned = run_status(at, read_run(at.run))
    done, tries, slept = replace(planned, state="finished"), [], []

    def submit(*_):
        tries.append("submitted" if len(tries) == 2 else "")
        return [tries[-1]] if tries[-1] else []

    monkeypatch.setattr(slurm_array, "launch", submit)
    monkeypatch.setattr(module, "follow", lambda *_: [done if tries[-1] else planned])
    monkeypatch.setattr(module.time, "sleep", slept.append)
    cluster = compose(["study=mini", "cluster=slurm-cpu", "cluster.max_queued=1"]).cluster
    assert bring_to_end(paths, cluster, "grid", lambda *_: None) == [done]
    assert len(tries) == 3 and slept == [module.LONGEST_S] * 2


def test_a_job_that_slurm_lists_for_ever(one_run, monkeypatch):
    """Its run is done: it gets the time to end, and is then cancelled. One of a run that is not done is waited for."""
    run_dir = one_run()
    paths = StudyPaths(run_dir.parent.parent)
    at = paths.run(run_dir.name)
    planned = run_status(at, read_run(at.run))
    ghost = Job("1", 0, "RUNNING", "None", "node1", "any", "", "")
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    for state, least in (("finished", 3), ("interrupted", 60)):
        looks, gone, cancelled = [], [], []
        monkeypatch.setattr(module, "jobs_of", lambda _: {} if gone else {run_dir.name: [ghost]})

        def look(*_):
            looks.append(state)
            gone.extend(["gone"] * (len(looks) == 60))  # at its time limit

        monkeypatch.setattr(module, "with_slurm", lambda *_: [replace(planned, state=state)])
        monkeypatch.setattr(
            slurm_client, "run", lambda *words, **_: cancelled.append(words[1:]) or CompletedProcess(words, 0, "", "")
        )
        assert [s.state for s in module.follow(paths, look)] == [state]
        assert least <= len(looks) < least + 3
        assert cancelled == ([("1_0",)] if state == "finished" else [])


def test_jobs_that_wait_for_nothing(one_run, monkeypatch, caplog):
    """Slurm put the job of a run that is done back into the queue: it goes. One of several runs stays while one of them
    has work left."""
    run_dir = one_run()
    paths = StudyPaths(run_dir.parent.parent)
    at = paths.run(run_dir.name)
    planned = run_status(at, read_run(at.run))
    waits, shared = (Job(number, 0, "PENDING", "BeginTime", "", "any", "", "") for number in "12")
    done = replace(planned, state="finished")
    called = []
    monkeypatch.setattr(
        slurm_client, "run", lambda *words, **_: called.append(words) or CompletedProcess(words, 0, "", "")
    )
    caplog.set_level("INFO", "ditscale")
    monkeypatch.setattr(module, "jobs_of", lambda _: {run_dir.name: [waits, shared], "another": [shared]})
    monkeypatch.setattr(module, "with_slurm", lambda *_: [done])
    assert module.follow(paths, lambda *_: None) == [done]
    assert called == [("scancel", "1_0")] and "cancelled 1 jobs (1_0)" in caplog.text
    monkeypatch.setattr(module, "with_slurm", lambda *_: [planned])
    module.follow(paths, lambda *_: None)
    assert len(called) == 1


def test_a_job_that_slurm_holds(one_run, monkeypatch):
    """Slurm could not start it: it is released, three times; then it is nobody's to wait for."""
    run_dir = one_run()
    paths = StudyPaths(run_dir.parent.parent)
    at = paths.run(run_dir.name)
    held = replace(run_status(at, read_run(at.run)), state="queued", job="7_0", reason="launch failed requeued held")
    released = []
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    monkeypatch.setattr(module.slurm_client, "ask", lambda *words: released.append(words) or "")
    monkeypatch.setattr(
        module, "jobs_of", lambda _: {run_dir.name: [Job("7", 0, "PENDING", held.reason, "", "any", "", "")]}
    )
    looks = iter([held, replace(held, reason="Priority"), held, held, held])
    monkeypatch.setattr(module, "with_slurm", lambda *_: [next(looks)])
    assert module.follow(paths, lambda *_: None) == [held]
    assert released == [("scontrol", "release", "7_0")] * 3 and not list(looks)
