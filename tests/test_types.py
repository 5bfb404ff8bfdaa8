"""mypy is clean over the whole package; pyproject.toml has its settings."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_mypy():
    """Cold it takes about 25 s of one core; the cache in .mypy_cache makes the next one short."""
    done = subprocess.run([sys.executable, "-m", "mypy", "--no-color-output"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "ditscale" / "py.typed").is_file()
