"""Tables of many runs: means of neighbours take their place where that changes nothing."""

import dataclasses
import time

import numpy as np
import pytest
from laws_synthetic import CHINCHILLA, best, loss_of

from ditscale.laws import Table, fit
from ditscale.laws.synthetic import Case, synthetic_columns
from ditscale.tables.table import condensed, neighbours


def test_cells_hold_neighbours_as_many_in_each():
    rng = np.random.default_rng(0)
    groups, x = rng.integers(3, size=1000), rng.standard_normal(1000)
    groups[:5], x[:5] = 3, np.arange(5)  # a small group keeps its runs
    labels = neighbours(groups, x, 60)
    assert len(set(labels[groups == 3])) == 5 and 60 <= len(set(labels)) <= 68
    for group in range(3):
        own, at = labels[groups == group], x[groups == group]
        assert (np.diff(own[np.argsort(at)]) >= 0).all()
        assert np.ptp(np.bincount(own - own.min())) <= 1


@pytest.mark.parametrize("continuum", [False, True])
def test_a_large_table_is_condensed_to_means_on_its_own_surface(continuum):
    n = 6000
    rng = np.random.default_rng(0)
    c = 10.0 ** (rng.uniform(18, 20, n) if continuum else rng.integers(18, 21, n))
    size = best(CHINCHILLA, c)[0] * np.exp(rng.uniform(-1.5, 1.5, n))
    table = Table.of(size, c / 6 / size, c, loss_of(CHINCHILLA, size, c / 6 / size))
    small = condensed(table)
    assert 500 < len(small) < 3500 and small.is_isoflop() is not continuum
    assert set(small.run_id) < set(table.run_id)
    off = np.abs(small.loss / loss_of(CHINCHILLA, small.n_params, small.n_tokens) - 1)
    assert np.median(off) < 1e-5 and np.quantile(off, 0.99) < 1e-3
    few = table.take(np.arange(3000))
    assert condensed(few) is few
    signed = condensed(dataclasses.replace(table, loss=table.loss - 3.0))
    np.testing.assert_allclose(signed.loss, small.loss - 3.0, atol=2e-3)
    assert fit(table, bootstrap=0, targets="1e21").predictions["1e21"].approach3.n_params.value == pytest.approx(
        best(CHINCHILLA, 1e21)[0], rel=0.01
    )


@pytest.mark.slow
def test_100_000_runs_take_seconds():
    made, truth = synthetic_columns(Case("", sizes=16667), 0.003, 0)
    made["loss"][[5, 70_000]] *= 1.3
    table = Table.of(*(made[name] for name in ("n_params", "n_tokens", "budget_flops", "loss")))
    begin = time.process_time()
    laws = fit(table, targets="1e21")
    assert time.process_time() - begin < 10
    assert laws.n_runs == len(laws.points) == 100_002 and [s.n_runs for s in laws.slices] == [16_667] * 6
    assert [f.runs for f in laws.findings if f.code == "outlier_run"] == [("row-6",), ("row-70001",)]
    by = laws.predictions["1e21"]
    for at in (by.answer, by.approach2, by.approach3):
        assert at.n_params.value == pytest.approx(truth.optimum(1e21)[0], rel=0.01)
