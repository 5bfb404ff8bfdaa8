"""Configuration: frozen dataclasses, and one strict way from a mapping (YAML, Hydra) into them and back.

An unknown key, a missing key, a wrong type or an impossible value is a UserError of one line that names the place and
the valid choices. Hydra composes a study from `configs/` (compose below); everything after that lives from the
resolved study.yaml and run.yaml, so a compute node needs neither Hydra nor the configuration tree.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import types
import typing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import yaml

from . import units
from .errors import UserError, nearest, one_of

DESIGNS = ("incontext", "crossattention")
SOURCES = ("scenes", "scenes-ood", "latents")
SCHEDULES = ("constant", "cosine", "wsd")
TIMESTEPS = ("logit-normal", "uniform")
COUNTS_FLOPS = ("exact", "6nd")
COUNTS_PARAMS = ("matmul", "total", "blocks")
PRECISIONS = ("fp32", "bf16")
SHARDINGS = ("auto", "replicate", "full", "hybrid")
RECOMPUTES = ("none", "blocks")
WIDTH_SCALINGS = ("none", "mup")
METRICS = ("val_loss", "vlb", "likelihood", "fid")
TRACES = ("hutchinson", "exact")
SAMPLERS = ("heun", "euler")
EXTRACTORS = (
    "caption-reader",
    "inception-v3-compat",
    "clip-vit-l-14",
    "vgg16",
)  # the first is ours (evaluate/reader.py)
WINDOW_RATIO = 1.01  # of EMA windows that are two
LEAST = 4  # images of an FID at all: halves of two, and three neighbours of each
FEWEST = 2048  # images of an FID: fewer give one that says more about their number than about the run
GROUPS = ("design", "data", "recipe", "validation", "cluster")  # of configs/, and keys of Study


@dataclass(frozen=True)
class Design:
    """The transformer, but for its size. Which tokens attend to which is the design's name."""

    name: str
    head_size: int = 64
    mlp_ratio: int = 4
    patch: int = 2  # pixels (or latent cells) on a side of a patch
    time_features: int = 256  # sine and cosine features of t before the time MLP
    qk_norm: bool = True

    def check(self, where: str):
        one_of(self.name, DESIGNS, f"{where}.name")
        for name in ("head_size", "mlp_ratio", "patch", "time_features"):
            units.whole(getattr(self, name), f"{where}.{name}", low=1)
        if self.time_features % 2:
            raise UserError(f"{where}.time_features: {self.time_features} is odd; sines and cosines come in pairs")


@dataclass(frozen=True)
class Data:
    """A data set: where its images and captions come from, and the shapes the model must have for them."""

    name: str
    source: str  # a key of ditscale.data.SOURCES
    channels: int
    resolution: int  # pixels or latent cells on a side
    text_length: int  # tokens of a caption
    text_vocab: int = 0  # size of the vocabulary when captions come as token ids ...
    text_dim: int = 0  # ... or width of the frozen text encoder's features when they come as features
    seed: int = 0
    path: str = ""  # for sources that read files

    def check(self, where: str):
        one_of(self.source, SOURCES, f"{where}.source")
        for name in ("channels", "resolution", "text_length"):
            units.whole(getattr(self, name), f"{where}.{name}", low=1)
        if (self.text_vocab > 0) == (self.text_dim > 0):
            raise UserError(f"{where}: give either text_vocab (captions as ids) or text_dim (captions as features)")


@dataclass(frozen=True)
class Law:
    """A hyper-parameter by the size of model and data: scale * N^params * D^tokens, D in tokens, N as `study.params`
    counts."""

    scale: float
    params: float = 0.0
    tokens: float = 0.0
    quantum: float = 0.0  # values are the nearest multiple of this, at least one; 0: no such rounding

    def check(self, where: str):
        units.number(self.scale, f"{where}.scale", above=0)
        units.number(self.quantum, f"{where}.quantum", low=0)

    def __str__(self) -> str:
        powers = "".join(f" {name}^{power:g}" for name, power in (("N", self.params), ("D", self.tokens)) if power)
        return f"{self.scale:g}{powers}{f' to multiples of {self.quantum:g}' if self.quantum else ''}"

    def at(self, n_params: float, n_tokens: float, quantum: float = 0.0) -> float:
        """The value at a size, to six digits or the nearest multiple of the law's quantum, else of `quantum`, but never
        0."""
        value = self.scale * n_params**self.params * n_tokens**self.tokens
        quantum = self.quantum or quantum
        return max(1, round(value / quantum)) * quantum if quantum else float(f"{value:.6g}")


