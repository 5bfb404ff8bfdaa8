"""Which of torch's attention kernels a bf16 run on a GPU takes: as `execution.attention` says, flash or cudnn, else
those that are quicker there, at the run's shapes.

torch prefers FlashAttention 2. On Hopper and later cuDNN's kernels can be quicker, and with other shapes or versions
slower, or not there: so both do a block's attention a few times when training starts, which takes a fraction of a
second.
"""

from __future__ import annotations

import time
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..distributed.ranks import Ranks
from ..model.blocks import attend
from ..plan.run import Run

FLASH, CUDNN = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION
OTHERS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # for what the preferred ones do not take, fp32 for one
IMAGES = 32  # at most: of a real step, enough to fill a GPU
ALIKE = 0.02  # of the largest value: bf16's rounding, where two kernels compute the same
GAIN = 0.97  # of the time: less is noise


@contextmanager
def chosen(run: Run, ranks: Ranks):
    """In here, and in what is compiled or recorded in here, attention is computed by those kernels, on all ranks
    alike."""
    if ranks.device.type != "cuda" or run.recipe.precision != "bf16":
        yield
        return
    asked = run.execution.attention
    cudnn = asked == "cudnn"
    if asked == "quickest":
        cudnn = ranks.broadcast(ranks.first and _cudnn_gains(run, ranks.device))
    with preferring(CUDNN if cudnn else FLASH):
        yield


def preferring(kernels: SDPBackend):
    """A context in which these kernels are taken, and others only for what they cannot do."""
    return sdpa_kernel([kernels, *(other for other in (FLASH, CUDNN) if other != kernels), *OTHERS], set_priority=True)


def _cudnn_gains(run: Run, device: torch.device) -> bool:
    """Whether cuDNN's kernels compute the same as Flash's, and quicker. Any error of theirs means no."""
    step = _attention(run, device)
    try:
        with preferring(FLASH):
            expected, flash_s = step(), _seconds(step)
        with preferring(CUDNN):
            found, cudnn_s = step(), _seconds(step)
    except RuntimeError as error:
        print(f"attention: Flash; trying cuDNN failed: {(str(error).splitlines() or ['?'])[0]}", flush=True)
        return False
    same = all(alike(a, b) for a, b in zip(expected, found))
    gains = same and cudnn_s < GAIN * flash_s
    told = f"takes {cudnn_s / flash_s:.2f} of Flash's time" if same else "computes something else than Flash"
    print(f"attention: {'cuDNN' if gains else 'Flash'}; cuDNN {told}", flush=True)
    return gains


def _attention(run: Run, device: torch.device):
    """A function that does the attention of a block of the run's, forward and backward, for a few images, and returns
    what it makes and the gradients."""
    shape, generator = run.shape, torch.Generator(device).manual_seed(0)
    heads, images = shape.width // shape.head_size, min(run.recipe.batch_size, IMAGES)
    parts = lambda tokens, n: torch.randn(
        images, tokens, n, heads, shape.head_size, device=device, dtype=torch.bfloat16, generator=generator
    ).requires_grad_()
    inputs = [[parts(run.tokens_per_image, 3)]]  # as the projections have them, see model/blocks.py
    if shape.design == "crossattention":
        inputs.append([parts(run.tokens_per_image, 1), parts(1 + shape.text_length, 2)])

    def step() -> list[Tensor]:
        made = [attend(*(part for tensor in of_one for part in tensor.unbind(2))) for of_one in inputs]
        leaves = [tensor for of_one in inputs for tensor in of_one]
        return [*made, *torch.autograd.grad(made, leaves, [torch.ones_like(part) for part in made])]

    return step


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether they are equal up to rounding in bf16. What is not finite is like nothing."""
    return bool((a - b).float().abs().max() <= ALIKE * a.float().abs().max())


def _seconds(step, times: int = 10) -> float:
    """The best of three rounds."""
    best = float("inf")
    for _ in range(3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            step()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best
