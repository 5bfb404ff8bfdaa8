"""Delta-method intervals, beside the bootstrap's: the covariance of the fit carried through to whatever is reported.

For the surface it is that of nonlinear least squares, s^2 (J'J)^-1, or of a Huber M-estimate, (sum psi^2 / n) / (mean
psi')^2 (J'J)^-1 (Huber 1981, section 7.6), with mean psi' = P(|r| < delta) from a normal kernel density of the
residuals: at delta = 1e-3 hardly any residual lies in the quadratic zone itself."""

import math
from functools import partial
from typing import Sequence

import numpy as np

from .estimates import LEVEL, Estimate, t_quantile
from .minima.approach2 import LAWS, Approach2
from .minima.powerlaw import law_at
from .surface.approach3 import POSITIVE, Approach3, Quantities
from .surface.descent import jacobian_of, powers_of
from .surface.fit_surface import HUBER_DELTA, variables
from .surface.surface import N_PARAMETERS, Surface
from .table import Table


def surface_covariance(surface: Surface, table: Table) -> np.ndarray:
    """Covariance (5, 5) of the surface's parameters."""
    logs = variables(table)
    means = logs.mean(axis=1)
    # In centered variables, where the normal matrix can be inverted; the way back is linear in the parameters.
    back = np.eye(N_PARAMETERS)
    back[[1, 2], [3, 4]] = means
    powers, predicted = powers_of(surface.parameters[None], logs)
    raw = surface.objective == "ls"
    jacobian = jacobian_of(powers, predicted, logs - means[:, None], raw)[0]
    residuals = table.loss - predicted[0] if raw else surface.residuals
    inside = np.linalg.pinv(jacobian.T @ jacobian, hermitian=True, rcond=1e-13)
    return _variance(residuals, surface) * back @ inside @ back.T


def _variance(residuals: np.ndarray, surface: Surface) -> float:
    n, n_free, delta = len(residuals), N_PARAMETERS, HUBER_DELTA
    if surface.objective != "huber":
        return float(residuals @ residuals) / max(n - n_free, 1)
    psi = np.clip(residuals, -delta, delta)
    scale = max(1.4826 * float(np.median(np.abs(residuals))), 1e-300)
    width = max(1.06 * scale * n**-0.2, 1e-300)
    from scipy.special import ndtr

    zone = float(np.mean(ndtr((delta - residuals) / width) - ndtr((-delta - residuals) / width)))
    return float(psi @ psi) / max(n - n_free, 1) / max(zone, 1e-12) ** 2


def through(quantities: Quantities, point: np.ndarray, covariance: np.ndarray, dof: float) -> dict[str, Estimate]:
    """{name: Estimate} of quantities(p) -> {name: (...)} at p = point (P,), by central differences. Names in `POSITIVE`
    (and any *coefficient) are carried through on the log scale, so that their ends stay positive."""
    t = t_quantile((1 + LEVEL) / 2, max(dof, 1))
    step = 1e-3 * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    step = np.where(step > 0, step, 1e-9 * np.maximum(np.abs(point), 1e-9))
    shifted = np.concatenate([point + np.diag(step), point - np.diag(step)])
    value, around = quantities(point[None]), quantities(shifted)
    out = {}
    for name, at in value.items():
        log = name in POSITIVE or name.endswith("coefficient")
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            up, down = np.split(np.log(around[name]) if log else around[name], 2)
            gradient = (up - down) / (2 * step)
            half = t * math.sqrt(max(float(gradient @ covariance @ gradient), 0.0))
        middle = float(at[0])
        if not math.isfinite(half) or (log and half > 700):
            out[name] = Estimate(middle)
        elif log:
            out[name] = Estimate(middle, middle * math.exp(-half), middle * math.exp(half))
        else:
            out[name] = Estimate(middle, middle - half, middle + half)
    return out


def surface_intervals(fitted: Approach3, table: Table, targets: Sequence[float]) -> tuple[dict, dict]:
    """({coefficient: Estimate}, {target: {quantity: Estimate}}) of Approach 3."""
    covariance = surface_covariance(fitted.surface, table)
    dof = len(table) - N_PARAMETERS
    point = fitted.surface.parameters
    at = {t: through(partial(fitted.prediction_of, budget_flops=t), point, covariance, dof) for t in targets}
    return through(fitted.coefficients_of, point, covariance, dof), at


def slice_intervals(laws: Approach2, targets: Sequence[float]) -> tuple[dict, dict]:
    """The same of Approach 2, from the covariance of each slice's vertex; D* is taken to be as certain as N*."""
    accepted = laws.accepted
    k = len(accepted)
    point = np.array([[math.log(p.n_params), math.log(p.n_tokens), p.loss] for p in accepted])
    covariance = np.zeros((3 * k, 3 * k))
    for i, p in enumerate(accepted):
        (nn, nl), (_, ll) = p.vertex_covariance
        # log D* moves against log N* along C = kappa N D.
        covariance[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] = [[nn, -nn, nl], [-nn, nn, -nl], [nl, -nl, ll]]
    law_of_loss, noise = laws.loss_law, laws.noise
    if law_of_loss is None or noise is None:
        raise ValueError("Approach 2 was refused")

    def coefficients(p: np.ndarray) -> dict[str, np.ndarray]:
        lines = {law: laws.lines(law, p.reshape(-1, k, 3)) for law in laws.laws}
        with np.errstate(over="ignore"):
            scales = {f"{law}_coefficient": np.exp(v[:, 0]) for law, v in lines.items()}
        return {f"{law}_exponent": v[:, 1] for law, v in lines.items()} | scales

    def prediction(p: np.ndarray, budget: float) -> dict[str, np.ndarray]:
        p = p.reshape(-1, k, 3)
        at = {LAWS[law]: law_at("power_law", laws.lines(law, p), budget) for law in ("model", "data")}
        # The form is held: its choice is a step, which has no derivative.
        return at | {"loss": law_of_loss.form_at(p[..., 2], budget)}

    dof = noise.dof
    flat = point.ravel()
    at = {t: through(partial(prediction, budget=t), flat, covariance, dof) for t in targets}
    return through(coefficients, flat, covariance, dof), at
