"""Classifier-free guidance: captions left out in training, and the guided sampler against a velocity known in closed
form."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ditscale.cli import main
from ditscale.config import Evaluation
from ditscale.diffusion.rectified_flow import drop_captions, no_caption, sample
from ditscale.model.dit import DiT
from ditscale.plan.run import read_run
from ditscale.rundir.evaluation import read_results


def test_captions_are_left_out_by_position():
    text, index = torch.randint(1, 9, (20_000, 3)), torch.arange(20_000)
    left = drop_captions(5, 0.1, index, text)
    gone = (left == 0).all(1)
    assert torch.equal(left[~gone], text[~gone]) and abs(gone.float().mean() - 0.1) < 4 * (0.09 / 20_000) ** 0.5
    order = torch.randperm(20_000)
    assert torch.equal(drop_captions(5, 0.1, index[order], text[order]), left[order])
    assert torch.equal(drop_captions(5, 0.0, index, text), text)
    features = torch.randn(100, 4, 8)
    assert (
        torch.equal(drop_captions(1, 1.0, index[:100], features), no_caption(features))
        and not no_caption(features).any()
    )


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_guided_velocity(sampler):
    """Velocities that are constants of the caption: x0 = noise - v, with v extrapolated from none through the
    caption."""
    calls = []

    def model(x, t, text):
        calls.append(len(x))
        return text.float().view(-1, 1, 1, 1).expand_as(x) - 1

    noise, text = torch.randn(5, 1, 2, 2), torch.tensor([1, 2, 3, 4, 5])
    made = sample(model, noise, text, 4, sampler, guidance=3.0)
    v = -1 + 3.0 * text.float()
    torch.testing.assert_close(made, noise - v.view(-1, 1, 1, 1))
    how = Evaluation(steps=4, sampler=sampler)
    assert sum(calls) == 5 * replace(how, guidance=3.0).model_evaluations == 10 * how.model_evaluations
    torch.testing.assert_close(sample(model, noise, text, 4, sampler), noise - (text.float() - 1).view(-1, 1, 1, 1))


@pytest.mark.slow
def test_a_run_without_captions_learns_no_word(one_run, ditscale):
    """With every caption left out only the empty word's embedding is trained; with half of them all words' are."""
    moved = {}
    for share in (0.5, 1.0):
        run_dir = one_run(f"recipe.caption_dropout={share}")
        assert ditscale("run", run_dir).returncode == 0
        run = read_run(run_dir / "run.yaml")
        torch.manual_seed(run.seed)
        start = DiT(run.shape).text.weight.detach()
        end = torch.load(run_dir / "checkpoint" / "final.pt", weights_only=True)["model"]["text.weight"]
        moved[share] = (end != start).any(1)
    assert moved[1.0][0] and not moved[1.0][1:].any()
    assert moved[0.5][0] and moved[0.5][1:].float().mean() > 0.8


@pytest.mark.slow
def test_guidance_is_recorded_and_refused(one_run, ditscale, capsys):
    plain, guided = one_run(), one_run("recipe.caption_dropout=0.1")
    assert ditscale("run", plain).returncode == 0 and ditscale("run", guided).returncode == 0
    words = [
        "--metrics",
        "fid",
        "--dataset",
        "scenes",
        "--n",
        "64",
        "--few",
        "--steps",
        "2",
        "--guidance",
        "2",
        "--samples",
        "2",
    ]
    assert main(["evaluate", str(plain), *words]) == 2
    assert "recipe.caption_dropout=0.1" in capsys.readouterr().err and not (plain / "evaluation.h5").exists()
    assert main(["evaluate", str(guided), *words]) == 0
    (found,) = read_results(guided / "evaluation.h5")
    assert found.settings["guidance"] == 2.0 and found.evaluations == 6 and np.isfinite(found.value)
