"""Where runs execute, and what they may ask for there."""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import units
from ..errors import UserError, one_of

SHARDINGS = ("auto", "replicate", "full", "hybrid")
RECOMPUTES = ("none", "blocks")
ATTENTIONS = ("quickest", "flash", "cudnn")


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
    workers: int = 0  # local: runs at once; 0: one per GPU, or per core where there is none
    gpus: int | None = None  # local: of this machine's, so many are used; None: all, 0: none
    threads: int = 1  # threads of each rank
    # local: ranks of the probe; 0: one per GPU, or where there is none one with the threads of all workers
    probe_ranks: int = 0
    checkpoint_s: float = 20.0  # seconds between checkpoints
    sharding: str = "auto"  # how weights lie over ranks: replicate, full, hybrid (train/layout/choose.py)
    micro_batch: int = 0  # images that a rank puts through the model at once; 0: found from free memory
    # activations that backward computes again instead of keeping them: none, or those of blocks
    recompute: str = "none"
    attention: str = "quickest"  # kernels of a bf16 run on a GPU (train/attention_backend.py)
    compile: bool | None = None  # torch.compile of the blocks; None: where it pays (model/compile.py)
    sizes: tuple[Size, ...] = ()  # slurm: by up_to_params, rising; a run takes the first row that holds it
    peak_flops_per_s: float = 0.0  # of one rank, for the MFU; 0: unknown
    parallel: int = 0  # slurm: jobs at once, over all arrays; 0: as many as Slurm starts
    # slurm: runs that wait or run, where an account may queue no more; the rest is for the next launch
    max_queued: int = 0
    margin: float = 2.0  # slurm: time asked for, over the time the throughput table gives
    max_time_h: float = 24.0  # slurm: a longer run is requeued, and goes on, so often as it takes
    signal_s: int = 120  # slurm: seconds before the time limit when a run is told to save
    partition: str = ""
    account: str = ""
    constraint: str = ""
    gpu_option: str = "gpus-per-node"  # how this cluster wants GPUs asked for: gpus-per-node or gres
    gpu_type: str = ""  # as in gpus-per-node=a100:4
    # any further option of sbatch, verbatim: {qos: long, exclusive: ""}
    sbatch: dict[str, str] = field(default_factory=dict)
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
            units.whole(getattr(self, name), f"{where}.{name}", low=low, high=100_000)
        if self.gpus is not None:
            units.whole(self.gpus, f"{where}.gpus", low=0)
        units.number(self.peak_flops_per_s, f"{where}.peak_flops_per_s", low=0)
        one_of(self.sharding, SHARDINGS, f"{where}.sharding")
        units.whole(self.micro_batch, f"{where}.micro_batch", low=0)
        one_of(self.recompute, RECOMPUTES, f"{where}.recompute")
        one_of(self.attention, ATTENTIONS, f"{where}.attention")
        for name in ("margin", "max_time_h"):
            units.number(getattr(self, name), f"{where}.{name}", above=0)
        if self.name == "slurm" and not self.sizes:
            raise UserError(
                f"{where}.sizes: missing; give rows such as {{up_to_params: 1e9, gpus: 1, flops_per_s: 1e14}}"
            )
        if [s.up_to_params for s in self.sizes] != sorted({s.up_to_params for s in self.sizes}):
            raise UserError(f"{where}.sizes: up_to_params must rise from row to row")
        units.number(self.checkpoint_s, f"{where}.checkpoint_s", above=0)
