"""The attention backend of a bf16 run on a GPU: flash or cudnn, as `execution.attention` says, or the faster of the two
at the run's shapes, in a trial of a fraction of a second when training starts."""

import time
from contextlib import contextmanager
from typing import Callable, ContextManager, Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..distributed.ranks import Ranks
from ..logs import log
from ..model.blocks import attend
from ..plan.run import Run

FLASH, CUDNN = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION
FALLBACKS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # For what the others do not support, such as fp32.
MAX_IMAGES = 32  # Largest batch of the trial: enough to fill a GPU.
TOLERANCE = 0.02  # Difference of two kernels' results that is rounding in bf16, of the largest value.
MAX_TIME_RATIO = 0.97  # Of cuDNN's time to Flash's, for cuDNN to be used: a smaller gain is noise.


@contextmanager
def selected(run: Run, ranks: Ranks) -> Iterator[None]:
    """A context in which attention uses the run's backend, the same on all ranks; so does what is compiled in it."""
    if ranks.device.type != "cuda" or run.recipe.precision != "bf16":
        yield
        return
    cudnn = run.execution.attention == "cudnn"
    if run.execution.attention == "quickest":
        cudnn = ranks.broadcast(ranks.first and _cudnn_is_faster(run, ranks.device))
    with prefer(CUDNN if cudnn else FLASH):
        yield


def prefer(backend: SDPBackend) -> ContextManager:
    """A context in which this backend comes first, and others are used only for what it does not support."""
    return sdpa_kernel([backend, CUDNN if backend == FLASH else FLASH, *FALLBACKS], set_priority=True)


def _cudnn_is_faster(run: Run, device: torch.device) -> bool:
    """Whether cuDNN's kernels compute the same as Flash's, in less time. Any error of theirs means no."""
    step = _attention(run, device)
    try:
        with prefer(FLASH):
            expected, flash_s = step(), _seconds(step)
        with prefer(CUDNN):
            results, cudnn_s = step(), _seconds(step)
    except RuntimeError as error:
        log.info(f"attention: Flash; trying cuDNN failed: {(str(error).splitlines() or ['?'])[0]}")
        return False
    equal = all(nearly_equal(a, b) for a, b in zip(expected, results))
    faster = equal and cudnn_s < MAX_TIME_RATIO * flash_s
    reason = f"takes {cudnn_s / flash_s:.2f} of Flash's time" if equal else "gives different results from Flash"
    log.info(f"attention: {'cuDNN' if faster else 'Flash'}; cuDNN {reason}")
    return faster


def _attention(run: Run, device: torch.device) -> Callable[[], list[Tensor]]:
    """A function that computes the attention of one of the run's blocks: the results and the gradients."""
    shape, generator = run.shape, torch.Generator(device).manual_seed(0)
    heads, images = shape.width // shape.head_size, min(run.recipe.batch_size, MAX_IMAGES)
    draw = lambda tokens, n: torch.randn(
        images, tokens, n, heads, shape.head_size, device=device, dtype=torch.bfloat16, generator=generator
    ).requires_grad_()
    # The inputs of each attention, as the projections make them (model/blocks.py).
    inputs = [[draw(run.tokens_per_image, 3)]]
    if shape.design == "crossattention":
        inputs.append([draw(run.tokens_per_image, 1), draw(1 + shape.text_length, 2)])

    def step() -> list[Tensor]:
        results = [attend(*(part for tensor in tensors for part in tensor.unbind(2))) for tensors in inputs]
        leaves = [tensor for tensors in inputs for tensor in tensors]
        return [*results, *torch.autograd.grad(results, leaves, [torch.ones_like(result) for result in results])]

    return step


def nearly_equal(a: Tensor, b: Tensor) -> bool:
    """Whether they are equal up to rounding in bf16. What is not finite equals nothing."""
    return bool((a - b).float().abs().max() <= TOLERANCE * a.float().abs().max())


def _seconds(step: Callable[[], object], times: int = 10) -> float:
    rounds = []
    for _ in range(3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            step()
        torch.cuda.synchronize()
        rounds.append(time.perf_counter() - began)
    return min(rounds)
