"""A study with levers from its records to its page: they are in the laws, and in no slice."""

import re

import numpy as np
import pytest

from ditscale.laws import read_laws, read_table
from ditscale.report.isoflop import groups
from ditscale.report.page import write_report
from ditscale.report.read import read_study_results

LEVERS = {(1e11, 16), (1e11, 56), (9e11, 24)}


@pytest.mark.slow
def test_levers_from_records_to_the_page(study):
    paths = study("levers=[[16,56],[],[24]]", forecast=False, samples=False, bootstrap=0)
    table = read_table(paths.root)
    lever = table.role == "lever"
    assert sorted(np.unique(table.role)) == ["grid", "lever"] and lever.sum() == len(LEVERS)
    assert set(table.budget_flops[lever]) == {1e11, 9e11}
    laws = read_laws(paths.laws)
    assert laws.n_runs == 15 + 3 and [s.n_runs for s in laws.slices] == [5, 5, 5]
    shown = groups(read_study_results(paths.root))
    assert [(len(g.rows), len(g.levers)) for g in shown] == [(5, 2), (5, 0), (5, 1)]
    assert not any(np.isin(table.run_id[lever], table.run_id[g.rows]).any() for g in shown)
    page = write_report(paths.root).read_text()
    assert "Crosses: 3 levers" in page and "15 runs of the grid and 3 levers finished" in page
    assert len(re.findall(r"<td[^>]*>lever<", page)) == 3
