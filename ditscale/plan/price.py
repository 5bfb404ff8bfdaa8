"""What the evaluation at a run's end costs, before anything is measured."""

from __future__ import annotations

from ..config import Evaluation
from .run import Run

LIKELIHOOD_EVALUATIONS = 60  # of a solve at the usual tolerance: 52 on the miniature (docs/evaluation.md)


def evaluation_flops(run: Run) -> float:
    """FLOPs of a run's evaluation on all its data sets. A forward pass is a third of a training step's FLOPs."""
    sets = 1 + len(run.validation.also)
    images = sum((how.n or run.validation.n) * passes(metric, how) for metric, how in run.evaluation.items())
    return sets * images * run.flops_per_image / 3


def passes(metric: str, how: Evaluation) -> float:
    """Forward passes, or what costs as much, for an image."""
    if metric == "val_loss":
        return 4
    if metric == "vlb":
        return 1
    if metric == "likelihood":  # a forward pass and a backward one, of twice its cost, for each probe
        return LIKELIHOOD_EVALUATIONS * (1 + 2 * how.probes)
    return (2 * how.steps - 1 if how.sampler == "heun" else how.steps) * (2 if how.guidance != 1 else 1)
