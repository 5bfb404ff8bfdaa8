"""What to measure on a finished run, and how: a study's `evaluation`, or the options of `ditscale evaluate`."""

from dataclasses import dataclass, field

from ..config import METRICS, Evaluation, check
from ..config.mapping import Fraction, NonNegativeInt, PositiveInt
from ..errors import one_of


@dataclass(frozen=True)
class Settings:
    """Raises UserError, naming the option, at a value beyond its limits."""

    metrics: dict[str, Evaluation] = field(default_factory=dict)
    # Names or labels of data sets. Empty: the run's own and all of its study's validation.also.
    datasets: tuple[str, ...] = ()
    # Files of further data sets by label, measured on where `datasets` names them.
    files: dict[str, str] = field(default_factory=dict)
    seed: NonNegativeInt | None = None  # Seed of the noise. None: validation.seed, which the runs of a study share.
    batch_size: PositiveInt | None = None  # Images in a chunk. None: validation.batch_size.
    samples: NonNegativeInt = 16  # Samples to draw for people to look at.
    ema: Fraction | None = None  # Window of the EMA weights to measure. None: the run's own.

    def __post_init__(self):
        for name, how in self.metrics.items():
            one_of(name, METRICS, "--metrics")
            check(how, "")
        check(self, "")

    @property
    def sampling(self) -> Evaluation:
        """How samples to look at are drawn: as FID's, or as the first metric's."""
        return self.metrics.get("fid") or next(iter(self.metrics.values()), Evaluation())
