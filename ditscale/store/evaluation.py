"""What was measured on a finished run: evaluation.h5, one file a run, always rewritten whole.

Layout (attributes `layout` = 2, `run_id`, and of the samples `sampler`, `steps`, `seed`):
    results/<metric>/<data set>   a group, attributes:
                                      metric, dataset, value, se (standard error), unit, n (images), seed,
                                      settings (JSON), wall_s (of computing, summed over ranks and attempts),
                                      evaluations (of the model, of one image)
                                  and whatever arrays the metric has: samples [n] or [n, ...], bins [10, 2], ...
    samples/generated             uint8 [n, R, R, C] when the data are pictures (C = 1 or 3), else float32 latents
    samples/reference             the held-out images that bear the same captions, likewise
    samples/captions              text [n]
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import h5py
import numpy as np

from ..errors import UserError
from ..files import write_bytes

LAYOUT = 2


@dataclass(frozen=True)
class Result:
    """One metric of one run on one data set. arrays: further numbers by name."""

    metric: str
    dataset: str
    value: float
    se: float
    unit: str
    n: int
    seed: int
    settings: dict
    wall_s: float = 0.0
    evaluations: float = 0.0
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def same(self, other: Result) -> bool:
        """Whether both were asked for alike, so that one need not be measured again."""
        return all(getattr(self, name) == getattr(other, name) for name in ("metric", "dataset", "n", "seed", "settings"))


def read_results(path: Path) -> list[Result]:
    """All that was measured, in no order; empty when there is no file of this layout. Raises UserError at a damaged one."""
    if not _there(path):
        return []
    with h5py.File(path, "r", locking=False) as file:
        groups = [file[f"results/{m}/{d}"] for m in file.get("results", {}) for d in file[f"results/{m}"]]
        return [_result(group) for group in groups]


def write_results(path: Path, run_id: str, results: list[Result]):
    """Add results, each in the place of an older one of its metric and data set."""

    def change(file):
        for result in results:
            name = f"results/{result.metric}/{_safe(result.dataset)}"
            if name in file:
                del file[name]
            group = file.create_group(name)
            for key in ("metric", "dataset", "value", "se", "unit", "n", "seed", "wall_s", "evaluations"):
                group.attrs[key] = getattr(result, key)
            group.attrs["settings"] = json.dumps(result.settings, sort_keys=True)
            for key, array in result.arrays.items():
                group[key] = array

    _rewrite(path, run_id, change)


def write_samples(path: Path, run_id: str, generated: np.ndarray, reference: np.ndarray, captions: list[str], settings: dict):
    """Put samples in the place of older ones. settings: attributes of the file."""

    def change(file):
        file.attrs.update(settings)
        if "samples" in file:
            del file["samples"]
        file["samples/generated"], file["samples/reference"] = generated, reference
        file.create_dataset("samples/captions", data=captions, dtype=h5py.string_dtype())

    _rewrite(path, run_id, change)


def has_samples(path: Path, n: int, settings: dict) -> bool:
    """Whether n samples of these settings are there."""
    if not _there(path):
        return False
    with h5py.File(path, "r", locking=False) as file:
        same = all(file.attrs.get(key) == value for key, value in settings.items())
        return same and "samples" in file and len(file["samples/generated"]) == n


def _rewrite(path: Path, run_id: str, change: Callable):
    """The file with a change, written whole: made anew in memory, for HDF5 does not give back the space of what is deleted."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as made:
        if _there(path):
            with h5py.File(path, "r", locking=False) as old:
                made.attrs.update(old.attrs)
                for name in old:
                    old.copy(name, made)
        made.attrs.update({"layout": LAYOUT, "run_id": run_id})
        change(made)
        packed = io.BytesIO()
        with h5py.File(packed, "w") as whole:
            whole.attrs.update(made.attrs)
            for name in made:
                made.copy(name, whole)
    write_bytes(Path(path), packed.getvalue())


def _there(path: Path) -> bool:
    """Whether the file is there. One of an older layout counts as none: it is measured anew and written over."""
    if not Path(path).is_file():
        return False
    try:
        with h5py.File(path, "r", locking=False) as file:
            return file.attrs.get("layout") == LAYOUT
    except OSError:
        raise UserError(f"{path}: is truncated or not HDF5; delete it and evaluate again") from None


def _result(group: h5py.Group) -> Result:
    values = {key: group.attrs[key] for key in ("metric", "dataset", "unit")}
    values |= {key: float(group.attrs[key]) for key in ("value", "se", "wall_s", "evaluations")}
    values |= {key: int(group.attrs[key]) for key in ("n", "seed")}
    return Result(**values, settings=json.loads(group.attrs["settings"]), arrays={key: array[()] for key, array in group.items()})


def _safe(name: str) -> str:
    return name.replace("/", "-")