@dataclass(frozen=True)
class Recipe:
    """How a model of given size is trained. Rates follow lr = lr_scale * width^lr_width * N^lr_params * D^lr_tokens;
    batch, warm-up and weight decay are the same for all sizes, or follow laws of their own. A run holds what they come
    to (plan/recipe.py).
    """

    aspect: float  # width / depth
    batch_size: int  # images of one step, over all ranks
    lr_scale: float
    lr_width: float = 0.0
    lr_params: float = 0.0
    lr_tokens: float = 0.0
    schedule: str = "constant"
    warmup_images: int = 0  # not a fraction: so a run is the beginning of a longer one
    decay: float = 0.2  # fraction of the run, for schedule wsd
    min_steps: int = 200  # shorter runs are dropped from the plan
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.1  # EMA weights average over about this fraction of the run so far (train/ema.py)
    timesteps: str = "logit-normal"
    precision: str = "fp32"
    batch_law: Law | None = None  # in the place of batch_size, in images; its quantum is what a batch must divide by
    warmup_law: Law | None = None  # in the place of warmup_images, rounded to whole batches
    weight_decay_law: Law | None = None  # in the place of weight_decay
    width_scaling: str = "none"  # mup: the rate of each weight falls with the inputs it sums over (model/mup.py)
    base_width: int = 0  # mup: the width at which every weight has the run's own rate
    caption_dropout: float = 0.0  # share of images trained without their caption: classifier-free guidance needs it
    ema_also: tuple[float, ...] = ()  # further windows that are averaged beside `ema`, whose weights remain the result

    @property
    def windows(self) -> tuple[float, ...]:
        """Of the EMA weights that a run keeps, that of its result first."""
        return self.ema, *self.ema_also

    def check(self, where: str):
        one_of(self.width_scaling, WIDTH_SCALINGS, f"{where}.width_scaling")
        self._check_width(where)
        one_of(self.schedule, SCHEDULES, f"{where}.schedule")
        one_of(self.timesteps, TIMESTEPS, f"{where}.timesteps")
        one_of(self.precision, PRECISIONS, f"{where}.precision")
        for name in ("aspect", "lr_scale", "clip"):
            units.number(getattr(self, name), f"{where}.{name}", above=0)
        for name in ("batch_size", "min_steps"):
            units.whole(getattr(self, name), f"{where}.{name}", low=1)
        units.whole(self.warmup_images, f"{where}.warmup_images", low=0)
        for name in ("decay", "ema", "caption_dropout"):
            units.number(getattr(self, name), f"{where}.{name}", low=0, high=1)
        self._check_windows(where)
        for name in ("beta1", "beta2"):
            units.number(getattr(self, name), f"{where}.{name}", low=0, high=0.99999)
        units.number(self.weight_decay, f"{where}.weight_decay", low=0)
        if self.batch_law:
            units.whole(self.batch_law.quantum, f"{where}.batch_law.quantum", low=0)

    def _check_windows(self, where: str):
        for i, window in enumerate(self.ema_also):
            units.number(window, f"{where}.ema_also[{i}]", above=0, high=1)
        for one, next_one in pairwise(sorted(self.windows)):
            if next_one < WINDOW_RATIO * one:  # what lies beyond them would be made of their difference (train/ema.py)
                raise UserError(
                    f"{where}.ema_also: {one:g} and {next_one:g} are one window twice; give others than "
                    f"{where}.ema={self.ema:g}, "
                    f"each once, {WINDOW_RATIO - 1:.0%} apart or more"
                )

    def _check_width(self, where: str):
        units.whole(self.base_width, f"{where}.base_width", low=0)
        if self.width_scaling == "none" and self.base_width:
            raise UserError(f"{where}.base_width: {self.base_width} is of no use without {where}.width_scaling=mup")
        if self.width_scaling == "mup" and not self.base_width:
            raise UserError(
                f"{where}.base_width: missing; give the width whose rate was tuned, as in {where}.base_width=256"
            )
        if self.width_scaling == "mup" and self.lr_width:
            same = self.lr_scale * self.base_width**self.lr_width
            raise UserError(
                f"{where}.lr_width: {self.lr_width:g}, but mup scales rates with the width already; recipe.lr_width=0 "
                f"recipe.lr_scale={same:.6g} keeps the rate of width {self.base_width}"
            )


