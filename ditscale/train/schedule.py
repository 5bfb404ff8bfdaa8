"""The learning rate's course over a run, as a factor of the run's rate; the clock is images seen."""

from __future__ import annotations

import math

from ..config import Recipe


def rate_factor(recipe: Recipe, images: float, n_images: int) -> float:
    """Factor in (0, 1] for the step that starts after `images` of the run's `n_images`.

    Linear warm-up over the first `warmup` of the run, then constant, cosine to 0, or (wsd: warm-up, stable, decay;
    Hu et al., arXiv 2404.06395) constant and linear to 0 over the last `decay` of the run.
    """
    done, step = images / n_images, recipe.batch_size / n_images
    factor = min(1.0, (done + step) / recipe.warmup) if recipe.warmup else 1.0
    if recipe.schedule == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * max(0.0, (done - recipe.warmup) / (1 - recipe.warmup))))
    elif recipe.schedule == "wsd" and recipe.decay:
        factor *= min(1.0, (1 - done) / recipe.decay)
    return factor
