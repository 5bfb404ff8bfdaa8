"""The predictor against closed forms, finite differences, dense algebra, and studies whose truth is known."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from laws_synthetic import CHINCHILLA, MINIATURE, best, loss_of, study

from ditscale.laws import Table
from ditscale.laws.predictor import form
from ditscale.laws.predictor.errors import Covariance, Parts, estimate_sizes, log_prior
from ditscale.laws.predictor.identify import undetermined
from ditscale.laws.predictor.mixture import Mixture
from ditscale.laws.predictor.predictor import difference, multiplier, predictor
from ditscale.laws.predictor.runs import runs_of

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20, 3e20)
TARGET = 1.5e22


@pytest.fixture(scope="module")
def table():
    return study(CHINCHILLA, BUDGETS, sizes=9, noise=0.003, seed=1)


@pytest.fixture(scope="module")
def made(table):
    return predictor(table)


def test_the_surface_is_the_additive_one():
    """E + A N^-alpha + B D^-beta with C = 6 N D, from its own optimum's closed form."""
    floor, a, b, alpha, beta = CHINCHILLA
    n, _, _ = best(CHINCHILLA, 1.0)
    theta = [math.log(n), 0, math.log(alpha), math.log(beta)]
    theta[1] = math.log(best(CHINCHILLA, 1.0)[2] - floor)
    full, _ = form.expand("surface", np.array([theta]))
    log_c, log_n = np.log(np.repeat(BUDGETS, 4)), np.log(np.tile([1e7, 1e8, 1e9, 4e9], 6))
    values = form.evaluate(full, np.array([floor]), log_c, log_n)
    assert values.f[0] == pytest.approx(loss_of(CHINCHILLA, np.exp(log_n), np.exp(log_c - log_n) / 6), rel=1e-10)
    assert values.optimum[0] == pytest.approx([best(CHINCHILLA, c)[2] for c in np.exp(log_c)], rel=1e-10)


def slopes(of, theta, step=1e-6):
    return np.stack([(of(theta + step * e) - of(theta - step * e)) / (2 * step) for e in np.eye(len(theta))], axis=-1)


@pytest.mark.parametrize("member", form.FREE)
def test_derivatives_are_those_of_differences(member):
    theta = np.array([0.3, -1.0, -1.1, -0.9, 0.05, 0.02, 0.1, -0.03, 0.01][: len(form.FREE[member])])
    floor = np.array([0.5])
    x, z = np.array([-2.0, 0.5, 3.0]), np.array([-1.0, 1.0, 2.5])

    def at(of):
        return lambda t: of(form.expand(member, t[None])[0])

    full, expansion = form.expand(member, theta[None])
    values = form.evaluate(full, floor, x, z)
    exact = values.jacobian[0] @ expansion[0]
    assert exact == pytest.approx(slopes(at(lambda f: form.evaluate(f, floor, x, z).f[0]), theta), abs=1e-7)
    for of in (
        lambda f: form.place(f, 4.0, 3.0),
        lambda f: form.slope(f, 4.0, 3.0),
        lambda f: form.frontier(f, floor, 4.0),
        lambda f: form.loss_slope(f, floor, 4.0),
        lambda f: form.off_optimum(f, floor, 4.0, 1.5, 3.0),
    ):
        gradient = of(full)[1][0] @ expansion[0]
        assert gradient == pytest.approx(slopes(at(lambda f, of=of: of(f)[0][0]), theta), abs=1e-7)
    assert form.loss_slope(full, floor, 4.0)[0][0] == pytest.approx(
        (math.log(form.frontier(full, floor, 4.001)[0][0]) - math.log(form.frontier(full, floor, 3.999)[0][0])) / 0.002
    )


