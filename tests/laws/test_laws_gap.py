import csv
import json

import numpy as np
import pytest
from laws_synthetic import MINIATURE, best, loss_of
from scipy import stats

from ditscale.errors import UserError
from ditscale.laws import Table, fit_gap, read_table

BUDGETS = (1e11, 3e11, 9e11, 2.7e12, 8.1e12)


def two_metrics(gap, noise=0.0, shared=0.0, seed=0, sizes=8, width=4.0):
    """Runs of a known surface whose second metric is loss + gap(C); each scatters alone and with its run."""
    rng = np.random.default_rng(seed)
    n = np.concatenate([best(MINIATURE, c)[0] * np.geomspace(1 / width, width, sizes) for c in BUDGETS])
    c = np.repeat(BUDGETS, sizes)
    loss = loss_of(MINIATURE, n, c / 6 / n)
    both = np.exp(shared * rng.standard_normal(len(n)))
    inside, outside = (x * both * np.exp(noise * rng.standard_normal(len(n))) for x in (loss, loss + gap(c)))
    return Table.of(n, c / 6 / n, c, inside, columns={"ood": outside})


def constant(c):
    return np.full_like(c, 0.05)


def growing(c):
    return 0.05 * (c / 1e11) ** 0.1


def test_a_noise_free_gap_is_found_exactly():
    found = fit_gap(two_metrics(constant), "ood")
    assert [s.difference.value for s in found.slices] == pytest.approx([0.05] * 5, rel=1e-9)
    assert found.difference.mean.value == pytest.approx(0.05, rel=1e-9)
    assert "no change of this gap with C is seen" in found.sentence and "changes with C" in found.sentence
    grows = fit_gap(two_metrics(growing), "ood")
    assert grows.difference.p < 1e-6 and "grows with C" in grows.sentence
    line = fit_gap(two_metrics(lambda c: 0.3 - 0.008 * np.log(c)), "ood")
    assert line.difference.slope.value == pytest.approx(-0.008 * np.log(10), rel=1e-6) and "shrinks" in line.sentence


def test_noise_that_both_metrics_share_cancels():
    """2 % of scatter that a run gives to both metrics: what is left of it is 2 % of the gap, not of the losses."""
    width = []
    for noise, shared in ((0.001, 0.02), (0.02, 0.0)):
        mean = fit_gap(two_metrics(constant, noise, shared, seed=3), "ood").difference.mean
        width.append(mean.high - mean.low)
    assert width[0] < 0.3 * width[1]


def test_trend_against_weighted_regression_of_scipy():
    """The slope, its p and the mean against scipy's regression of the slices' values, all weights alike."""
    c = np.repeat([1e17, 1e18, 1e19], 5)
    n = np.tile(np.geomspace(1e7, 1e9, 5), 3)
    inside = -1.0 + 0.01 * np.log(n / 1e8) ** 2  # not a loss, so the scatter is not taken to follow its size
    noise = np.tile([0.01, -0.02, 0.02, -0.02, 0.01], 3) * np.repeat([1, -1, 1], 5)
    outside = inside + 0.5 + noise + 0.002 * np.log(c)
    found = fit_gap(Table.of(n, c / n / 6, c, inside, metric="loglik", columns={"ood": outside}), "ood")
    at = np.array([s.difference.value for s in found.slices])
    line = stats.linregress(np.log10(c[::5]), at)
    assert found.difference.slope.value == pytest.approx(line.slope, rel=1e-9)
    assert found.difference.mean.value == pytest.approx(at.mean(), rel=1e-9)
    x = np.log(n[:5] / 1e8)
    basis = np.stack([np.ones(5), x, x * x], axis=1)
    hat = basis @ np.linalg.pinv(basis)
    scatter = np.sqrt(3 * np.sum(((np.eye(5) - hat) @ noise[:5]) ** 2) / 6)
    se = scatter * np.sqrt(np.linalg.inv(basis.T @ basis)[0, 0]) / np.sqrt(np.sum((np.log10(c[::5]) - 18) ** 2))
    # N* lies on 1e8 exactly and the differences are level there, so its own error adds nothing.
    assert found.difference.p == pytest.approx(2 * stats.t.sf(abs(line.slope) / se, 6), rel=1e-4)
    assert found.ratio is None and found.difference.dof == 6


@pytest.mark.slow
def test_the_constancy_test_rejects_a_constant_gap_at_its_level():
    """200 studies: at 6 %, more than 22 rejections have a chance of 1 in 400; and a growing gap is seen."""
    rejected = sum(fit_gap(two_metrics(constant, 0.003, 0.01, s), "ood").difference.p < 0.05 for s in range(200))
    assert rejected <= 22
    assert sum(fit_gap(two_metrics(growing, 0.003, 0.0, s), "ood").difference.p < 0.05 for s in range(20)) >= 19


def test_from_a_file_with_a_run_that_was_not_measured(tmp_path):
    table = two_metrics(growing, 0.001, 0.01)
    path = tmp_path / "runs.csv"
    with open(path, "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["run_id", "n_params", "n_tokens", "budget_flops", "loss", "loss_coco"])
        columns = (table.run_id, table.n_params, table.n_tokens, table.budget_flops, table.loss, table.columns["ood"])
        writer.writerows(zip(*columns, strict=True))
    whole = fit_gap(read_table(path, also=("loss_coco",)), "loss_coco")
    assert whole.difference.mean == fit_gap(table, "ood").difference.mean and not whole.findings
    text = path.read_text().splitlines()
    text[3] = text[3].rsplit(",", 1)[0] + ",nan"
    path.write_text("\n".join(text))
    less = fit_gap(read_table(path, also=("loss_coco",)), "loss_coco")
    assert [f.code for f in less.findings] == ["excluded_runs"] and less.findings[0].runs == ("row-3",)
    body = json.loads(json.dumps(less.to_dict(), allow_nan=False))
    assert body["against"] == "loss_coco" and less.sentence in less.summary()


@pytest.mark.parametrize("column", ["n_params", "budget_flops", "loss"])
def test_what_is_no_second_metric(column):
    with pytest.raises(UserError, match="no second metric"):
        fit_gap(two_metrics(constant), column)


def test_refusals():
    with pytest.raises(UserError, match="read without 'coco'"):
        fit_gap(two_metrics(constant), "coco")
    with pytest.raises(UserError, match="needs 2 usable slices") as caught:
        fit_gap(two_metrics(constant, sizes=3), "ood")
    assert caught.value.status == 3
