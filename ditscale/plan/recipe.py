"""The values that a recipe's laws give one run: its batch, warm-up and weight decay as numbers.

The learning rate has its own place in a run (`Run.lr`), since a sweep varies it at an unchanged recipe.
"""

from __future__ import annotations

from dataclasses import replace

from ..config import Recipe
from ..errors import UserError
from ..units import count


def batch_of(recipe: Recipe, n_params: float, n_tokens: float) -> Recipe:
    """The recipe with its batch as a number of images. n_tokens: D of the budget, since the batch decides the D of the
    run."""
    if recipe.batch_law is None:
        return recipe
    return replace(recipe, batch_size=int(recipe.batch_law.at(n_params, n_tokens, quantum=1)), batch_law=None)


def resolved(recipe: Recipe, n_params: float, n_images: int, n_tokens: int) -> Recipe:
    """The recipe with warm-up and weight decay as numbers, for a run of given size. Raises UserError when the warm-up
    would outlast the run."""
    source = "recipe.warmup_images"
    if recipe.warmup_law is not None:
        images = round(recipe.warmup_law.at(n_params, n_tokens, quantum=recipe.batch_size))
        recipe, source = replace(recipe, warmup_images=images, warmup_law=None), "recipe.warmup_law"
    if recipe.warmup_images > n_images:
        raise UserError(
            f"{source}: a warm-up of {count(recipe.warmup_images)} images, but the run has {count(n_images)}"
        )
    if recipe.weight_decay_law is not None:
        recipe = replace(recipe, weight_decay=recipe.weight_decay_law.at(n_params, n_tokens), weight_decay_law=None)
    return recipe
