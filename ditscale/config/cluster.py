"""Where runs execute, and the resources they may request."""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

from ..units import whole
from .mapping import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Problems

Sharding = Literal["auto", "replicate", "full", "hybrid"]
Recompute = Literal["none", "blocks"]
Attention = Literal["quickest", "flash", "cudnn"]
PositiveCount = Annotated[int, partial(whole, low=1, high=100_000)]
Count = Annotated[int, partial(whole, low=0, high=100_000)]


@dataclass(frozen=True)
class Size:
    """A row of the throughput table: what runs of up to `up_to_params` parameters request, and how fast they go."""

    up_to_params: PositiveFloat
    flops_per_s: PositiveFloat  # Sustained FLOP/s of one rank, where nothing is measured: `ditscale bench` measures it.
    nodes: PositiveInt = 1
    ranks: PositiveInt = 1  # Ranks of each node.
    gpus: NonNegativeInt = 0  # GPUs of each node.
    pack: PositiveInt = 1  # Runs that one job trains side by side on its cores and GPU.

    def problems(self) -> Problems:
        if self.pack > 1 and (self.nodes, self.ranks) != (1, 1):
            text = "runs that share a job have one rank each; set nodes and ranks of this row to 1, or pack to 1"
            yield "pack", text


@dataclass(frozen=True)
class Cluster:
    """Where runs execute. `local`: processes on this machine. `slurm`: job arrays, in no assumed partition."""

    name: Literal["local", "slurm"] = "local"
    workers: Count = 0  # local: Runs at once. 0: one per GPU, or one per core without GPUs.
    gpus: NonNegativeInt | None = None  # local: How many of this machine's GPUs are used. None: all, 0: none.
    threads: PositiveCount = 1  # Threads of each rank.
    # local: Ranks of the probe. 0: one per GPU; without GPUs, one rank with the threads of all workers.
    probe_ranks: Count = 0
    checkpoint_s: PositiveFloat = 20.0  # Seconds between checkpoints.
    sharding: Sharding = "auto"  # How weights lie over ranks (train/layout/choose.py).
    micro_batch: NonNegativeInt = 0  # Images that a rank puts through the model at once. 0: found from free memory.
    # Whose activations the backward pass computes again instead of keeping them: none, or those of the blocks.
    recompute: Recompute = "none"
    attention: Attention = "quickest"  # Attention kernels of a bf16 run on a GPU (train/attention_backend.py).
    compile: bool | None = None  # Whether torch.compile compiles the model. None: where it pays (model/compile.py).
    sizes: tuple[Size, ...] = ()  # slurm: Rows of rising up_to_params; a run takes the first row that holds it.
    # Where speeds were measured: files of `ditscale bench`, and directories of studies with finished runs.
    speeds: tuple[str, ...] | None = None
    peak_flops_per_s: NonNegativeFloat = 0.0  # Peak FLOP/s of one rank, for the MFU. 0: unknown.
    parallel: Count = 0  # slurm: Jobs at once, over all arrays. 0: as many as Slurm starts.
    # slurm: Most runs pending or running at once, for accounts with a limit. The next launch submits the rest.
    max_queued: Count = 0
    margin: PositiveFloat = 2.0  # slurm: Time limit of a job, over the time that the throughput table gives.
    max_time_h: PositiveFloat = 24.0  # slurm: A longer run is requeued and resumes as many times as needed.
    signal_s: PositiveCount = 120  # slurm: Seconds before the time limit at which a run gets the signal to save.
    partition: str = ""
    account: str = ""
    constraint: str = ""
    gpu_option: Literal["gpus-per-node", "gres"] = "gpus-per-node"  # The option of sbatch that requests GPUs here.
    gpu_type: str = ""  # The type in gpus-per-node=a100:4, for example.
    sbatch: dict[str, str] = field(default_factory=dict)  # More options of sbatch, verbatim: {qos: long}.
    setup: tuple[str, ...] = ()  # Shell lines before the run, for example "module load cuda".

    def problems(self) -> Problems:
        if self.name == "slurm" and not self.sizes:
            yield "sizes", "missing; give rows such as {up_to_params: 1e9, gpus: 1, flops_per_s: 1e14}"
        if [s.up_to_params for s in self.sizes] != sorted({s.up_to_params for s in self.sizes}):
            yield "sizes", "up_to_params must rise from row to row"