@dataclass(frozen=True)
class Validation:
    """The fixed (image, noise, timestep) triples on which every run of a study is measured."""

    n: int = 2048
    seed: int = 12345
    batch_size: int = 256
    path: str = ""  # file of held-out images, for sources that read files
    also: dict[str, Data] = field(default_factory=dict)  # out-of-domain data sets, by label

    def check(self, where: str):
        units.whole(self.n, f"{where}.n", low=2)
        units.whole(self.batch_size, f"{where}.batch_size", low=1)


@dataclass(frozen=True)
class Evaluation:
    """How a metric is measured on a finished run (docs/evaluation.md). What does not concern the metric has no effect
    on it."""

    n: int = 0  # held-out images; 0: validation.n
    t_min: float = 0.01  # vlb: the data's end of the bound
    trace: str = "hutchinson"  # likelihood: how the divergence is computed
    probes: int = 1  # likelihood: of the trace, for each image
    tolerance: float = 1e-3  # likelihood: of the solver
    sampler: str = "heun"
    steps: int = 32  # of the sampler
    guidance: float = 1.0  # of the sampler, classifier-free: 1 is none
    extractor: str = EXTRACTORS[0]  # fid: of the features
    weights: str = ""  # fid: the file with the extractor's weights, but for ours
    decoder: str = ""  # fid and samples of latents: the directory of the VAE that they came from
    few: bool = False  # fid: of fewer than FEWEST images, whatever it is worth

    def check(self, where: str):
        """`where`: the place of the keys in a study; "" where they are options of a command."""
        at = {
            f.name: f"{where}.{f.name}" if where else f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(self)
        }
        for name, low in (("n", 0), ("probes", 1), ("steps", 1)):
            units.whole(getattr(self, name), at[name], low=low)
        if self.n == 1:
            raise UserError(f"{at['n']}: 1 image has no standard error; use 2 or more")
        for name, names in (("trace", TRACES), ("sampler", SAMPLERS), ("extractor", EXTRACTORS)):
            one_of(getattr(self, name), names, at[name])
        units.number(self.guidance, at["guidance"], low=0, high=100)
        units.number(self.t_min, at["t_min"], low=1e-6, high=0.5)
        units.number(self.tolerance, at["tolerance"], low=1e-9, high=0.1)


@dataclass(frozen=True)
class Size:
    """What runs of up to so many parameters ask of Slurm, and how fast they go: a row of the throughput table."""

    up_to_params: float
    flops_per_s: float  # of one rank, sustained; measure it: `ditscale status` shows images/s
    nodes: int = 1
    ranks: int = 1  # of each node
    gpus: int = 0  # of each node
    pack: int = 1  # runs of a job, side by side on its cores and GPU

    def check(self, where: str):
        for name in ("up_to_params", "flops_per_s"):
            units.number(getattr(self, name), f"{where}.{name}", above=0)
        for name, low in (("nodes", 1), ("ranks", 1), ("gpus", 0), ("pack", 1)):
            units.whole(getattr(self, name), f"{where}.{name}", low=low)
        if self.pack > 1 and (self.nodes, self.ranks) != (1, 1):
            raise UserError(
                f"{where}.pack: runs that share a job have one rank each; set nodes and ranks of this row to 1, or "
                "pack to 1"
            )


