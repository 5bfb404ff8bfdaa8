"""A study rehearsed on this machine: real processes, killed and stopped, and an account that notices what is wrong."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from ditscale.laws import fit, read_table
from ditscale.naming import StudyPaths
from ditscale.rehearsal.account import account

pytestmark = pytest.mark.slow
TWELVE = (
    "study=mini",
    "budgets=[5e9,1e10,2e10]",
    "widths=[16,24,32,40]",
    "probe_budget=8e10",
    "recipe.min_steps=20",
    "validation.n=128",
    "cluster.workers=6",
)
NOISE = 0.002


@pytest.fixture(scope="module")
def rough(ditscale, tmp_path_factory):
    """A rehearsal of 12 runs, half of them hit; the study's directory."""
    root = tmp_path_factory.mktemp("rehearse") / "study"
    done = ditscale("rehearse", root, *TWELVE, "--faults", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything is accounted for" in done.stdout
    return root


@pytest.fixture
def copy(rough, tmp_path):
    """A copy of the rehearsed study, to be spoilt."""
    return Path(shutil.copytree(rough, tmp_path / "copy"))


def surface(root):
    """E, A, B, alpha, beta of the rehearsal, as its study.yaml says."""
    mark = yaml.safe_load((root / "rehearsal" / "study.yaml").read_text())["rehearsal"]
    return [float(mark[name]) for name in ("E", "A", "B", "alpha", "beta")]


def curves(root):
    """The rows of every finished run, but for the time they took."""
    found = {}
    for path in sorted((root / "rehearsal").glob("runs/*/metrics.h5")):
        with h5py.File(path) as file:
            assert file["state"][()] == b"finished"
            found[path.parent.name] = {n: file["steps"][n].tobytes() for n in ("images", "loss", "loss_ema", "lr")}
            found[path.parent.name]["samples"] = file["samples"][:].tobytes()
    return found


def again(root):
    """The account of what lies there now."""
    paths = StudyPaths(root / "rehearsal")
    laws = fit(read_table(paths.root), targets=("8e10",), bootstrap=100)
    return account(paths, laws, launches=1, wall_s=1.0, status_s=0.0)


def test_the_account(rough):
    told = json.loads((rough / "rehearsal" / "rehearsal.json").read_text())
    assert told["good"] and told["runs"] == told["finished"] == 12 and not told["unaccounted"]
    assert told["lost"] == told["duplicated"] == told["wrong"] == 0
    assert told["faults"] == {"kill": 2, "stop": 2, "requeue": 0, "truncate": 2, "node": 0, "controller": 0}
    assert told["attempts"] >= 12 + 6 and told["launches"] >= 2 and told["runs_hit"] == 6
    attempts = [list(path.glob("attempts/[0-9]*.json")) for path in (rough / "rehearsal").glob("runs/*")]
    assert sum(map(len, attempts)) == told["attempts"] and sum(len(a) > 1 for a in attempts) == 6
    assert "| rows lost | 0 |" in (rough / "rehearsal" / "rehearsal.md").read_text()
    logs = "".join(path.read_text() for path in (rough / "rehearsal").glob("runs/*/log/*/*_log.out"))
    assert logs.count("cannot be read; resuming from") + logs.count("no older checkpoint is there") == 2


def test_losses_are_the_surface_and_faults_change_no_row(rough, ditscale, tmp_path):
    E, A, B, alpha, beta = surface(rough)
    lines = (rough / "rehearsal" / "study.csv").read_text().splitlines()
    assert lines[0].startswith("# rehearsal: losses drawn from")
    off = []
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        n, d, loss = (float(row[name]) for name in ("n_params", "n_tokens", "loss"))
        off.append(np.log(loss / (E + A / n**alpha + B / d**beta)))
    assert len(off) == 12 and np.abs(off).max() < 5 * NOISE and 0.4 * NOISE < np.std(off) < 2 * NOISE
    done = ditscale("rehearse", tmp_path / "quiet", *TWELVE, "--faults", "0", "--seconds", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    ours, quiet = curves(rough), curves(tmp_path / "quiet")
    strip = lambda found: {name.rsplit("-", 1)[0]: rows for name, rows in found.items()}
    assert strip(ours).keys() == strip(quiet).keys() and len(ours) == 12
    assert all(a["images"] == b["images"] for a, b in zip(strip(ours).values(), strip(quiet).values()))


def test_an_interrupted_run_has_the_rows_of_a_quiet_one(rough, copy):
    """One run that was hit, executed again from nothing: the same bits."""
    run = next(p for p in (copy / "rehearsal").glob("runs/*") if len(list(p.glob("attempts/*.json"))) > 1)
    before = curves(copy)[run.name]
    for name in ("metrics.h5", "heartbeat.json"):
        (run / name).unlink()
    code = (
        "import sys; from ditscale.naming import RunPaths; from ditscale.launch.job.execute import run; "
        f"print(run(RunPaths({str(run)!r})), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "finished False\n", done.stderr
    assert curves(copy)[run.name] == before


def test_the_fit_finds_the_optimum(rough):
    """The truth by brute force: the best of a million sizes on the line C = kappa N D."""
    E, A, B, alpha, beta = surface(rough)
    laws = json.loads((rough / "rehearsal" / "laws.json").read_text())
    n = np.geomspace(1e3, 1e7, 1_000_000)
    loss = E + A / n**alpha + B / (8e10 / laws["kappa"] / n) ** beta
    fitted = laws["predictions"]["8e10"]["approach3"]
    assert abs(np.log(fitted["n_params"]["value"] / n[loss.argmin()])) < 0.4
    assert abs(np.log(fitted["loss"]["value"] / loss.min())) < 0.03
    checks = {c["name"]: c for c in json.loads((rough / "rehearsal" / "rehearsal.json").read_text())["checks"]}
    assert checks["N*"]["truth"] == pytest.approx(n[loss.argmin()], rel=1e-3)
    assert checks["L*"]["truth"] == pytest.approx(loss.min(), rel=1e-6)
    assert checks["model exponent"]["truth"] == pytest.approx(beta / (alpha + beta))


def test_what_is_wrong_is_counted(copy, ditscale):
    assert again(copy).good
    runs = sorted((copy / "rehearsal").glob("runs/*"))
    with h5py.File(runs[0] / "metrics.h5", "r+") as file:
        rows = file["steps"][:]
        rows[3] = rows[2]  # step 4 lost, step 3 twice
        file["steps"][:] = rows
    found = again(copy)
    assert (found.lost, found.duplicated, found.wrong, found.good) == (0, 1, 1, False)
    with h5py.File(runs[0] / "metrics.h5", "r+") as file:
        rows[3] = np.zeros((), rows.dtype)
        file["steps"][:] = rows
    found = again(copy)
    assert (found.lost, found.duplicated, found.wrong, found.good) == (1, 0, 0, False)
    with h5py.File(runs[1] / "metrics.h5", "r+") as file:
        file["steps"][5, "loss"] = np.float32(file["steps"][5]["loss"] * 1.001)
    assert again(copy).wrong == 1
    with h5py.File(runs[2] / "metrics.h5", "r+") as file:
        file["state"][()] = b"stopped"
    assert again(copy).unaccounted == (runs[2].name,)
    (runs[3] / "attempts" / "0009.json").write_bytes((runs[3] / "attempts" / "0001.json").read_bytes())
    ended = json.loads((runs[3] / "attempts" / "0001.json").read_text()) | {"ended": "finished"}
    for name in ("0001", "0009"):
        (runs[3] / "attempts" / f"{name}.json").write_text(json.dumps(ended))
    assert again(copy).duplicated >= 1
    with h5py.File(copy / "rehearsal" / "study.h5", "r+") as file:
        file["points/loss"][:] *= 1.1
    found = again(copy)
    assert found.wrong == 1 + 12 and not all(check.held for check in found.checks)


def test_a_rehearsal_says_so_everywhere(rough, copy, ditscale, one_line_error):
    inside = copy / "rehearsal"
    for words in (("status",), ("collect",), ("fit", "--bootstrap", "0"), ("forecast",)):
        done = ditscale(words[0], inside, *words[1:])
        assert done.returncode == 0 and "REHEARSAL" in done.stdout, (words, done)
    assert "REHEARSAL" in (inside / "forecast.json").read_text()
    assert ditscale("report", inside).returncode == 0
    page = (inside / "report" / "index.html").read_text()
    assert "<title>REHEARSAL" in page and "REHEARSAL, not a measurement" in page
    assert ditscale("launch", inside).returncode == 0  # the probe, rehearsed like the rest
    judged = ditscale("verdict", inside)
    assert judged.returncode == 0 and judged.stdout.startswith("REHEARSAL"), judged
    run = next((inside / "runs").iterdir())
    assert "was rehearsed, so there is no model" in one_line_error(ditscale("evaluate", run))
    assert "12 planned" in ditscale("status", rough).stdout  # the study itself is as it was


def test_rehearsed_and_real_runs_never_share_a_table(rough, copy, ditscale, one_line_error, tmp_path):
    real = sorted((copy / "runs").iterdir())
    rehearsed = sorted((copy / "rehearsal" / "runs").iterdir())
    assert not {p.name for p in real} & {p.name for p in rehearsed}
    shutil.copy(rehearsed[0] / "metrics.h5", real[0] / "metrics.h5")
    shutil.copytree(rehearsed[1], copy / "runs" / rehearsed[1].name)
    said = ditscale("collect", copy).stdout
    assert "0 runs collected, 13 left out" in said
    assert f"{real[0].name}: its record was rehearsed, not trained" in said
    assert f"{rehearsed[1].name}: was planned for a rehearsal" in said
    shutil.copytree(real[1], copy / "rehearsal" / "runs" / real[1].name)
    said = ditscale("collect", copy / "rehearsal").stdout
    assert "12 runs collected, 1 left out" in said and f"{real[1].name}: the study is a rehearsal" in said
    lines = (rough / "rehearsal" / "study.csv").read_text().splitlines()
    (tmp_path / "real.csv").write_text("\n".join(lines[1:]) + "\n")
    (tmp_path / "rehearsed.csv").write_text("\n".join(lines) + "\n")
    for other in (rough / "rehearsal", tmp_path / "rehearsed.csv"):
        refused = one_line_error(ditscale("compare", tmp_path / "real.csv", other))
        assert "was rehearsed, not trained, so it compares with nothing trained" in refused


def test_refusals(rough, ditscale, one_line_error, tmp_path):
    refused = lambda *words, **more: one_line_error(ditscale("rehearse", *words, **more))
    assert "holds no study.yaml" in refused(tmp_path / "nowhere")
    assert "was rehearsed already" in refused(rough)
    assert "is a rehearsal itself" in refused(rough / "rehearsal")
    assert "--faults: 1.5 is too large; at most 1" in refused(rough, "--faults", "1.5")
    assert "--noise: x is not a number" in refused(rough, "--noise", "x").replace("'", "")
    assert "--nodes: only nodes of the cluster that slurm/local/up makes" in refused(rough, "--nodes", "1")
    assert "--seconds: -1 is too small" in refused(rough, "--seconds=-1")
    path = {"PATH": str(Path(sys.executable).parent), "SLURM_CONF": "/nowhere"}
    root = tmp_path / "study"
    assert ditscale("plan", root, *TWELVE).returncode == 0
    assert "sbatch is not on the PATH" in refused(root, "cluster=slurm-cpu", env=path)
    assert not (root / "rehearsal").exists()
    shutil.rmtree(root / "runs")
    assert "holds no runs" in refused(root)
