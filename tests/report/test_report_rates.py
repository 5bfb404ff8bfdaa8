"""The sweep in the report: a section of its own, from rates.json; no other figure or table sees its runs."""

import json

import pytest

from ditscale.pipeline import fit_sweep
from ditscale.report.page import write_report
from ditscale.report.read import read_study_results
from ditscale.report.sentences import missing
from ditscale.report.training import rate_sentences


@pytest.fixture(scope="module")
def swept(study):
    return study("rates=[0.25,0.5,1,2,4]", forecast=False, samples=False, bootstrap=50)


@pytest.mark.slow
def test_the_section(swept):
    before = read_study_results(swept.root)
    assert [command for what, command in missing(before) if "rates.json" in what] == ["`ditscale rates DIR`"]
    assert set(before.table.role) == {"grid"} and len(before.table) == 15 and len(before.records.curves) == 15
    law = fit_sweep(str(swept.root))
    assert law.ok and law.params.covers(-0.58)
    page = write_report(swept.root).read_text()
    assert 'id="rates"' in page and (swept.report / "figures" / "rates.png").exists()
    assert law.overrides in page
    after = read_study_results(swept.root)
    assert not [what for what, _ in missing(after) if "rates.json" in what]
    text = " ".join(rate_sentences(after.rates))
    assert "25 runs at 1e11 FLOPs" in text and f"N^\u2212{-law.params.value:.3f}" in text
    worst = max(100 * c.excess for c in law.cells if c.excess is not None)
    assert f"to {worst:.2g} % above" in text
    found = json.loads(swept.rates.read_text())
    found["cells"] = found["cells"][1:]
    swept.rates.write_text(json.dumps(found))
    assert any("was made from others" in what for what, _ in missing(read_study_results(swept.root)))
