"""The batch scripts of slurm/, and the lines that every job begins with."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ditscale.errors import UserError
from ditscale.launch.backends import hydra
from ditscale.launch.backends import preamble as backend
from ditscale.launch.backends.preamble import SCRIPTS, preamble, script

ROOT = Path(__file__).resolve().parents[2]
FILES = {"array": "train_array", "study": "study", "aggregate": "aggregate", "bench": "bench"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_that_of_the_checkout_or_of_the_installed_package(tmp_path, monkeypatch, name):
    text = (ROOT / "slurm" / f"{FILES[name]}.sbatch").read_text()
    assert script(name) == text and text.startswith("#!/bin/bash\n#")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    installed = tmp_path / "site-packages" / "ditscale" / "slurm" / f"{FILES[name]}.sbatch"
    installed.parent.mkdir(parents=True)
    installed.write_text("of the wheel")
    monkeypatch.setattr(backend, "PACKAGE", installed.parent.parent)
    assert script(name) == "of the wheel"


def test_the_wheel_has_them_and_another_name_is_refused():
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f'"slurm/{file}.sbatch" = "ditscale/slurm/{file}.sbatch"' in project for file in FILES.values())
    with pytest.raises(UserError, match="array, study, aggregate"):
        script("arrays")


def test_the_preamble_survives_any_directory(tmp_path, monkeypatch):
    """Quoted for the shell, and once more for Hydra's grammar."""
    code = tmp_path / "it's $HOME"
    code.mkdir()
    monkeypatch.setenv("PYTHONPATH", "/else where")
    lines = preamble(code, 3, ["echo set up"])
    shown = [*lines, "env", "trap"]
    said = subprocess.run(["bash", "-c", "\n".join(shown)], capture_output=True, text=True, check=True).stdout
    expected = [f"PYTHONPATH={code}:/else where", "SRUN_CPUS_PER_TASK=3", "SLURM_KILL_BAD_EXIT=1", "PYTHONSAFEPATH=1"]
    assert set(expected) <= set(said.splitlines()) and "set up" in said and "trap -- '' SIGTERM" in said
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(f"setup=[{','.join(map(hydra.quoted, lines))}]")
    assert [str(value.text if hasattr(value, "text") else value) for value in parsed.value()] == lines


def task(module, *words, **variables):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SUBMITIT_"))}
    env |= {"PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, "-m", module, *map(str, words)], env=env, capture_output=True, text=True)


def test_a_task_of_a_plain_array(one_run):
    """What new and old copies of train_array.sbatch are told: the run, its log, and the array's one snapshot."""
    at = one_run()
    study = at.parent.parent
    array = {"SLURM_JOB_ID": "45", "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "0", "SLURM_CPUS_PER_TASK": "2"}
    told = task("ditscale.launch.job.array_task", study, "0", **array)
    assert told.returncode == 0, told.stderr
    submission = json.loads((study / "jobs" / "41" / "submission.json").read_text())
    assert (submission["token"], submission["job"], submission["runs"]) == ("41", "41", [at.name])
    *lines, last = told.stdout.splitlines()
    assert shlex.split(last) == [f"run={at}", f"log={at}/log/job-41_0"] and (at / "log").is_dir()
    assert "export PYTHONSAFEPATH=1 SLURM_KILL_BAD_EXIT=1 SRUN_CPUS_PER_TASK=2" in lines
    assert f"export PYTHONPATH={submission['code']}:{ROOT}" in lines
    old = task("ditscale.launch.element", study, "0", **array)
    assert old.stdout.splitlines() == [str(at), submission["code"]], old.stderr
    for module in ("ditscale.launch.job.array_task", "ditscale.launch.element"):
        beyond = task(module, study, "1", **array)
        assert beyond.returncode == 1 and "there is no run 1; the study has 1" in beyond.stderr
        alone = task(module, study, "0")
        assert alone.returncode == 1 and "this is no Slurm job" in alone.stderr and "Traceback" not in alone.stderr
