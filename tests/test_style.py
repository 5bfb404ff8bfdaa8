"""The source is as ruff formats and likes it; pyproject.toml says how."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("ask", [("check", "--quiet"), ("format", "--diff", "--quiet")], ids="{0[0]}".format)
def test_ruff(ask):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *ask, "--no-cache", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
