"""A training step against other projects' at equal size, precision and batch: images a second, FLOP/s, share of the
matmul rate.

    python tools/bench/train_step.py [--peer NAME=PATH ...] [--sizes 384x12[:BATCH] ...] [--batch N]
        [--precision fp32|bf16] [--rounds N] [--kinds eager compiled] [--attention quickest|flash|cudnn]

A peer is the root of a checkout of DiT, fast-DiT or SiT (their models.py, which needs timm), or `diffusers=installed`.
Nothing of theirs is here. Everyone gets the same latents (16 x 16 x 4 in patches of 2 on a CPU, 32 x 32 x 4 on a GPU)
and does a whole step as its project does it: forward, backward, AdamW, EMA. Ours has text beside the patches (1 token
on a CPU, 77 on a GPU), theirs a class. A peer on a GPU runs under autocast to bf16, as those projects' users do. On a
CPU contenders take turns, round after round; the median round counts; FLOPs are what torch's FlopCounterMode counts in
a contender's own step. Each contender has a process of its own, as in life: how memory is kept and given back is a
process's affair. On a GPU ours is compiled and recorded (train/step.py), and the sizes are 20M, 170M and 1B.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib.util
import multiprocessing
import statistics
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ditscale.config import Data, compose
from ditscale.diffusion.rectified_flow import draw_noise
from ditscale.distributed.ranks import Ranks
from ditscale.evaluate.extractor import torch_fidelity
from ditscale.model.compile import speed_up
from ditscale.model.projection import plain_products
from ditscale.plan.run import Execution, Run, make_run
from ditscale.train import attention_backend
from ditscale.train.batches import Batch
from ditscale.train.loop import keep_freed_memory
from ditscale.train.state import build
from ditscale.train.step import GradientAccumulation, Step

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
CHANNELS, SIDE, TEXT, TEXT_DIM = 4, (32 if CUDA else 16), (77 if CUDA else 1), 64
ONE = Ranks(0, 1, DEVICE)
SIZES = ["512x6", "1024x12", "1792x24:64"] if CUDA else ["384x12"]
HEAD = 64
COMPILED = ", compiled"


def a_run(design: str, width: int, depth: int, batch: int, precision: str) -> Run:
    """As the study of the paper has them, of this size. batch: of all ranks together."""
    study = compose(
        [
            "study=paper",
            f"design={design}",
            f"design.head_size={HEAD}",
            f"recipe.precision={precision}",
            f"recipe.batch_size={batch}",
        ]
    )
    data = Data("latents", "latents", CHANNELS, SIDE, text_length=TEXT, text_dim=TEXT_DIM, path="none")
    recipe = replace(study.recipe, aspect=width / depth, min_steps=1)
    return make_run(replace(study, data=data, recipe=recipe), "grid", 1e19, width, 0)


def ours(
    design: str,
    width: int,
    depth: int,
    batch: int,
    precision: str,
    compiled: bool,
    ranks=ONE,
    sharding="auto",
):
    """A step of ditscale's loop (train/step.py), in a process like that of a run (distributed/ranks.py)."""
    if not CUDA:
        keep_freed_memory()
    run = a_run(design, width, depth, batch, precision)
    execution = Execution(ranks.world, torch.get_num_threads(), 60, compile=compiled, sharding=sharding)
    state = build(replace(run, execution=execution), ranks)
    accumulation = GradientAccumulation(run, state.model, state.layout, ranks)
    speed_up(state.model, compiled)
    one = Step(state, accumulation, 1.0, compiled)
    share = batch // ranks.world
    index = torch.arange(share, device=DEVICE)
    x0, text = (
        torch.randn(share, CHANNELS, SIDE, SIDE, device=DEVICE),
        torch.randn(share, TEXT, TEXT_DIM, device=DEVICE),
    )
    batch_of_step = Batch(x0, text, *draw_noise(0, "logit-normal", index, x0.shape))
    count = iter(range(1, 10**9))

    def step():
        one(batch_of_step, next(count), 1e-4)

    return step, sum(p.numel() for p in state.model.parameters())


