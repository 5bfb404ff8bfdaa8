"""muP: which weights of a DiT take smaller steps as the width grows, so that one tuned rate is right at every width.

Yang et al., "Tensor Programs V" (arXiv 2203.03466), Table 3, its column for Adam; for diffusion transformers Zheng et
al. (arXiv 2505.15270). With m = width / base_width:
    weight                                                     initial variance     rate
    input: patch, text, time in, positions; norms; biases      as at the base       1
    hidden: time out, all matrices of the blocks               1 / inputs           1 / m
    output: final                                              0                    1 / m
The initial variances are those of any DiT (model/dit.py). A final layer that starts at 0 needs no multiplier (Table 8,
Lemma J.1). Attention keeps 1 / sqrt(head size), the same at every width. There is no rule for depth."""

from collections.abc import Iterable

from torch import Tensor, nn

from ..config import Recipe

# Parts of a DiT whose matrices have a number of inputs in proportion to the width.
SUMS_OVER_WIDTH = ("time_out", "blocks", "final")


def rate_factor(name: str, parameter: nn.Parameter, recipe: Recipe, width: int) -> float:
    """Factor of the run's rate for the DiT's parameter `name`, as in "blocks.0.mlp.up.weight"; 1 without mup."""
    if recipe.width_scaling == "none" or parameter.ndim < 2 or name.split(".")[0] not in SUMS_OVER_WIDTH:
        return 1.0
    return recipe.base_width / width


def grouped(tensors: Iterable[tuple[float, Tensor]], weight_decay: float) -> list[dict]:
    """Parameter groups for AdamW (train/optimizer.py), one for each factor of the rate. tensors: (factor, parameter).
    The decay is divided by the factor, so that a step's shrinkage, rate times decay, is the same at every width."""
    groups: dict[float, list[Tensor]] = {}
    for factor, tensor in tensors:
        groups.setdefault(factor, []).append(tensor)
    return [{"params": p, "rate_factor": f, "weight_decay": weight_decay / f} for f, p in groups.items()]