@dataclass(frozen=True)
class Cluster:
    """Where runs execute. `local`: processes on this machine. `slurm`: arrays of Slurm; no partition or account is
    assumed."""

    name: str = "local"
    workers: int = 0  # local: runs at once; 0: one per core
    threads: int = 1  # threads of each rank
    probe_ranks: int = 0  # local: data-parallel ranks of the probe; 0: one, with the threads of all workers
    checkpoint_s: float = 20.0  # seconds between checkpoints
    sharding: str = "auto"  # how weights lie over ranks: replicate, full, hybrid (train/parallel.py)
    micro_batch: int = 0  # images that a rank puts through the model at once; 0: found from free memory
    recompute: str = (
        "none"  # activations that backward computes again instead of keeping them: none, or those of blocks
    )
    compile: bool | None = None  # torch.compile of the blocks; None: where it pays (train/compiled.py)
    sizes: tuple[Size, ...] = ()  # slurm: by up_to_params, rising; a run takes the first row that holds it
    peak_flops_per_s: float = 0.0  # of one rank, for the MFU; 0: unknown
    parallel: int = 0  # slurm: jobs at once, over all arrays; 0: as many as Slurm starts
    max_queued: int = (
        0  # slurm: runs that wait or run, where an account may queue no more; the rest is for the next launch
    )
    margin: float = 2.0  # slurm: time asked for, over the time the throughput table gives
    max_time_h: float = 24.0  # slurm: a longer run is requeued, and goes on, so often as it takes
    signal_s: int = 120  # slurm: seconds before the time limit when a run is told to save
    partition: str = ""
    account: str = ""
    constraint: str = ""
    gpu_option: str = "gpus-per-node"  # how this cluster wants GPUs asked for: gpus-per-node or gres
    gpu_type: str = ""  # as in gpus-per-node=a100:4
    sbatch: dict[str, str] = field(
        default_factory=dict
    )  # any further option of sbatch, verbatim: {qos: long, exclusive: ""}
    setup: tuple[str, ...] = ()  # shell lines before the run, as in "module load cuda"

    def check(self, where: str):
        one_of(self.name, ("local", "slurm"), f"{where}.name")
        one_of(self.gpu_option, ("gpus-per-node", "gres"), f"{where}.gpu_option")
        for name, low in (
            ("workers", 0),
            ("threads", 1),
            ("probe_ranks", 0),
            ("parallel", 0),
            ("max_queued", 0),
            ("signal_s", 1),
        ):
            units.whole(getattr(self, name), f"{where}.{name}", low=low)
        units.number(self.peak_flops_per_s, f"{where}.peak_flops_per_s", low=0)
        one_of(self.sharding, SHARDINGS, f"{where}.sharding")
        units.whole(self.micro_batch, f"{where}.micro_batch", low=0)
        one_of(self.recompute, RECOMPUTES, f"{where}.recompute")
        for name in ("margin", "max_time_h"):
            units.number(getattr(self, name), f"{where}.{name}", above=0)
        if self.name == "slurm" and not self.sizes:
            raise UserError(
                f"{where}.sizes: missing; give rows such as {{up_to_params: 1e9, gpus: 1, flops_per_s: 1e14}}"
            )
        if [s.up_to_params for s in self.sizes] != sorted({s.up_to_params for s in self.sizes}):
            raise UserError(f"{where}.sizes: up_to_params must rise from row to row")
        units.number(self.checkpoint_s, f"{where}.checkpoint_s", above=0)


