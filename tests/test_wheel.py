"""The wheel, as a user has it: built, installed into a fresh environment, used from an empty folder elsewhere.

The Python that runs the tests lends its dependencies, torch among them, to the new environment. Other Pythons of 3.11
to 3.13 get theirs from the package index, all but torch: there everything but training is used. Where no index answers,
those tests are skipped and say so."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
NEEDS_TORCH = ("torch", "torch-fidelity")
STUDY = ["study=mini", "~evaluation", "nested=false", "recipe.min_steps=20", "validation.n=128"]
GRID = ["budgets=[2.5e9,5e9]", "widths=[16,24,32,40]", "probe_budget=1.2e10"]

pytestmark = pytest.mark.slow


def pythons() -> dict[str, str]:
    """The interpreters of 3.11 to 3.13 on this machine, by version; pyenv's too, which need not be on the PATH."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {HERE: sys.executable}
    for version in ("3.11", "3.12", "3.13"):
        for path in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))):
            ask = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            if path and subprocess.run(ask, capture_output=True, text=True).stdout.strip() == version:
                found.setdefault(version, str(path))
    return found


def pip(*words):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout; hatchling comes from this environment, or else from the package index."""
    out = tmp_path_factory.mktemp("wheel")
    here = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    done = pip("wheel", "--quiet", "--no-deps", *here, "--wheel-dir", out, ROOT)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("ditscale-*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as file:
        (name,) = [n for n in file.namelist() if n.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(file.read(name).decode())


class Installed:
    """The wheel in an environment of its own; calls run in an empty folder."""

    def __init__(self, at: Path):
        self.bin, self.empty = at / "bin", at.parent / "empty"
        self.empty.mkdir()
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        self.env = {k: v for k, v in os.environ.items() if k not in hidden}
        self.env |= {"PATH": f"{self.bin}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def __call__(self, program: str, *words, allowed=(0,)) -> str:
        command = [str(self.bin / program), *map(str, words)]
        done = subprocess.run(command, env=self.env, cwd=self.empty, capture_output=True, text=True, timeout=600)
        assert done.returncode in allowed, (command, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout


@pytest.fixture(scope="module", params=["3.11", "3.12", "3.13"])
def installed(request, wheel, metadata, tmp_path_factory) -> Installed:
    """The wheel installed for one Python. Its dependencies are lent by this environment or come from the index."""
    version = request.param
    python = pythons().get(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    at = tmp_path_factory.mktemp(f"python{version}") / "venv"
    subprocess.run([python, "-m", "venv", "--without-pip", at], check=True)
    into = ["--python", at / "bin" / "python", "install", "--quiet"]
    if version == HERE:
        # A path in a .pth file is searched, but the .pth files there are not read: the clone stays invisible.
        (site,) = at.glob("lib/python*/site-packages")
        (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    else:
        needed = [r for r in metadata.get_all("Requires-Dist") if "extra" not in r and not r.startswith(NEEDS_TORCH)]
        done = pip(*into, "--constraint", CONSTRAINTS, *needed)
        if done.returncode:
            pytest.skip(f"dependencies for Python {version} cannot be had: {done.stderr.strip().splitlines()[-1]}")
    done = pip(*into, "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    return Installed(at)


def test_what_is_in_it(wheel, metadata):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert {"ditscale/py.typed", "ditscale/configs/config.yaml", "ditscale/configs/study/mini.yaml"} <= names
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"ditscale"}
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Requires-Python"] == "<3.14,>=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown" and metadata["Keywords"]


def test_it_is_the_wheel_that_is_used(installed):
    code = "import ditscale, sys; print(ditscale.__file__); assert 'torch' not in sys.modules"
    assert Path(installed("python", "-c", code).strip()).is_relative_to(installed.bin.parent)
    assert "plan" in installed("ditscale", "--help")
    assert installed("ditscale", "--version").split()[-1] == "0.1.0"


def test_plan(installed):
    assert "84 runs" in installed("ditscale", "plan", "study=paper-as-published", "--dry-run")
    installed("ditscale", "plan", "planned", *STUDY, *GRID)
    assert len(list(installed.empty.glob("planned/runs/*/run.yaml"))) == 7  # one cell is dropped, as too few steps


def test_fit_forecast_and_verdict_of_a_table(installed):
    installed("python", "-m", "ditscale.laws.synthetic", "chinchilla", "--noise", "0.003", "--out", "runs.csv")
    laws = json.loads(installed("ditscale", "fit", "runs.csv", "--target", "1.5e21", "--bootstrap", "200", "--json"))
    assert laws["approach2"] and laws["approach3"]
    installed("ditscale", "forecast", "runs.csv", "--budget", "1.5e21")
    assert (installed.empty / "forecast.json").is_file()


@pytest.mark.parametrize("script", ["array", "study", "aggregate"])
def test_batch_scripts(installed, script):
    text = installed("ditscale", "sbatch", script)
    assert text.startswith("#!") and "#SBATCH" in text and "ditscale" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_a_tiny_study_to_its_report(installed):
    """So small a study may be refused a law (status 3): its runs are trained and its report is written all the same."""
    if "torch" not in installed("python", "-c", "import importlib.util as u; print(u.find_spec('torch'))"):
        pytest.skip("no torch in this environment")
    installed("ditscale", "study", "tiny", *STUDY, *GRID, allowed=(0, 3))
    runs = json.loads(installed("ditscale", "status", "tiny", "--json"))
    assert len(runs) >= 7 and {run["state"] for run in runs} == {"finished"}
    assert "</html>" in (installed.empty / "tiny" / "report" / "index.html").read_text()
