"""What a study may cost, and what an hour of it costs."""

from dataclasses import dataclass

from .mapping import NonNegativeFloat


@dataclass(frozen=True)
class Budget:
    """Limits and rates of a study. Without GPUs, a GPU-hour here is a core-hour."""

    gpu_hours: NonNegativeFloat = (
        0.0  # Of all runs, what is spent included. A launch beyond it is refused. 0: no limit.
    )
    usd_per_gpu_hour: NonNegativeFloat = 0.0  # 0: not stated, so no money is named.
    watts: NonNegativeFloat = 0.0  # Of one GPU with its share of the node, in training. 0: as measured, if it was.
