"""The metrics' drivers on Gaussian latents, where every number is known in closed form; and their standard errors."""

import numpy as np
import pytest
import torch

from ditscale.evaluate.metrics import Bound, Likelihood, ValidationLoss


def everything(metric, n):
    """Value, standard error, unit and arrays by name."""
    result = metric.result(metric.rows(torch.arange(n))[0])
    return result._asdict() | result.arrays


def test_validation_loss_by_weighting_and_noise_level(gaussian):
    model, data = gaussian
    n = 20_000
    found = everything(ValidationLoss({"ema": model, "raw": model}, data(n), "logit-normal", "fp32"), n)
    t = (np.arange(100_000) + 0.5) / 100_000
    uniform = model.loss_at(t)
    normal = model.loss_at(torch.sigmoid(torch.special.ndtri(torch.from_numpy(t))).numpy())
    for name, truth in (("uniform", uniform.mean()), ("logit-normal", normal.mean())):
        value, se = found[f"ema {name}"]
        assert abs(value - truth) < 4 * se and se < 0.003 * truth
        assert found[f"raw {name}"].tolist() == [value, se]
    assert found["value"] == found["ema logit-normal"][0] and found["se"] == found["ema logit-normal"][1]
    bins = found["ema bins"]
    assert (np.abs(bins[:, 0] - uniform.reshape(10, -1).mean(1)) < 4 * bins[:, 1]).all()
    assert bins[:, 0].mean() == pytest.approx(found["ema uniform"][0])


def test_the_bound_reaches_the_entropy(gaussian):
    model, data = gaussian
    n = 20_000
    found = everything(Bound(model, data(n), "fp32", t_min=1e-3), n)
    # of these images, not of all there could be
    sampled = -model.log_p(data(n).images(torch.arange(n))[0]).mean().item()
    assert found["unit"] == "nats per dimension"
    assert abs(found["value"] - sampled) < 1e-3 + 3 * found["se"] and found["se"] < 6e-3
    assert found["value"] > sampled - 3 * found["se"]


def test_likelihood_of_each_image(gaussian):
    model, data = gaussian
    truth = -model.log_p(data(200).images(torch.arange(200))[0])
    for trace in ("exact", "hutchinson"):  # a diagonal Jacobian: signs are exact too
        found = everything(Likelihood(model, data(200), trace), 200)
        assert np.abs(found["samples"] - truth.numpy()).max() < 2e-3
        assert abs(found["value"] - truth.mean().item()) < 1e-3
        assert found["se"] == pytest.approx(truth.std().item() / 200**0.5, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["val_loss", "vlb"])
def test_standard_errors_by_repetition(gaussian, metric):
    """200 repetitions with noise and images of their own: their scatter is the standard error that each says."""
    model, data = gaussian
    n, values, errors = 256, [], []
    for seed in range(200):
        held_out = data(n, seed)
        made = (
            Bound(model, held_out, "fp32")
            if metric == "vlb"
            else ValidationLoss({"ema": model}, held_out, "logit-normal", "fp32")
        )
        index = torch.arange(n)
        draw = held_out.source.batch
        held_out.source.batch = lambda i: draw(i + seed * 79 * 256)  # other images
        found = made.result(made.rows(index)[0])
        held_out.source.batch = draw
        values.append(found.value)
        errors.append(found.se)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)
