"""Runs for which an account has no room at first."""

from dataclasses import replace

from ditscale.config import compose
from ditscale.launch import follow as module
from ditscale.launch import slurm
from ditscale.launch.follow import bring_to_end
from ditscale.launch.status import run_status
from ditscale.naming import StudyPaths
from ditscale.plan.run import read_run


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

    monkeypatch.setattr(slurm, "launch", submit)
    monkeypatch.setattr(module, "follow", lambda *_: [done if tries[-1] else planned])
    monkeypatch.setattr(module.time, "sleep", slept.append)
    cluster = compose(["study=mini", "cluster=slurm-cpu", "cluster.max_queued=1"]).cluster
    assert bring_to_end(paths, cluster, "grid", lambda *_: None) == [done]
    assert len(tries) == 3 and slept == [module.LONGEST_S] * 2
