"""The learning rate's schedule, as a factor of the run's rate; its clock is the number of images trained on."""

import math

from ..config import Recipe


def rate_factor(recipe: Recipe, images: float, n_images: int) -> float:
    """Factor in (0, 1] for the step that starts after `images` of the run's `n_images`: linear warm-up over the first
    `warmup_images`, then constant, cosine to 0, or (wsd: warm-up, stable, decay; Hu et al., arXiv 2404.06395) constant
    and linear to 0 over the last `decay` of the run."""
    warm = recipe.warmup_images
    factor = min(1.0, (images + recipe.batch_size) / warm) if warm else 1.0
    if recipe.schedule == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * max(0.0, (images - warm) / max(1, n_images - warm))))
    elif recipe.schedule == "wsd" and recipe.decay:
        factor *= _cool_down(recipe, images, n_images)
    return factor


def stable_images(recipe: Recipe, n_images: int) -> int:
    """Images, a multiple of the batch, up to which the rate does not depend on where the run of `n_images` ends: to
    the start of its cool-down, or to its end. 0 for a cosine."""
    if recipe.schedule == "cosine":
        return 0
    if recipe.schedule == "constant" or not recipe.decay:
        return n_images
    steps = n_images // recipe.batch_size
    stable = lambda step: _cool_down(recipe, step * recipe.batch_size, n_images) == 1
    last = min(steps, round((1 - recipe.decay) * steps) + 2)
    while last and not stable(last - 1):
        last -= 1
    return last * recipe.batch_size


def _cool_down(recipe: Recipe, images: float, n_images: int) -> float:
    return min(1.0, (1 - images / n_images) / recipe.decay)