def peer(name: str, path: str, width: int, depth: int, batch: int, precision: str):
    """A step of another project's loop: its model, torch's AdamW as it calls it, its EMA of every parameter."""
    heads = width // HEAD
    torch_fidelity()  # for its way of importing a torchvision beside a torch for CPU, which timm wants
    if name == "diffusers":
        from diffusers import DiTTransformer2DModel

        model = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=HEAD,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=depth,
            sample_size=SIDE,
            patch_size=2,
        )
        call = lambda x, t, y: model(x, timestep=t.long(), class_labels=y).sample
    else:
        spec = importlib.util.spec_from_file_location(f"peer_{name.replace('-', '_')}", Path(path) / "models.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kind = getattr(module, "SiT", None) or module.DiT
        model = kind(
            input_size=SIDE,
            patch_size=2,
            in_channels=CHANNELS,
            hidden_size=width,
            depth=depth,
            num_heads=heads,
            learn_sigma=False,
        )
        call = lambda x, t, y: model(x, t, y)
    model.to(DEVICE).train()
    averages = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)
    x, target = (torch.randn(batch, CHANNELS, SIDE, SIDE, device=DEVICE) for _ in range(2))
    t, y = torch.rand(batch, device=DEVICE) * 999, torch.randint(0, 1000, (batch,), device=DEVICE)

    def step():
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.mse_loss(call(x, t, y).float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for average, p in zip(averages.parameters(), model.parameters()):
                average.mul_(0.9999).add_(p.data, alpha=1e-4)

    return step, sum(p.numel() for p in model.parameters())


class Ended(Exception):
    """A contender's process has ended, after it printed an error."""


class Contender:
    """A process of its own that repeats a step when it is asked to."""

    def __init__(self, name: str, path: str, shape: tuple, attention: str):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=contend, args=(other, name, path, shape, attention))
        self.process.start()
        other.close()

    def receive(self):
        try:
            return self.pipe.recv()
        except EOFError:
            raise Ended from None

    def time(self) -> float:
        try:
            self.pipe.send("time")
        except OSError:
            raise Ended from None
        return self.receive()

    def close(self):
        self.pipe.close()
        self.process.join()


def contend(pipe, name: str, path: str, shape: tuple, attention: str):
    """What a Contender's process does: it sends parameters and FLOPs of a step, then its time, round by round."""
    if CUDA:
        # as those projects' train.py does
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    is_ours = name.startswith("ditscale ")
    with ExitStack() as contexts:
        if is_ours:
            design, _, compiled = name.removeprefix("ditscale ").partition(",")
            width, depth, batch, precision = shape
            run = a_run(design, *shape)
            run = replace(run, execution=replace(run.execution, attention=attention))
            contexts.enter_context(attention_backend.selected(run, ONE))
            counted = batch * flops_of(ours(design, width, depth, 1, precision, False)[0])
            step, size = ours(design, *shape, bool(compiled))
        else:
            step, size = peer(name, path, *shape)
            counted = flops_of(step)
        for _ in range(4):
            step()
        pipe.send((size, counted))
        try:
            while pipe.recv():
                pipe.send(timed(step))
        except EOFError:
            pass


def timed(step, at_least_s: float = 1.0 if CUDA else 2.0) -> float:
    """Seconds of a step, over a round of `at_least_s`."""
    synchronize()
    began, n = time.perf_counter(), 0
    while n < 3 or time.perf_counter() - began < at_least_s:
        step()
        n += 1
        if CUDA and n % 10 == 0:
            synchronize()
    synchronize()
    return (time.perf_counter() - began) / n


def synchronize():
    if CUDA:
        torch.cuda.synchronize()


def flops_of(step) -> int:
    """On a CPU attention and projections count as plain products: their kernels are unknown to the counter."""
    with ExitStack() as plain, FlopCounterMode(display=False) as counter:
        if not CUDA:
            plain.enter_context(sdpa_kernel(SDPBackend.MATH))
            plain.enter_context(plain_products())
        step()
    return counter.get_total_flops()


