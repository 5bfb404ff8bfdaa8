"""What evaluation costs, against a count of what it does."""

import pytest
import torch

from ditscale.config import Evaluation, compose
from ditscale.diffusion.rectified_flow import sample
from ditscale.plan.grid import plan_grid, table
from ditscale.price.resources import resources


@pytest.mark.parametrize("how", [Evaluation(), Evaluation(sampler="euler", steps=7), Evaluation(steps=5, guidance=2.0)])
def test_passes_of_the_sampler(how):
    counted = []

    def model(x, t, text):
        counted.append(len(x))
        return x

    text = torch.zeros(3, 2)
    sample(model, torch.randn(3, 1, 2, 2), text, how.steps, how.sampler, how.guidance)
    assert sum(counted) == 3 * how.passes("fid")


def test_it_is_said_and_asked_for():
    settings = ["study=mini", "cluster=slurm-cpu"]
    dear = compose([*settings, "evaluation.likelihood.n=100000", "evaluation.likelihood.probes=2"])
    cheap = compose([*settings, "~evaluation"])
    one, other = plan_grid(dear).runs[0], plan_grid(cheap).runs[0]
    assert one.run_id == other.run_id and other.evaluation_flops == 0
    forward = one.flops_per_image / 3
    assert one.evaluation_flops == pytest.approx(2 * forward * (256 * 1 + 100_000 * 60 * 5 + 256 * 8))
    assert resources(one, dear.cluster).minutes > resources(other, cheap.cluster).minutes
    assert "of evaluation" in table(plan_grid(dear)) and "of evaluation" not in table(plan_grid(cheap))


def test_a_rehearsed_run_and_a_sweep_are_not_evaluated():
    from ditscale.plan.grid import plan_runs

    planned = plan_runs(compose(["study=mini", "rates=[0.5,1,2]"]))
    assert {bool(run.evaluation) for run in planned.runs if run.role == "rate"} == {False}
    assert all(run.evaluation for run in planned.runs if run.role == "grid")
