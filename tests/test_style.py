"""The source passes ruff (pyproject.toml has its settings), and the tests keep two habits of CONTRIBUTING.md."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
AVOIDED = {
    "os.getcwd(": "a test runs from any directory: start from Path(__file__)",
    "Path.cwd(": "a test runs from any directory: start from Path(__file__)",
    "object.__setattr__": "variants of frozen dataclasses are made by dataclasses.replace",
}


@pytest.mark.parametrize("ask", [("check", "--quiet"), ("format", "--diff", "--quiet")], ids="{0[0]}".format)
def test_ruff(ask):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *ask, "--no-cache", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_habits_of_tests():
    here = Path(__file__).resolve()
    faults = [
        f"{path.relative_to(ROOT)}: {text}: {reason}"
        for path in TESTS
        if path != here
        for text, reason in AVOIDED.items()
        if text in path.read_text()
    ]
    assert not faults, "\n".join(faults)


def test_pre_commit_runs_what_the_tests_run():
    """The hooks are ruff's two commands (above) and mypy (test_types.py), from .venv and without a network."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert entries == [f".venv/bin/python -m {command}" for command in ("ruff check", "ruff format", "mypy")]