@dataclass(frozen=True)
class Rehearsal:
    """The mark of a rehearsed study and of each of its runs: losses come from L(N, D) = E + A N^-alpha + B D^-beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    noise: float = 0.002  # standard deviation of the log-normal scatter of a run's final loss
    seconds: float = 1.0  # that the steps of a run take
    seed: int = 0

    def check(self, where: str):
        units.number(self.E, f"{where}.E", low=0)
        for name in ("A", "B", "alpha", "beta"):
            units.number(getattr(self, name), f"{where}.{name}", above=0)
        units.number(self.noise, f"{where}.noise", low=0, high=0.1)
        units.number(self.seconds, f"{where}.seconds", low=0, high=86400)
        units.whole(self.seed, f"{where}.seed", low=0)

    def loss_at(self, n_params, n_tokens):
        """L(N, D), broadcast over both."""
        return self.E + self.A * n_params**-self.alpha + self.B * n_tokens**-self.beta

    def __str__(self) -> str:
        return (
            f"losses drawn from L(N, D) = {self.E:.6g} + {self.A:.6g} N^-{self.alpha:g} + {self.B:.6g} "
            f"D^-{self.beta:g} "
            f"with {self.noise:.2%} noise; nothing was trained"
        )


@dataclass(frozen=True)
class Study:
    """An isoFLOP study: budgets x widths x seeds, and the budget of the probe that the forecast is tested on."""

    name: str
    budgets: tuple[float, ...]  # FLOPs of one training run
    widths: tuple  # one list for every budget, or a list of lists, one for each budget
    probe_budget: float
    design: Design
    data: Data
    recipe: Recipe
    validation: Validation
    cluster: Cluster
    seeds: tuple[int, ...] = (0,)
    flops: str = "exact"  # what a budget counts: every matrix product, or 6 N D
    params: str = "matmul"  # what N counts: weights of all matrix products, all parameters, or the blocks only
    layout: int = 1
    rehearsal: Rehearsal | None = None  # None: its runs are trained
    rates: tuple[
        float, ...
    ] = ()  # learning rates to sweep, as multiples of the recipe's; the grid's own runs are the 1
    rate_budgets: tuple[float, ...] = ()  # budgets of the grid to sweep them at; empty: the smallest alone
    evaluation: dict[str, Evaluation] = field(
        default_factory=dict
    )  # what runs of grid and probe are measured by at their end
    nested: bool = False  # whether runs that are the beginning of a longer one are read from it (plan/nest.py)

    def check(self, where: str):
        one_of(self.flops, COUNTS_FLOPS, "study.flops")
        one_of(self.params, COUNTS_PARAMS, "study.params")
        if self.layout != 1:
            raise UserError(f"study.layout: {self.layout} is of another version of ditscale; this one reads layout 1")
        for name, value in (("budgets", self.budgets), ("widths", self.widths), ("seeds", self.seeds)):
            if not value:
                raise UserError(f"study.{name}: the list is empty; give at least one")
        for i, budget in enumerate(self.budgets):
            units.number(budget, f"study.budgets[{i}]", above=0)
        if list(self.budgets) != sorted(set(self.budgets)):
            raise UserError("study.budgets: give each budget once, from small to large")
        units.number(self.probe_budget, "study.probe_budget", above=0)
        if self.probe_budget <= self.budgets[-1]:
            raise UserError(
                f"study.probe_budget: {units.compact(self.probe_budget)} is not above the largest budget of the grid "
                f"({units.compact(self.budgets[-1])}); a forecast is tested beyond the grid"
            )
        nested = [isinstance(w, tuple) for w in self.widths]
        if any(nested) and not (all(nested) and len(nested) == len(self.budgets)):
            raise UserError(f"study.widths: give one list of widths, or {len(self.budgets)} lists, one for each budget")
        for width in {w for row in self.widths for w in (row if isinstance(row, tuple) else (row,))}:
            units.whole(width, "study.widths", low=1)
            if width % self.design.head_size:
                raise UserError(
                    f"study.widths: {width} is not a multiple of the head size {self.design.head_size}; "
                    f"use {max(1, round(width / self.design.head_size)) * self.design.head_size}"
                )
        for seed in self.seeds:
            units.whole(seed, "study.seeds", low=0)
        self._check_rates()
        self._check_evaluation()
        if self.data.source == "latents" and not self.validation.path:
            raise UserError(
                "study.validation.path: missing; give the file of held-out images that runs are measured on"
            )
        for data in (self.data, *self.validation.also.values()):
            if data.resolution % self.design.patch:
                raise UserError(
                    f"data {data.name}: resolution {data.resolution} is not a multiple of the patch {self.design.patch}"
                )
            shape = ("channels", "resolution", "text_length", "text_vocab", "text_dim")
            for name in shape:
                if getattr(data, name) != getattr(self.data, name):
                    raise UserError(
                        f"validation data {data.name}: {name} is {getattr(data, name)}, but the runs train on "
                        f"{getattr(self.data, name)}; a model is evaluated on images and captions of its own shape"
                    )

    def _check_rates(self):
        for i, rate in enumerate(self.rates):
            units.number(rate, f"study.rates[{i}]", above=0)
        if list(self.rates) != sorted(set(self.rates)):
            raise UserError("study.rates: give each multiple once, from small to large, as in [0.25,0.5,1,2,4]")
        if len({*self.rates, 1.0}) == 2:
            raise UserError(
                f"study.rates: {self.rates[0]:g} and the recipe's own are two rates; a minimum takes three or more"
            )
        for budget in self.rate_budgets:
            if budget not in self.budgets:
                known = ", ".join(map(units.compact, self.budgets))
                raise UserError(
                    f"study.rate_budgets: {units.compact(budget)} is not a budget of the grid, whose runs are the "
                    "sweep's "
                    f"multiple 1; choose of: {known}"
                )
        if self.rate_budgets and not self.rates:
            raise UserError("study.rate_budgets: there are no rates to sweep; give rates, as in rates=[0.25,0.5,1,2,4]")

    def _check_evaluation(self):
        for name in self.evaluation:
            one_of(name, METRICS, "study.evaluation")
        for name, how in self.evaluation.items():
            if how.guidance != 1 and not self.recipe.caption_dropout:
                raise UserError(
                    f"study.evaluation.{name}.guidance: {how.guidance:g} needs runs that know images without a "
                    "caption; add "
                    "recipe.caption_dropout=0.1"
                )
        fid = self.evaluation.get("fid")
        if fid and self.data.channels not in (1, 3) and not fid.decoder:
            raise UserError(
                f"study.evaluation.fid: {self.data.name} is latents, and FID wants pictures; name the directory of "
                "their VAE "
                "(+evaluation.fid.decoder=DIR), or leave it out (~evaluation.fid)"
            )
        if fid and self.data.channels not in (1, 3) and fid.extractor == EXTRACTORS[0]:
            raise UserError(
                f"study.evaluation.fid.extractor: the {fid.extractor} learns from pictures, and {self.data.name} is "
                "latents; choose another, as "
                "+evaluation.fid.extractor=clip-vit-l-14"
            )
        if fid and (fid.n or self.validation.n) < LEAST:
            raise UserError(
                f"study.evaluation.fid.n: {fid.n or self.validation.n} images give no FID at all; use {FEWEST} or more"
            )
        if fid and not fid.few and (fid.n or self.validation.n) < FEWEST:
            raise UserError(
                f"study.evaluation.fid.n: {fid.n or self.validation.n} images are too few for a number that means "
                "something; use "
                f"{FEWEST} or more, or add study.evaluation.fid.few=true"
            )

    def widths_of(self, budget: float) -> tuple[int, ...]:
        """The widths planned at a budget."""
        row = self.widths[self.budgets.index(budget)] if isinstance(self.widths[0], tuple) else self.widths
        return tuple(row)


# ---------------------------------------------------------------------------------------------- mappings to dataclasses


def build(cls, mapping, where: str):
    """Make the dataclass `cls` from a mapping, strictly. Numbers pass through units, lists become tuples.

    Raises UserError, of one line, at an unknown or missing key, a wrong type, or a value that `cls.check` refuses.
    """
    if not isinstance(mapping, dict):
        raise UserError(
            f"{where}: expected keys ({', '.join(f.name for f in dataclasses.fields(cls))}), got {mapping!r}"
        )
    hints = _hints(cls)
    for key in mapping:
        if key not in hints:
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, hints)}; valid keys: {', '.join(hints)}")
    values = {}
    for f in dataclasses.fields(cls):
        if f.name in mapping:
            values[f.name] = _cast(hints[f.name], mapping[f.name], f"{where}.{f.name}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: the key {f.name!r} is missing")
    made = cls(**values)
    if hasattr(made, "check"):
        made.check(where)
    return made


@functools.cache  # they are evaluated from text, which takes most of the time of reading thousands of runs
def _hints(cls) -> dict:
    return typing.get_type_hints(cls)


def _cast(hint, value, where: str):
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if hint is bool:
        if not isinstance(value, bool):
            raise UserError(f"{where}: {value!r} is not true or false")
        return value
    if hint is int:
        return units.whole(value, where)
    if hint is float:
        return units.number(value, where)
    if hint is str:
        if not isinstance(value, str):
            raise UserError(f"{where}: {value!r} is not text")
        return value
    origin = typing.get_origin(hint)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: {value!r} is not a mapping of labels")
        return {k: _cast(typing.get_args(hint)[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is tuple or origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: {value!r} is not a list; write [{value}]")
        if hint is tuple:  # whole numbers, or lists of them
            return tuple(
                tuple(units.whole(v, where) for v in x) if isinstance(x, (list, tuple)) else units.whole(x, where)
                for x in value
            )
        return tuple(_cast(typing.get_args(hint)[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        return None if value is None else _cast(inner[0], value, where)
    raise TypeError(f"{where}: no rule for {hint}")


def plain(made) -> dict:
    """A dataclass as the nested dicts and lists that YAML and JSON hold; `build` reads it back. What is None is left
    out."""
    return _plain(dataclasses.asdict(made))


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


# ---------------------------------------------------------------------------------------------------------- YAML files


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    pass


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
    pass


def _represent_float(dumper, x: float):
    """1.44e+12, not 1440000000000.0: the shortest digits that read back equal, in the form YAML 1.1 calls a float."""
    text = repr(x)
    if abs(x) >= 1e6 or (x and abs(x) < 1e-3):
        text = next(t for digits in range(1, 18) if float(t := f"{x:.{digits}e}") == x)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _represent_float)


def read(cls, path: Path):
    """The dataclass `cls` from a YAML file, as strictly as `build`. Raises UserError when there is none, or it is
    wrong.

    The runs of a study differ in a few numbers while their design, data, recipe and so on are the same text. So each
    top-level key is read, checked and made immutable once for all files of a process that say the same.
    """
    text = _text(path)
    try:
        values = {}
        for block in re.split(r"^(?=\w)", text, flags=re.M):
            if block:
                name, value = _field(cls, block)
                values[name] = value
        made = cls(**values)
    except (yaml.YAMLError, UserError, LookupError, AttributeError, TypeError, ValueError):
        return build(cls, read_yaml(path), str(path))  # not that simple, or wrong: this says what
    if hasattr(made, "check"):
        made.check(str(path))
    return made


@functools.lru_cache(maxsize=4096)
def _field(cls, block: str) -> tuple[str, object]:
    """A top-level key with its value as `cls` has it."""
    plain_number = re.fullmatch(r"(\w+): ([\d.e+]+)\n", block)
    if plain_number and _hints(cls)[plain_number[1]] in (int, float):  # YAML's reader takes twenty times as long for it
        return plain_number[1], _cast(_hints(cls)[plain_number[1]], plain_number[2], "")
    ((name, value),) = yaml.load(block, Loader=_Loader).items()
    return name, _cast(_hints(cls)[name], value, "")


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file; UserError when there is none, or it is not a mapping."""
    try:
        mapping = yaml.load(_text(path), Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(mapping, dict):
        raise UserError(f"{path}: holds no keys")
    return mapping


def _text(path: Path) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def dump_yaml(mapping: dict) -> str:
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)


