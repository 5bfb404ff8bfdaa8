"""Rows of role "lever": in the surface and the answer, in no parabola and no check of a slice."""

import dataclasses
import math

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.laws import fit, read_table
from ditscale.laws.checks.backtest import backtest
from ditscale.laws.minima.approach2 import fit_approach2
from ditscale.laws.predictor.identify import middle_of, undetermined_design
from ditscale.laws.predictor.runs import runs_of
from ditscale.laws.surface.fit_surface import fit_approach3
from ditscale.laws.synthetic import SYMMETRIC, synthetic_study
from ditscale.tables.table import Table, condensed


def with_levers(factors=(1 / 12, 12.0), noise=0.0, shift=1.0):
    """(the slices alone, the same with levers at N* times the factors, off the surface by a factor `shift`)."""
    table, truth = synthetic_study("symmetric", noise=noise)
    n = np.concatenate([truth.optimum(c)[0] * np.array(factors) for c, _ in table.slices()])
    c = np.repeat([c for c, _ in table.slices()], len(factors))
    d = c / 6 / n
    columns = [np.append(a, b) for a, b in ((table.n_params, n), (table.n_tokens, d), (table.budget_flops, c))]
    loss, role = np.append(table.loss, shift * truth.loss_at(n, d)), ["grid"] * len(table) + ["lever"] * len(n)
    return table, Table.of(*columns, loss, role=role)


def test_parabolas_do_not_see_levers_and_the_surface_does():
    """Levers 10 % off the surface move it, and leave Approach 2 as it was to rounding."""
    alone, off = with_levers(shift=1.1)
    two, three = fit_approach2(alone, bootstrap=0), fit_approach3(alone, bootstrap=0)
    np.testing.assert_allclose(fit_approach2(off, bootstrap=0).vertices, two.vertices, rtol=1e-12)
    assert abs(fit_approach3(off, bootstrap=0).surface.E / three.surface.E - 1) > 0.005
    assert len(runs_of(with_levers()[1])) > len(runs_of(alone))


@pytest.mark.slow
def test_a_table_with_levers_is_fitted():
    """On the surface they change no answer, raise no finding and take part in the answer; slices count without them."""
    _, table = with_levers()
    laws = fit(table, targets=1.5e21, bootstrap=0)
    said, (n_params, _, loss) = laws.predictions["1.5e21"], SYMMETRIC.optimum(1.5e21)
    for each in (said.answer, said.approach3):
        assert each.n_params.value == pytest.approx(n_params, rel=0.01)
        assert each.loss.value == pytest.approx(loss, rel=1e-3)
    assert laws.n_runs == len(table) and [s.n_runs for s in laws.slices] == [14] * 6
    assert {f.code for f in laws.findings if f.severity != "info"} == set()


def test_backtests_hold_out_the_levers_of_a_budget_too():
    _, table = with_levers()
    rest = table.without_largest(2)
    assert rest.budget_flops.max() == 1e18 and (rest.role == "lever").sum() == 8
    tests, _ = backtest(table, fit_approach2(table, bootstrap=0), "huber", 0, 0, None)
    assert {b.budget_flops for b in tests if b.held_out == 1} == {6e18}


def test_a_budget_of_levers_alone_is_no_slice():
    """Excluding the runs of a slice leaves its levers: they stay in the surface, and nothing fails."""
    _, table = with_levers()
    lone = table.take((table.budget_flops != 6e18) | (table.role == "lever"))
    assert [c for c, _ in lone.slices(levers=False)] == [c for c, _ in lone.slices()][:-1]
    two = fit_approach2(lone, bootstrap=0)
    assert len(two.slices) == 5 and len(backtest(lone, two, "huber", 0, 0, None)[0]) == 6
    assert lone.without_largest(1).budget_flops.max() == 1e18


def test_a_file_with_levers_is_read(tmp_path):
    _, table = with_levers()
    rows = zip(table.role, table.n_params, table.n_tokens, table.budget_flops, table.loss, strict=True)
    text = "role,n_params,n_tokens,budget_flops,loss\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    (tmp_path / "runs.csv").write_text(text)
    assert list(read_table(tmp_path / "runs.csv").role) == list(table.role)
    (tmp_path / "runs.csv").write_text(text.replace("lever", "leaver"))
    with pytest.raises(UserError, match="'leaver' is not known; write grid, lever or probe"):
        read_table(tmp_path / "runs.csv")


def test_means_over_a_large_table_do_not_mix_levers_with_slices():
    _, table = with_levers()
    many = [dataclasses.replace(table, run_id=table.run_id + f"-{k}") for k in range(40)]
    whole = {f: np.concatenate([getattr(t, f) for t in many]) for f in ("n_params", "n_tokens", "budget_flops", "loss")}
    names, roles = (np.concatenate([getattr(t, f) for t in many]) for f in ("run_id", "role"))
    small = condensed(Table.of(*whole.values(), run_id=names, role=roles))
    off = np.abs(np.log(small.n_params / SYMMETRIC.optimum(small.budget_flops)[0]))
    assert np.allclose(off[small.role == "lever"], math.log(12)) and (off[small.role == "grid"] < math.log(8.1)).all()


def test_the_middle_of_a_planned_slice_is_without_its_levers():
    """Levers on one side of every slice do not move where its optimum is expected, and are runs of the design."""
    alone, table = with_levers(factors=(12.0,))
    assert middle_of(table) == pytest.approx(middle_of(alone))
    small = table.take(np.isin(table.budget_flops, [1e17, 3e17]) & (np.arange(len(table)) % 4 == 0))
    design = (small.n_params, small.n_tokens, small.budget_flops)
    assert undetermined_design(*design, target=1e18, role=small.role) is not None
