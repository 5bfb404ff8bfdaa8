"""What was measured on a finished run: evaluation.h5, one file per run, always rewritten whole.

Layout (attributes `layout` = 2, `run_id`, and of the samples `sampler`, `steps`, `seed`):
    results/<metric>/<data set>@<how>   a group for each way of measuring (`Result.how`), with attributes
                                      metric, dataset, value, se (standard error), unit, n (images), seed,
                                      settings (JSON), wall_s (of computing, summed over ranks and attempts),
                                      evaluations (of the model, per image)
                                  and the metric's arrays: samples [n] or [n, ...], bins [10, 2], ...
    samples/generated             uint8 [n, R, R, C] when the data are pictures (C = 1 or 3), else float32 latents
    samples/reference             the held-out images of the same captions, likewise
    samples/captions              text [n]
    ema/<window>/                 results/, samples/ and their attributes once more, for another EMA window than the
                                  run's own
"""

import io
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Self

import h5py
import numpy as np

from ..errors import UserError
from ..files import write_bytes
from ..naming import digest

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

    def same(self, other: Self) -> bool:
        """Whether both were measured in the same way."""
        return self.of == other.of and self.settings == other.settings

    @property
    def how(self) -> dict:
        """What results of several runs must share to make a law: n, seed, and all settings but the model's weights."""
        settings = {key: value for key, value in sorted(self.settings.items()) if key != "model"}
        return {"n": self.n, "seed": self.seed} | settings

    @property
    def of(self) -> tuple[str, str, str]:
        """The identity of a result within a run: a later one replaces an earlier one of the same identity."""
        return self.metric, self.dataset, json.dumps(self.how)


def read_results(path: Path, window: float | None = None) -> list[Result]:
    """All results of the run's final weights, or of another EMA window. Raises UserError at a damaged file."""
    with _opened(path) as file:
        at = _find(file, f"{_place(window)}/results")
        return [] if at is None else [_result(at[metric][name]) for metric in at for name in at[metric]]


def write_results(path: Path, run_id: str, results: list[Result], window: float | None = None):
    """Add results; each replaces an older one of its metric, data set, window and way of measuring."""
    with _rewritten(path, run_id, window) as at:
        for result in results:
            others = at.require_group(f"results/{result.metric}")
            for older in [name for name in others if _result(others[name]).of == result.of]:
                del others[older]
            group = others.create_group(f"{result.dataset.replace('/', '-')}@{digest(result.how)[:8]}")
            for key in ("metric", "dataset", "value", "se", "unit", "n", "seed", "wall_s", "evaluations"):
                group.attrs[key] = getattr(result, key)
            group.attrs["settings"] = json.dumps(result.settings, sort_keys=True)
            for key, array in result.arrays.items():
                group[key] = array


def write_samples(
    path: Path, run_id: str, generated: np.ndarray, reference: np.ndarray, captions: list[str], settings: dict,
    window: float | None = None,
):  # fmt: skip
    """Write samples; they replace older ones of their window. settings: attributes of the file."""
    with _rewritten(path, run_id, window) as at:
        at.attrs.update(settings)
        if "samples" in at:
            del at["samples"]
        at["samples/generated"], at["samples/reference"] = generated, reference
        at.create_dataset("samples/captions", data=captions, dtype=h5py.string_dtype())


def has_samples(path: Path, n: int, settings: dict, window: float | None = None) -> bool:
    with _opened(path) as file:
        at = _find(file, _place(window))
        if at is None or any(at.attrs.get(key) != value for key, value in settings.items()):
            return False
        return "samples" in list(at) and len(at["samples/generated"]) == n


@contextmanager
def _rewritten(path: Path, run_id: str, window: float | None) -> Iterator[h5py.Group]:
    """The window's part, to change in the `with` block; then the file is written whole, without what was deleted."""
    memory, packed = io.BytesIO(), io.BytesIO()
    with h5py.File(memory, "w") as made:
        with _opened(path) as old:
            if old is not None:
                made.attrs.update(old.attrs)
                for name in old:
                    old.copy(name, made)
        made.attrs.update({"layout": LAYOUT, "run_id": run_id})
        yield made.require_group(_place(window))
        with h5py.File(packed, "w") as whole:
            whole.attrs.update(made.attrs)
            for name in made:
                made.copy(name, whole)
    write_bytes(Path(path), packed.getvalue())


def _place(window: float | None) -> str:
    """Where in the file a window's part is: apart from the run's own, so that readers never confuse them."""
    return "/" if window is None else f"/ema/{window}"


def _find(group: h5py.Group | None, place: str) -> h5py.Group | None:
    """The group at a place, or None. Names are listed, since h5py's `get` and `in` report a damaged group as empty."""
    for name in filter(None, place.split("/")):
        if group is None or name not in list(group):
            return None
        group = group[name]
    return group


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File | None]:
    """Open the file for reading; None where there is none of this layout. Raises UserError when it proves damaged."""
    if not Path(path).is_file():
        yield None
        return
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError:
        raise UserError(f"{path}: is truncated or not HDF5; delete it and evaluate again") from None
    try:
        with file:
            yield file if file.attrs["layout"] == LAYOUT else None
    except (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: is damaged; delete it and evaluate again") from None


def _result(group: h5py.Group) -> Result:
    values = {key: group.attrs[key] for key in ("metric", "dataset", "unit")}
    values |= {key: float(group.attrs[key]) for key in ("value", "se", "wall_s", "evaluations")}
    values |= {key: int(group.attrs[key]) for key in ("n", "seed")}
    arrays = {key: array[()] for key, array in group.items()}
    return Result(**values, settings=json.loads(group.attrs["settings"]), arrays=arrays)
