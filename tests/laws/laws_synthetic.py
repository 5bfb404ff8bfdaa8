"""Tables of known surfaces for the tests of the laws; nothing here uses the fitter."""

import numpy as np

from ditscale.laws import Table

MINIATURE = (0.08, 40.0, 60.0, 0.5, 0.5)
ASYMMETRIC = (0.05, 40.0, 300.0, 0.3, 0.9)
CHINCHILLA = (1.8172, 482.0, 2085.4, 0.3478, 0.3658)
SMALL = (1e11, 3e11, 9e11)


def loss_of(truth, n, d):
    floor, a, b, alpha, beta = truth
    return floor + a * n**-alpha + b * d**-beta


def best(truth, budget, kappa=6.0):
    """(N*, D*, L*), from setting the derivative of L(N, C / (kappa N)) to zero."""
    floor, a, b, alpha, beta = truth
    n = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (budget / kappa) ** (beta / (alpha + beta))
    return n, budget / kappa / n, loss_of(truth, n, budget / kappa / n)


def study(truth=MINIATURE, budgets=SMALL, sizes=7, noise=0.0, seed=0, width=4.0, off=1.0, kappa=6.0):
    """sizes runs per budget on C = kappa N D, within a factor `width` of `off` times the true optimum."""
    n = np.concatenate([best(truth, c, kappa)[0] * off * np.geomspace(1 / width, width, sizes) for c in budgets])
    c = np.repeat(np.array(budgets, dtype=float), sizes)
    d = c / kappa / n
    noise = np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return Table.of(n, d, c, loss_of(truth, n, d) * noise)


def with_probe(table, truth, budget, loss=None, run_id="probe"):
    n, d, at = best(truth, budget)
    return Table.of(
        np.append(table.n_params, n),
        np.append(table.n_tokens, d),
        np.append(table.budget_flops, budget),
        np.append(table.loss, at if loss is None else loss),
        run_id=[*table.run_id, run_id],
        role=[*table.role, "probe"],
    )
