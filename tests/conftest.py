"""Shared fixtures: small real studies, planned and trained by the command a user types."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
# The tests and the processes that they start import the package of this checkout, from any directory.
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
TINY = [
    "study=mini",
    "~evaluation",
    "nested=false",
    "budgets=[2.5e9,5e9]",
    "widths=[16,24,32]",
    "probe_budget=1.2e10",
    "recipe.min_steps=20",
    "validation.n=256",
]


def pytest_addoption(parser):
    parser.addoption(
        "--rewrite-goldens",
        action="store_true",
        help="write the golden files from this machine's results instead of comparing with them; "
        "CONTRIBUTING.md says when that is allowed",
    )


def pytest_collection_modifyitems(items):
    """Files with slow tests first, then mypy: pytest-xdist hands out whole files, and short ones fill up the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.name != "test_types.py"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Coverage is of the tests that are not slow: tracing adds a fifth to a half to a test's CPU time."""
    coverage = sys.modules.get("coverage")
    running = coverage and item.get_closest_marker("slow") and coverage.Coverage.current()
    if running:
        running.stop()
    result = yield
    if running:
        running.start()
    return result


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """What ditscale keeps for later: one for all tests, so that the caption reader is trained once, and none of the
    user's."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    os.environ["DITSCALE_CACHE"] = str(path)
    return path


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    """Each test begins with a logger that nobody shows, whatever a command line in the same process has set."""
    from ditscale.logs import log

    log.handlers.clear()
    log.propagate = True
    log.setLevel("NOTSET")


@pytest.fixture(scope="session")
def ditscale():
    """Run the command line in a process of its own; returns the finished process."""

    def call(*words, cwd=None, timeout=300, env=None):
        command = [sys.executable, "-m", "ditscale", *map(str, words)]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.run(command, cwd=cwd, timeout=timeout, env=variables, capture_output=True, text=True)

    return call


@pytest.fixture
def one_run(tmp_path):
    """A function that plans a study of one run with the given overrides and returns the run's directory."""
    from ditscale.pipeline import plan_study

    made = iter(range(100))

    def plan(*overrides):
        settings = [
            "study=mini",
            "~evaluation",
            "nested=false",
            "budgets=[2.5e9]",
            "widths=[24]",
            "recipe.min_steps=20",
            "validation.n=128",
            *overrides,
        ]
        paths, planned = plan_study(str(tmp_path / f"study{next(made)}"), settings)
        return paths.run(planned.runs[0].run_id).root

    return plan


@pytest.fixture
def golden(request):
    """Compare columns with a CSV file of golden values, or write that file with --rewrite-goldens.

    `columns` holds the values by name; `rtol` the tolerance of those that are compared. Only the rows of the file are
    compared."""

    def compare(path, columns, rtol):
        if request.config.getoption("--rewrite-goldens"):
            with open(path, "w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows([f"{value:.7g}" for value in row] for row in zip(*columns.values(), strict=True))
            pytest.skip(f"{path} was written again")
        with open(path) as file:
            rows = list(csv.DictReader(file))
        for name, tolerance in rtol.items():
            expected = np.array([float(row[name]) for row in rows])
            np.testing.assert_allclose(columns[name][: len(rows)], expected, rtol=tolerance, err_msg=name)
        return len(rows)

    return compare


def one_line_error(process) -> str:
    """The message of a refused command: asserts that it is one line, without a traceback, and that the exit is not
    0."""
    assert process.returncode not in (0, 1), process
    assert "Traceback" not in process.stderr + process.stdout, process.stderr
    lines = process.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ditscale: error: "), process.stderr
    return lines[0]


@pytest.fixture(name="one_line_error")
def one_line_error_fixture():
    return one_line_error
