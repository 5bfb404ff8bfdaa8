"""What the evaluation at a run's end costs, before anything is measured."""

from ..config import Evaluation
from .run import Run

# Evaluations of one solve at the default tolerance: 52 on the miniature (docs/measured/evaluation.md).
LIKELIHOOD_EVALUATIONS = 60


def evaluation_flops(run: Run) -> float:
    """FLOPs of a run's evaluation on all its data sets. A forward pass is a third of a training step's FLOPs."""
    sets = 1 + len(run.validation.also)
    images = sum((how.n or run.validation.n) * passes(metric, how) for metric, how in run.evaluation.items())
    return sets * images * run.flops_per_image / 3


def passes(metric: str, how: Evaluation) -> float:
    """The cost of measuring one image, in forward passes."""
    if metric == "val_loss":
        return 4
    if metric == "vlb":
        return 1
    if metric == "likelihood":  # A forward pass and, for each probe, a backward pass of twice its cost.
        return LIKELIHOOD_EVALUATIONS * (1 + 2 * how.probes)
    return how.model_evaluations