def parts_of(n=24, walks=True):
    rng = np.random.default_rng(0)
    nodes = np.repeat(np.arange(4), n // 4)
    x = np.array([-2.0, -0.5, 0.5, 2.0])
    groups = {"slice": nodes, "size": np.arange(n) % (n // 4), "trajectory": np.arange(n)}
    return Parts(x[nodes], rng.standard_normal(n), np.full(n, 1e-3), nodes, x, groups, walks, np.ones(n)), rng


def dense(parts, covariance):
    """V from its definition, entry by entry."""
    at, n = covariance.sizes, len(parts.x)
    s2 = math.exp(2 * at["s"])
    out = np.diag(s2 * np.exp(2 * (at["sC"] * parts.x + at["sN"] * parts.z)) + parts.se**2)
    out += np.diag(math.exp(2 * at["om"]) * 0.01 * np.ones(n))
    for name in ("slice", "size", "trajectory"):
        label = parts.groups[name]
        out += s2 * math.exp(2 * at[name]) * (label[:, None] == label)
    walk = np.minimum(parts.x[:, None], parts.x) - parts.node_x[0]
    return out + s2 * math.exp(2 * at["level"]) * walk + math.exp(2 * at["place"]) * walk * 0.04


def test_the_covariance_is_that_of_its_definition_and_has_its_gradient():
    parts, rng = parts_of()
    assert parts.columns["trajectory"].shape[1] == 0 and parts.alone["trajectory"].all()  # each run alone in its own
    phi = np.array([-3.0, -0.5, 0.2, -1.0, -0.7, -2.0, -1.0, 0.1, -0.2])
    phi = phi[: len(parts.names)] if len(parts.names) <= 9 else np.append(phi, 0)[: len(parts.names)]
    misfit, by_place = np.full(24, 0.01), np.full(24, 0.2)
    made = Covariance(parts, phi, misfit, by_place)
    v = dense(parts, made)
    r = rng.standard_normal(24)
    assert made.solve(r) == pytest.approx(np.linalg.solve(v, r), rel=1e-6)
    assert made.diagonal() == pytest.approx(np.diag(np.linalg.inv(v)), rel=1e-6)
    assert made.log_determinant == pytest.approx(np.linalg.slogdet(v)[1])

    def value(p):
        c = Covariance(parts, p, misfit, by_place)
        return np.array(c.log_determinant + r @ c.solve(r))

    assert made.gradient(made.solve(r)) == pytest.approx(slopes(value, phi, 1e-5), rel=1e-5, abs=1e-5)
    assert log_prior(parts.names, phi)[1] == pytest.approx(
        slopes(lambda p: np.array(log_prior(parts.names, p)[0]), phi, 1e-6), abs=1e-6
    )


def test_sizes_of_shared_errors_are_found():
    """Many groups with a known split of the variance: REML finds it, and the freed direction does not bias it."""
    rng = np.random.default_rng(2)
    n, k = 600, 60
    labels = np.repeat(np.arange(k), n // k)
    one = np.zeros(n)
    parts = Parts(one, one, one, labels * 0, np.zeros(1), {"slice": labels}, False, np.ones(n))
    y = 0.02 * rng.standard_normal(k)[labels] + 0.01 * rng.standard_normal(n) + 5
    found = estimate_sizes(parts, y, np.full((n, 1), 30.0), one, one, parts.start(), last=True)
    sizes = dict(zip(parts.names, found.phi, strict=True))
    assert math.exp(sizes["s"]) == pytest.approx(0.01, rel=0.1)
    assert math.exp(sizes["slice"]) == pytest.approx(2, rel=0.25)


def test_quantiles_of_a_mixture():
    one = Mixture(np.ones(1), np.array([2.0]), np.array([0.5]), np.array([4.0]))
    assert one.quantiles((0.1, 0.5, 0.975)) == pytest.approx(2 + 0.5 * scipy.stats.t.ppf([0.1, 0.5, 0.975], 4))
    two = Mixture.of([(1, one), (3, dataclasses.replace(one, means=np.array([10.0])))])
    p = np.array([0.03, 0.2, 0.6])
    assert two.below(two.quantiles(tuple(p))) == pytest.approx(p)
    even = one.spread_out(100)
    assert even == pytest.approx(2 + 0.5 * scipy.stats.t.ppf((np.arange(100) + 0.5) / 100, 4), abs=0.02)


def test_a_noise_free_study_is_recovered():
    made = predictor(study(MINIATURE, sizes=9))
    n, d, loss = best(MINIATURE, 7.2e12)
    found = made.optimum(7.2e12)
    assert [found.n_params.value, found.n_tokens.value, found.loss.value] == pytest.approx([n, d, loss], rel=0.01)
    assert found.loss.covers(loss) and found.n_params.covers(n)


def test_rows_in_any_order_and_seeds_of_nothing(table, made):
    other = predictor(table.take(np.random.default_rng(0).permutation(len(table))))
    assert other.optimum(TARGET).loss.value == pytest.approx(made.optimum(TARGET).loss.value, rel=1e-6)
    assert predictor(table).optimum(TARGET) == made.optimum(TARGET)


def test_units_of_the_sizes_do_not_matter(table, made):
    """N counted 1.7x: N* is 1.7x, D* the same tokens, the loss unchanged."""
    counted = dataclasses.replace(table, n_params=1.7 * table.n_params)
    found, own = predictor(counted).optimum(TARGET), made.optimum(TARGET)
    assert found.n_params.value == pytest.approx(1.7 * own.n_params.value, rel=1e-4)
    assert found.n_tokens.value == pytest.approx(own.n_tokens.value, rel=1e-4)
    assert found.loss.value == pytest.approx(own.loss.value, rel=1e-5)


def test_a_metric_of_either_sign_may_be_shifted_and_scaled(table):
    """nll = loss - 3 and 2 loss + 100: the same law in other units."""
    low = predictor(dataclasses.replace(table, loss=table.loss - 3, metric="nll"))
    high = predictor(dataclasses.replace(table, loss=2 * table.loss + 100, metric="nll"))
    one, other = low.optimum(TARGET), high.optimum(TARGET)
    assert (one.loss.value + 3) == pytest.approx((other.loss.value - 100) / 2, rel=1e-4)
    assert one.n_params.value == pytest.approx(other.n_params.value, rel=1e-3)
    assert one.loss.low < best(CHINCHILLA, TARGET)[2] - 3 < one.loss.high
    up = predictor(dataclasses.replace(table, loss=3 - table.loss, metric="score"))
    assert up.optimum(TARGET).loss.value == pytest.approx(-one.loss.value, rel=1e-4)
    assert up.optimum(TARGET).loss.low == pytest.approx(-one.loss.high, rel=1e-3)


def test_what_follows_from_the_frontier(made):
    """The budget for the loss at a budget is that budget; a model at N* costs nothing; farther ones cost more."""
    at = made.optimum(TARGET)
    back = made.budget_for(at.loss.value)
    assert back.value == pytest.approx(TARGET, rel=0.05) and back.low < TARGET < back.high
    same = made.at_size(TARGET, at.n_params.value)
    assert same.penalty.value == pytest.approx(0, abs=1e-3) and same.flops_share.value == pytest.approx(1, abs=0.02)
    n, d, loss = best(CHINCHILLA, TARGET)
    half = made.at_size(TARGET, n / 3)
    truth = loss_of(CHINCHILLA, n / 3, 3 * d) / loss - 1
    assert half.penalty.covers(truth) and half.penalty.value == pytest.approx(truth, rel=0.5)
    assert made.regret(TARGET, n) < made.regret(TARGET, n / 3) < made.regret(TARGET, n / 10) < 1
    exponents = [made.exponent(name, TARGET).value for name in ("model", "data")]
    assert sum(exponents) == pytest.approx(1, abs=1e-9)


def test_two_predictors(table, made):
    floor, a, b, alpha, beta = CHINCHILLA
    s = 1.25**0.5  # losses equal at C / s^2
    other = predictor(study((floor, a * s**-alpha, b * s**-beta, alpha, beta), BUDGETS, sizes=9, noise=0.003, seed=5))
    assert multiplier(made, other, TARGET).covers(0.8)
    own = multiplier(made, made, TARGET)
    assert own.value == pytest.approx(1, rel=0.05) and own.low < 1 < own.high
    apart, p = difference(np.zeros(50), np.arange(50) - 10.0)
    assert apart.value == pytest.approx(14.5) and p == pytest.approx(2 * 10 / 50)


def collinear():
    n = 4e6 * 1.5 ** np.arange(14)
    return n, 20 * n


def two_ratios():
    n = np.repeat(4e6 * 1.5 ** np.arange(14), 2)
    return n, np.tile([20, 40], 14) * n


def slices(budgets, factors, off=1.0):
    n = np.concatenate([best(CHINCHILLA, c)[0] * off * np.asarray(factors) for c in budgets])
    c = np.repeat(budgets, len(factors))
    return n, c / 6 / n


def ladder():
    n = np.repeat([6e7, 1.2e8, 2.5e8, 5e8, 1e9, 2e9], 12)
    return n, n * np.tile(np.geomspace(15, 70, 12), 6)


@pytest.mark.parametrize(
    ("runs", "word"),
    [
        (collinear(), "one ratio"), (two_ratios(), "two ratios"),
        (slices((1e19,), np.geomspace(0.2, 5, 9)), "one budget"),
        (slices((1e19, 3e19), np.geomspace(0.2, 5, 9)), "two budgets"),
        (slices(BUDGETS, np.geomspace(4, 40, 8)), "above the optimum"), (ladder(), "readings of 6 trainings"),
    ],
)  # fmt: skip
def test_designs_that_cannot_tell_are_refused_by_name(runs, word):
    n, d = runs
    rng = np.random.default_rng(0)
    error = 0.003 * rng.standard_normal(len(n))
    if word.startswith("readings"):  # Each training has its own error, and its readings next to none.
        error = error[np.unique(n, return_inverse=True)[1]] + 0.1 * error
    table = Table.of(n, d, 6 * n * d, loss_of(CHINCHILLA, n, d) * np.exp(error))
    made = predictor(table)
    found = undetermined(table, 100 * float(table.budget_flops.max()), made.frontier_line(), made.share_sizes).finding
    assert found is not None and found.code == "not_identified" and word in found.message


def test_designs_that_can_tell_are_not_refused(table, made):
    assert not undetermined(table, TARGET, made.frontier_line()).lacks
    small = study(CHINCHILLA, (1e18, 1e19, 1e20), sizes=4, noise=0.003, seed=1, width=4)
    assert not undetermined(small, 10e20).lacks


def test_what_runs_share_is_seen(table):
    groups = runs_of(table).groups
    assert set(groups) == {"slice"}
    ladder = np.tile(np.geomspace(1e8, 1e10, 8), 3)
    nested = Table.of(
        ladder, np.repeat([1e18, 3e18, 9e18], 8) / 6 / ladder, np.repeat([1e18, 3e18, 9e18], 8), 3 + 0 * ladder
    )
    assert set(runs_of(nested).groups) == {"slice", "size"}


def test_many_runs_are_averaged():
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(math.log(1e7), math.log(1e10), 20_000))
    c = np.repeat(BUDGETS, 20_000 // 6 + 1)[:20_000]
    near = np.abs(np.log(n / np.array([best(CHINCHILLA, b)[0] for b in c]))) < 1.5
    n, c = n[near], c[near]
    noise = np.exp(0.003 * rng.standard_normal(len(n)))
    made = predictor(Table.of(n, c / 6 / n, c, loss_of(CHINCHILLA, n, c / 6 / n) * noise))
    assert len(made.runs) < 2000 and made.runs.count.sum() == pytest.approx(len(n), rel=0.05)
    assert made.optimum(TARGET).loss.covers(best(CHINCHILLA, TARGET)[2])
    assert made.run_scatter == pytest.approx(0.003, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_intervals_hold_where_sizes_share_errors(shared):
    """60 studies whose sizes share a part of the variance: below 50 of 60 has a chance of 1 in 1000 at 95 %."""
    held = np.zeros(3)
    n_star, _, loss = best(CHINCHILLA, TARGET)
    ladder = best(CHINCHILLA, 1.7e19)[0] * 2.0 ** (np.arange(-10, 11) / 2)
    cells = [(c, n) for c in BUDGETS for n in ladder if abs(math.log(n / best(CHINCHILLA, c)[0])) < math.log(8)]
    c, n = np.array(cells).T
    for seed in range(60):
        rng = np.random.default_rng(seed)
        own = 0.003 * rng.standard_normal(len(ladder))[np.searchsorted(ladder, n)]
        error = math.sqrt(shared) * own + math.sqrt(1 - shared) * 0.003 * rng.standard_normal(len(n))
        made = predictor(Table.of(n, c / 6 / n, c, loss_of(CHINCHILLA, n, c / 6 / n) * np.exp(error)))
        at = made.optimum(TARGET)
        exponent = CHINCHILLA[4] / (CHINCHILLA[3] + CHINCHILLA[4])
        held += [at.loss.covers(loss), at.n_params.covers(n_star), made.exponent("model", TARGET).covers(exponent)]
    assert (held >= 50).all()
