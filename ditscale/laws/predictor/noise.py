"""How the errors of runs that are only planned are expected to hang together, before a loss is measured."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Noise:
    """Standard deviations of ln L, and of what runs share. Readings of one training have the share `common` of a run's
    variance in common; the rest dies off over `distance` in ln C. reading: of a single measurement; slice: what the
    order of the data does to all runs of one budget and seed; size: what suits one size better than another, at every
    budget and seed; bend: of the slope in ln C that each training has by itself."""

    run: float = 3e-3
    reading: float = 3e-4
    slice: float = 1e-3
    size: float = 0.0
    common: float = 0.6
    distance: float = 0.7
    bend: float = 0.0

    def scaled(self, factor: float) -> Self:
        """With all errors `factor` times as large."""
        sizes = {name: factor * getattr(self, name) for name in ("run", "reading", "slice", "size", "bend")}
        return replace(self, **sizes)

    def covariance(
        self, log_c: np.ndarray, trajectory: np.ndarray, slices: np.ndarray | None = None,
        sizes: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Of ln L (n, n). log_c (n,); labels (n,) of trainings, of slices (of one seed each), and of sizes."""
        along = self.common + (1 - self.common) * np.exp(-np.abs(log_c[:, None] - log_c) / self.distance)
        off = log_c - (np.bincount(trajectory, log_c) / np.maximum(np.bincount(trajectory), 1))[trajectory]
        own = self.run**2 * along + self.bend**2 * np.outer(off, off)
        out = self.reading**2 * np.eye(len(log_c)) + own * _same(trajectory)
        for labels, spread in ((slices, self.slice), (sizes, self.size)):
            if labels is not None and spread:
                out += spread**2 * _same(labels)
        return out


def _same(labels: np.ndarray) -> np.ndarray:
    return labels[:, None] == labels
