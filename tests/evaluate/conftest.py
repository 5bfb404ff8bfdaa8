"""Gaussian latents in a file, with the model that is best for them; and two small trained runs."""

import math

import h5py
import numpy as np
import pytest
import torch

from ditscale.config import Data, Validation
from ditscale.evaluate.extractor import torch_fidelity
from ditscale.evaluate.held_out import HeldOut

SHAPE = (4, 4, 4)


class BestModel(torch.nn.Module):
    """E[eps - x0 | x_t] for x0 ~ N(mean, scale^2), each value by itself."""

    def __init__(self, mean, scale):
        super().__init__()
        self.mean, self.scale = mean, scale

    def forward(self, x, t, text):
        t = t.view(-1, 1, 1, 1).to(x.dtype)
        s2 = self.scale.square()
        r = (x - (1 - t) * self.mean) / ((1 - t) ** 2 * s2 + t**2)
        return t * r - self.mean - (1 - t) * s2 * r

    def loss_at(self, t):
        """E|v - v*|^2, the mean over values: the posterior variance s^2 / ((1-t)^2 s^2 + t^2). t: array [...]."""
        s2 = self.scale.flatten().double().square().numpy()
        t = np.asarray(t)[..., None]
        return (s2 / ((1 - t) ** 2 * s2 + t**2)).mean(-1)

    def log_p(self, x):
        z = (x.double() - self.mean) / self.scale
        return (-0.5 * z.square() - self.scale.double().log()).flatten(1).mean(1) - 0.5 * math.log(2 * math.pi)

    def entropy(self):
        return 0.5 * (1 + math.log(2 * math.pi)) + self.scale.double().log().mean().item()


@pytest.fixture(scope="session")
def gaussian_file(tmp_path_factory):
    """(path, model): 20,000 Gaussian latents of SHAPE."""
    g = torch.Generator().manual_seed(0)
    model = BestModel(0.3 * torch.randn(SHAPE, generator=g), torch.linspace(0.3, 1.5, math.prod(SHAPE)).view(SHAPE))
    path = tmp_path_factory.mktemp("gaussian") / "latents.h5"
    with h5py.File(path, "w") as file:
        file["latents"] = (model.mean + model.scale * torch.randn(20_000, *SHAPE, generator=g)).numpy()
        file["text"] = np.zeros((20_000, 1, 1), "f4")
        file.attrs.update({"shift": 0.0, "scale": 1.0})
    return path, model


@pytest.fixture
def gaussian(gaussian_file):
    """A function of (n, seed): the held-out Gaussian latents; and the best model."""
    path, model = gaussian_file
    data = Data("gaussian", "latents", 4, 4, text_length=1, text_dim=1, path=str(path))
    return model, lambda n, seed=0: HeldOut(data, Validation(n=n), n, seed, torch.device("cpu"))


@pytest.fixture(scope="session")
def study(tmp_path_factory, ditscale):
    """A study of two small trained runs, with EMA weights over two windows."""
    root = tmp_path_factory.mktemp("evaluate") / "s"
    settings = [
        "study=mini",
        "~evaluation",
        "nested=false",
        "budgets=[2e10]",
        "widths=[24,32]",
        "probe_budget=1e11",
        "recipe.min_steps=20",
        "validation.n=1024",
        "recipe.ema_also=[0.5]",
    ]
    assert ditscale("plan", root, *settings).returncode == 0
    assert ditscale("launch", root).returncode == 0
    assert ditscale("collect", root).returncode == 0
    return root


@pytest.fixture(scope="session")
def inception(tmp_path_factory):
    """A file of random weights for torch-fidelity's Inception."""
    torch_fidelity()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    made = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    load = torch.nn.Module.load_state_dict
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # its constructor loads a file; here it is to leave what it has drawn
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state, **more: load(self, self.state_dict()))
        FeatureExtractorInceptionV3.__init__(
            made, "inception-v3-compat", ["2048"], feature_extractor_weights_path="any", cuda=False
        )
    for weight in made.parameters():
        if weight.dim() == 4:
            torch.nn.init.kaiming_normal_(weight)  # else nothing is left of a picture after so many layers
    torch.save(made.state_dict(), file)
    return file
