"""Which noise levels improve with scale: against triples whose law is known at each timestep."""

import re
from dataclasses import replace

import h5py
import numpy as np
import pytest

from ditscale.collect.table import collect
from ditscale.report.page import write_report
from ditscale.report.read import read_study_results
from ditscale.report.tables import noise_section
from ditscale.report.trends import noise_trends
from ditscale.tables.table import Exclusion

pytestmark = pytest.mark.slow


@pytest.fixture
def tilted(study):
    """A study whose triples fall by C^(-0.2 (1 - u)) more than the whole loss does, u from 0 at the data to 1 at the
    noise."""
    paths = study(samples=False)
    for at in paths.run_dirs():
        with h5py.File(at.metrics, "r+") as file:
            u = (np.arange(file["samples"].shape[1]) + 0.5) / file["samples"].shape[1]
            budget = float(re.match(r"c([\de.]+)-", at.name)[1])
            file["samples"][0] = file["validation"]["loss"][0] * (2 - u) * (budget / 1e11) ** (-0.2 * (1 - u))
    collect(paths.root)
    return paths


def test_the_level_that_improves_most(tilted):
    results = read_study_results(tilted.root)
    found = noise_trends(results)
    exponents = np.array([e.value for e in found.exponents])
    middle = (np.arange(6) + 0.5) / 6
    np.testing.assert_allclose(exponents - exponents[-1], -0.2 * (middle[-1] - middle), atol=0.004)
    assert (
        found.sentence.startswith("The loss falls fastest with compute at t 0.00 to 0.2")
        and "lie apart" in found.sentence
    )
    for trend, measured in zip(found.trends, found.probe[0], strict=True):
        assert trend.predict(7.2e12).value == pytest.approx(measured, rel=0.1)
    cells = re.findall(r"<tr><td class=t>(t .*?)</td><td>(.*?)</td>", noise_section(results))
    assert len(cells) == 6 and float(cells[0][1]) > float(cells[5][1]) and cells[0][0].startswith("t 0.00 to")
    page = write_report(tilted.root).read_text()
    assert 'id="noise"' in page and (tilted.report / "figures" / "noise.png").exists() and "Loss by noise level" in page


def test_levels_alike_are_not_said_to_differ(study):
    assert "overlap" in noise_trends(read_study_results(study(samples=False).root)).sentence


def test_a_run_that_was_excluded_takes_no_part(tilted):
    results = read_study_results(tilted.root)
    excluded = str(results.table.run_id[0])
    results = replace(results, laws=replace(results.laws, exclusions=(Exclusion(excluded, "diverged"),)))
    assert excluded not in results.fit_table().run_id and len(results.fit_table()) == len(results.table) - 1


def test_a_table_without_them(tilted):
    with h5py.File(tilted.table, "r+") as file:
        del file["noise_levels"]
    assert noise_section(read_study_results(tilted.root)) == ""
    assert 'id="noise"' not in write_report(tilted.root).read_text()
