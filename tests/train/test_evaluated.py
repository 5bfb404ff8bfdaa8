"""Evaluation at a run's end, as its study asks: part of the run, so stopped, killed and resumed with it."""

import json
import signal
import time

import h5py
import numpy as np
import pytest

from ditscale.rundir.evaluation import read_results
from ditscale.rundir.record import read_state

ASKED = ("+evaluation.likelihood.n=96", "+evaluation.vlb.n=64", "validation.batch_size=16")
pytestmark = pytest.mark.slow


def results(run_dir):
    return {(r.metric, r.dataset): r for r in read_results(run_dir / "evaluation.h5")}


def test_stopped_and_killed_while_it_is_measured(one_run, ditscale, start):
    calm, other = one_run(*ASKED), one_run(*ASKED)
    said = ditscale("run", calm)
    assert said.returncode == 0 and "likelihood" in said.stdout, said
    for ending in (signal.SIGTERM, signal.SIGKILL):
        process = start(other)
        until, before = time.monotonic() + 120, len(list(other.glob("evaluation.parts/*/*.npz")))
        while (
            len(list(other.glob("evaluation.parts/*/*.npz"))) < before + 2
            and process.poll() is None
            and time.monotonic() < until
        ):
            time.sleep(0.01)
        assert json.loads((other / "heartbeat.json").read_text())["phase"] == "evaluating"
        process.send_signal(ending)
        out, err = process.communicate(timeout=60)
        assert process.returncode == (130 if ending == signal.SIGTERM else -ending), (out, err)
        assert read_state(other / "metrics.h5") == ("stopped" if ending == signal.SIGTERM else "running")
    done, err = start(other, ranks=2).communicate(timeout=120)
    assert read_state(other / "metrics.h5") == "finished", err
    a, b = results(calm), results(other)
    assert set(a) == set(b) == {(m, d) for m in ("vlb", "likelihood") for d in ("scenes", "scenes-ood")}
    for key in a:
        np.testing.assert_allclose(a[key].arrays["samples"], b[key].arrays["samples"], rtol=1e-5)
    assert not (other / "evaluation.parts").exists()
    with h5py.File(calm / "metrics.h5") as x, h5py.File(other / "metrics.h5") as y:
        assert x["steps"]["loss"].tobytes() == y["steps"]["loss"].tobytes()  # on other ranks: nothing was trained again
        assert y["attempts"]["from_images"][1:3].tolist() == [y["steps"]["images"][-1]] * 2


def test_what_cannot_be_measured_is_said_before_training(one_run, ditscale, one_line_error):
    run_dir = one_run("+evaluation.fid={n: 64, few: true, extractor: vgg16}")
    assert "ditscale fetch-weights vgg16" in one_line_error(ditscale("run", run_dir))
    assert not list(run_dir.glob("checkpoint/*")) and read_state(run_dir / "metrics.h5") in (None, "planned")


def test_a_metric_without_a_value_leaves_the_run_finished(one_run, ditscale):
    """A flow too stiff for an impossible tolerance."""
    run_dir = one_run("+evaluation.likelihood={n: 2, tolerance: 1e-9}", "+evaluation.vlb.n=16")
    done = ditscale("run", run_dir)
    assert done.returncode == 0 and read_state(run_dir / "metrics.h5") == "finished", done
    assert {m for m, _ in results(run_dir)} >= {"vlb"}
    assert ("not measured: " in done.stdout) == ("likelihood" not in {m for m, _ in results(run_dir)})
