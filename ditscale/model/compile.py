"""Compiling a model with torch.compile, where that pays: always on a GPU; on a CPU for large models in bf16
(docs/measured/training.md). Small models train for less time than they compile."""

from functools import cache, partial

import torch
from torch.utils.checkpoint import checkpoint

from ..logs import log
from ..plan.run import Run
from .dit import DiT

MIN_CPU_PARAMS = 2**23  # Parameters from which a bf16 model is worth compiling on a CPU.


def compiles(run: Run, device: torch.device) -> bool:
    """Whether the run's model is compiled on this device, and on a GPU its step recorded: as `execution.compile` says,
    else where it pays and a compiler is found. The run's length does not count, for the sake of nested runs."""
    if run.execution.compile is not None:
        return run.execution.compile
    pays = device.type == "cuda" or (run.recipe.precision == "bf16" and run.n_params_total >= MIN_CPU_PARAMS)
    return pays and can_compile(device)


@cache
def can_compile(device: torch.device) -> bool:
    """Whether torch finds what it needs: a C++ compiler, and on a CPU the headers of Python too."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(64, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        why = f"torch.compile does not work on this machine, so the model is not compiled: {reason[0]}"
        log.info(f"{why}; cluster.compile=false turns it off without this test")
        return False
    return True


def speed_up(model: DiT, compiled: bool, recompute: str = "none"):
    """Compile the model, and recompute activations in the backward pass (`recompute`: none, or those of the blocks). A
    second call replaces the first. Methods are replaced, not modules: FSDP's hooks of a block must not be compiled."""
    if compiled:
        setattr(model, "embed", torch.compile(DiT.embed.__get__(model)))
        setattr(model, "head", torch.compile(DiT.head.__get__(model)))
    for block in model.blocks:
        forward = type(block).forward.__get__(block)  # As its class defines it, whatever has replaced it since.
        forward = torch.compile(forward) if compiled else forward
        if recompute == "blocks":
            forward = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
        setattr(block, "forward", forward)