# ------------------------------------------------------------------------------------------------------------- Hydra


def configs_dir() -> Path:
    """`configs/` of the checkout, or its copy inside an installed package."""
    here = Path(__file__).resolve().parent
    return next(d for d in (here / "configs", here.parent / "configs") if d.is_dir())


def compose(overrides: list[str], search: Path | None = None) -> Study:
    """Compose a Study with Hydra from `configs/` and overrides such as "study=mini" or "recipe.batch_size=32".

    `search` is a directory of the user's own groups, looked up beside ours. Raises UserError with Hydra's reason in a
    line.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [_settable(o) for o in overrides]
    if search is not None:
        if not Path(search).is_dir():
            raise UserError(f"--configs {search}: there is no such directory")
        overrides.append(f"hydra.searchpath=[file://{os.path.abspath(search)}]")
    try:
        with initialize_config_dir(config_dir=str(configs_dir()), version_base="1.3"):
            composed = OmegaConf.to_container(hydra_compose("config", overrides), resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_hydra_line(error, overrides)) from None
    return build(Study, composed, "study")


def _hydra_line(error: Exception, overrides: list[str]) -> str:
    """Hydra's many-line message as one line, with the valid choices where it is about a choice."""
    text = str(error)
    group = next((o.split("=")[0].lstrip("+~") for o in overrides if f"'{o.split('=')[0]}/" in text), None)
    if "Could not find" in text and group:
        known = sorted(p.stem for p in (configs_dir() / group).glob("*.yaml"))
        value = next(o.split("=", 1)[1] for o in overrides if o.startswith(group + "="))
        return f"{group}={value}: there is no such {group}{nearest(value, known)}; choose one of: {', '.join(known)}"
    if "Could not override" in text:
        key = text.split("'")[1]
        close = nearest(key, _settings())
        return f"{key}: there is no such setting{close}; settings are keys of study.yaml, as in recipe.batch_size=32"
    return text.split("Available options")[0]


def _settable(override: str) -> str:
    """A setting that no file of `configs/` mentions, since its default does, may be set like the others."""
    key = override.split("=")[0]
    known = [name for name in _settings() if name not in GROUPS]
    return f"++{override}" if any(key == name or key.startswith(f"{name}.") for name in known) else override


def _settings() -> list[str]:
    """Every key that an override may set, dotted."""
    names = [f.name for f in dataclasses.fields(Study)]
    for part, cls in (
        ("design", Design),
        ("data", Data),
        ("recipe", Recipe),
        ("validation", Validation),
        ("cluster", Cluster),
    ):
        names += [f"{part}.{f.name}" for f in dataclasses.fields(cls)]
    return names