def matmul_rate(precision: str, tries: int = 5) -> float:
    """FLOP/s of large matrix products, the best of several: what a share is of."""
    n, kind = (8192, torch.bfloat16) if CUDA else (2048, torch.float32)
    kind = torch.bfloat16 if precision == "bf16" else kind
    a, b = (torch.randn(n, n, device=DEVICE, dtype=kind) for _ in range(2))
    kinds = (
        (lambda: a @ b,)
        if CUDA
        else (lambda: a @ b, lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    )
    return max(2 * n**3 / timed(kind, 0.5) for kind in kinds for _ in range(tries))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="WIDTHxDEPTH[:BATCH]")
    parser.add_argument("--batch", type=int, default=128 if CUDA else 16)
    parser.add_argument("--precision", default="bf16" if CUDA else "fp32", choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--kinds", nargs="+", default=["compiled" if CUDA else "eager"], choices=("eager", "compiled"), help="of ours"
    )
    parser.add_argument(
        "--attention",
        default="quickest",
        choices=("quickest", "flash", "cudnn"),
        help="kernels that ours prefers on a GPU; quickest: as a run does",
    )
    options = parser.parse_args()
    kinds = [COMPILED if kind == "compiled" else "" for kind in options.kinds]
    where = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    print(f"{datetime.date.today()}, {where}, torch {torch.__version__}, {options.precision}")
    for size in options.sizes:
        shape, _, batch = size.partition(":")
        width, depth = map(int, shape.split("x"))
        batch = int(batch or options.batch)
        shape = width, depth, batch, options.precision
        names = {f"ditscale {design}{kind}": "" for kind in kinds for design in ("incontext", "crossattention")}
        names |= dict(word.partition("=")[::2] for word in options.peer)
        sizes, counted, times, rates = {}, {}, {}, []
        # a GPU has no memory for all, and a steadier clock
        for together in [[name] for name in names] if CUDA else [list(names)]:
            rates.append(matmul_rate(options.precision))
            with ExitStack() as there:
                asked = {
                    name: there.enter_context(closing(Contender(name, names[name], shape, options.attention)))
                    for name in together
                }
                for name, one in list(asked.items()):
                    try:
                        sizes[name], counted[name] = one.receive()
                    except Ended:
                        del asked[name]
                found = {name: [] for name in asked}
                for _ in range(options.rounds):
                    if not CUDA:  # other guests of this machine change it from minute to minute
                        rates.append(matmul_rate(options.precision, 1))
                    for name, one in list(asked.items()):
                        try:
                            found[name].append(one.time())
                        except Ended:
                            del asked[name]
                times |= {name: found[name] for name in asked}
            for name in together:
                said = f"{1e3 * statistics.median(times[name]):.1f} ms a step" if name in times else "FAILED, see above"
                print(f"{size}, batch {batch}, {name}: {said}", file=sys.stderr, flush=True)
        speed = {name: batch / statistics.median(seconds) for name, seconds in times.items()}
        flops = {name: counted[name] * speed[name] / batch for name in speed}
        peers = [name for name in speed if not name.startswith("ditscale")]
        rate = statistics.median(rates)
        print(
            f"\n{size}, batch {batch}, {options.rounds} rounds, matmul {rate / 1e9:.0f} GFLOP/s "
            f"({min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f})\n\n"
            "| who | parameters | ms a step | images/s | GFLOP/s | of matmul "
            "| images/s, of the fastest peer | GFLOP/s, of it |\n"
            "|---|---|---|---|---|---|---|---|"
        )
        for name in names:
            if name not in speed:
                print(f"| {name} | failed | | | | | | |")
                continue
            ratios = [f"{of[name] / max(of[peer] for peer in peers):.2f}" if peers else "" for of in (speed, flops)]
            print(
                f"| {name} | {sizes[name] / 1e6:.1f}M | {1e3 * batch / speed[name]:.1f} | {speed[name]:.1f} | "
                f"{flops[name] / 1e9:.0f} | {flops[name] / rate:.0%} | {' | '.join(ratios)} |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
