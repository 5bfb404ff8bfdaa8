"""Compiling a model with torch.compile, where that pays.

On a GPU it always does. On a CPU an fp32 step is matrix products, and its compiled form no faster; in bf16, 384x12, it
took 0.87 to 0.93 of the time (docs/training-measured.md). Small models run for less time than they compile.
"""

from __future__ import annotations

from functools import cache, partial

import torch
from torch.utils.checkpoint import checkpoint as recomputed

from ..plan.run import Run
from .dit import DiT

LARGE = 2**23  # parameters


def compiles(run: Run, device: torch.device) -> bool:
    """Whether the run's model is compiled on this device, and on a GPU its step recorded: as `execution.compile` says,
    else where it pays and a compiler is found. How long the run is does not count: one that is read from a longer run
    (nested.py) is to be as one that is trained by itself."""
    if run.execution.compile is not None:
        return run.execution.compile
    pays = device.type == "cuda" or (run.recipe.precision == "bf16" and run.n_params_total >= LARGE)
    return pays and can_compile(device)


@cache
def can_compile(device: torch.device) -> bool:
    """Whether torch finds here what it needs: a C++ compiler, and on a CPU the headers of Python too."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(64, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        print(
            f"going on without torch.compile, which does not work here: {reason[0]}; cluster.compile=false asks for "
            "that",
            flush=True,
        )
        return False
    return True


def speed_up(model: DiT, compiled: bool, recompute: str = "none"):
    """Compile the model, and compute its blocks' activations again in the backward pass (`recompute`: none or blocks).

    Methods are replaced, not modules: sharding hangs its gathering on a block, and that stays outside. All blocks are
    compiled once. A second call takes the place of the first.
    """
    own = lambda module, name: getattr(type(module), name).__get__(module)  # whatever stands in its place
    if compiled:
        model.embed, model.head = (torch.compile(own(model, name)) for name in ("embed", "head"))
    for block in model.blocks:
        forward = torch.compile(own(block, "forward")) if compiled else own(block, "forward")
        if recompute == "blocks":
            forward = partial(recomputed, forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = forward
