"""Fitted predictors in a file, so that a question asked later needs no second fit: what a fit found, to the last digit,
with a checksum of the rows it was fitted to. Runs are read from the table again, and the rest follows from both."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ... import __version__
from ...files import write_text
from ...tables.table import Table
from .member import Member
from .predictor import Predictor
from .runs import runs_of

LAYOUT = 1


def checksum(table: Table) -> str:
    """sha256 of all that a predictor takes from a table, rows in their order, and of the version that fits it."""
    digest = hashlib.sha256(f"{__version__} {LAYOUT} {table.metric} {table.higher_is_better}".encode())
    for name in ("n_params", "n_tokens", "budget_flops", "loss", "loss_se", "n_images", "achieved_flops"):
        column = getattr(table, name)
        digest.update(name.encode() + (b"" if column is None else np.asarray(column, dtype=float).tobytes()))
    for name, labels in (("role", table.role), *sorted(table.shared.items())):
        digest.update(json.dumps([name, *map(str, labels)]).encode())
    return digest.hexdigest()


def save_predictors(path: Path, fitted: Mapping[str, tuple[Table, Predictor]]) -> None:
    """Write {name: (the table, its predictor as `predictor` fits it)} to a file, whole or not at all."""
    laws = {
        name: {
            "checksum": checksum(table),
            "weights": made.weights.tolist(),
            "members": [member.state() for member in made.members],
        }
        for name, (table, made) in fitted.items()
    }
    write_text(path, json.dumps({"layout": LAYOUT, "predictors": laws}) + "\n")


def load_predictors(path: Path, tables: Mapping[str, Table]) -> dict[str, Predictor]:
    """{name: predictor} of those of `tables` that the file has, fitted to the very same rows; none of a damaged file,
    which is only ever a copy of what a fit gives."""
    try:
        laws = json.loads(path.read_text(encoding="utf-8"))["predictors"]
        return {
            name: _restored(laws[name], table)
            for name, table in tables.items()
            if name in laws and laws[name]["checksum"] == checksum(table)
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _restored(law: dict, table: Table) -> Predictor:
    runs = runs_of(table)
    members = tuple(Member.restored(runs, state) for state in law["members"])
    return Predictor(runs, members, np.array(law["weights"]))
