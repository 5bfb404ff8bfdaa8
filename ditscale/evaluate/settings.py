"""What to measure on a finished run, and how: a study's `evaluation`, or the options of `ditscale evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import units
from ..config import METRICS, Evaluation
from ..errors import one_of


@dataclass(frozen=True)
class Settings:
    """Raises UserError, naming the option, at a value that cannot be."""

    metrics: dict[str, Evaluation] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()  # names or labels; none: the run's own and all of its study's validation.also
    # further data sets by label, which are measured on where `datasets` names them
    files: dict[str, str] = field(default_factory=dict)
    seed: int | None = None  # of the noise; None: validation.seed, so that runs of a study share it
    batch_size: int | None = None  # images in a chunk; None: validation.batch_size
    samples: int = 16  # images to draw for people to look at
    ema: float | None = None  # window of the EMA weights to measure; None: the run's own

    def __post_init__(self):
        for name, how in self.metrics.items():
            one_of(name, METRICS, "--metrics")
            how.check("")
        for name, low in (("seed", 0), ("batch_size", 1), ("samples", 0)):
            if getattr(self, name) is not None:
                units.whole(getattr(self, name), f"--{name.replace('_', '-')}", low=low)
        if self.ema is not None:
            units.number(self.ema, "--ema", low=0, high=1)

    @property
    def drawn(self) -> Evaluation:
        """How samples to look at are drawn: as FID's, or whatever is measured."""
        return self.metrics.get("fid") or next(iter(self.metrics.values()), Evaluation())
