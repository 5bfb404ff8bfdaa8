"""The whole study as a user types it, on budgets small enough for a test: every file, interruption, repetition."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

AGGREGATE = Path(__file__).resolve().parents[1] / "tools" / "aggregate"
SETTINGS = [
    "study=mini",
    "budgets=[3e10,6e10]",
    "widths=[24,40,56,72]",
    "probe_budget=1.2e11",
    "recipe.min_steps=10",
    "validation.n=512",
    "evaluation.vlb.n=64",
    "evaluation.likelihood.n=8",
    "evaluation.fid.steps=4",
]


@pytest.mark.slow
def test_whole_study(tmp_path, ditscale):
    root = tmp_path / "study"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ditscale", "study", str(root), *SETTINGS]
    first = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # ignored when the tests themselves run in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 120
    while len(list(root.glob("runs/*/checkpoint/final.pt"))) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(timeout=90) == 130

    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for name in (
        "study.yaml",
        "study.h5",
        "study.csv",
        "laws.json",
        "forecast.json",
        "verdict.json",
        "report/index.html",
    ):
        assert (root / name).stat().st_size > 0, name
    with h5py.File(root / "study.h5") as file:
        roles = file["points/role"].asstr()[:].tolist()
        assert roles.count("probe") == 1 and roles.count("grid") == 8 and len(file["excluded/run_id"]) == 0
        probe = dict(zip(roles, file["points/loss"][:]))["probe"]
    verdict = json.loads((root / "verdict.json").read_text())
    assert verdict["measured"] == pytest.approx(probe)
    forecast = json.loads((root / "forecast.json").read_text())
    assert verdict["inside"] == (forecast["loss"]["low"] <= probe <= forecast["loss"]["high"])
    stamp = {p: p.stat().st_mtime_ns for p in (root / "runs").rglob("metrics.h5")}

    again = subprocess.run([*command[:5], "--json"], env=env, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    value = json.loads(again.stdout)
    assert value["status"] == "complete" and value["results"]["verdict"] == verdict
    assert value["report"] == str(root / "report" / "index.html") and "Approach 2" in again.stderr
    assert stamp == {p: p.stat().st_mtime_ns for p in (root / "runs").rglob("metrics.h5")}

    # the tools for after the jobs, on the same directory
    shim = tmp_path / "bin"
    shim.mkdir()
    (shim / "ditscale").write_text(f'#!/bin/sh\nexec {sys.executable} -m ditscale "$@"\n')
    (shim / "ditscale").chmod(0o755)
    path = {**env, "PATH": f"{shim}:{env['PATH']}"}
    assert subprocess.run([AGGREGATE, str(root)], env=path, capture_output=True).returncode == 0

    # an altered forecast is refused, in one line
    text = (root / "forecast.json").read_text()
    (root / "forecast.json").write_text(
        text.replace(str(forecast["loss"]["value"]), str(forecast["loss"]["value"] * 1.01))
    )
    refused = ditscale("verdict", root)
    assert refused.returncode != 0 and "altered" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_aggregate_without_a_law(tmp_path, ditscale):
    """Two runs give no law: the reasons are said, the status is not 0, and the report still stands."""
    root = tmp_path / "s"
    assert (
        ditscale(
            "plan",
            root,
            "study=mini",
            "~evaluation",
            "nested=false",
            "budgets=[5e9]",
            "widths=[16,24]",
            "recipe.min_steps=10",
            "validation.n=64",
        ).returncode
        == 0
    )
    assert ditscale("launch", root).returncode == 0
    shim = tmp_path / "bin"
    shim.mkdir()
    (shim / "ditscale").write_text(f'#!/bin/sh\nexec {sys.executable} -m ditscale "$@"\n')
    (shim / "ditscale").chmod(0o755)
    env = {**os.environ, "PATH": f"{shim}:{os.environ['PATH']}"}
    done = subprocess.run([AGGREGATE, str(root)], env=env, capture_output=True, text=True)
    assert done.returncode == 3 and "refused" in done.stdout and (root / "report" / "index.html").exists()
