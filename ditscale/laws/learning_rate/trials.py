"""The runs of a learning-rate sweep, read from a study directory or from a table."""

from __future__ import annotations

import math
from pathlib import Path

from ...errors import UserError
from ..read import read_columns
from .law import Trial

NEEDED = ("n_params", "n_tokens", "lr", "loss")


def read_trials(path: Path | str, columns=None) -> tuple[list[Trial], list[tuple[str, str]]]:
    """(trials, [(run_id, reason) of runs left out]) of a study, or of a CSV or HDF5 table.

    A table has the columns n_params, n_tokens, lr and loss, and may have budget_flops (else 6 N D), run_id and role
    (grid: its rate is the recipe's); `columns` {our name: the table's name}. A diverged run has an empty, nan or
    infinite loss.
    Raises UserError, of one line, at a mistake in it.
    """
    path = Path(path)
    return _of_study(path) if path.is_dir() else (_of_table(path, dict(columns or {})), [])


def _of_study(root: Path) -> tuple[list[Trial], list[tuple[str, str]]]:
    """The sweep's runs and the grid's at its budgets, from their own records: a diverged run is in no table."""
    from ...naming import StudyPaths  # here, since a table needs neither these nor h5py
    from ...plan.run import read_run
    from ...rundir.record import Damaged, read_end

    paths = StudyPaths(root)
    runs = [(at, read_run(at.run)) for at in paths.run_dirs()]
    budgets = {run.budget_flops for _, run in runs if run.role == "rate"}
    if not budgets:
        more = f"`ditscale plan {root} SETTINGS rates=[0.25,0.5,1,2,4]`"
        raise UserError(f"{root}: plans no sweep; {more}, with the settings it was planned by, adds one")
    trials, left_out = [], []
    for at, run in runs:
        if run.budget_flops not in budgets or run.role not in ("grid", "rate"):
            continue
        try:
            state, loss = read_end(at.metrics)
        except Damaged as error:
            state, loss = str(error), None
        if state not in ("finished", "diverged"):
            left_out.append((run.run_id, "not started" if state == "planned" else state))
            continue
        trials.append(Trial(run.run_id, run.n_params, run.n_tokens, run.budget_flops, run.lr, loss, run.role == "grid"))
    return trials, left_out


def _of_table(path: Path, columns: dict[str, str]) -> list[Trial]:
    _, found, where = read_columns(path, NEEDED, ("budget_flops", "run_id", "role"), columns)
    trials = []
    for i, place in enumerate(where):
        row = {name: found[name][i] for name in found}
        for name in ("n_params", "n_tokens", "lr"):
            if not (math.isfinite(row[name]) and row[name] > 0):
                raise UserError(f"{path}, {place}, column {name}: {row[name]:g} is not a positive number")
        if row["loss"] <= 0:
            raise UserError(f"{path}, {place}, column loss: {row['loss']:g} is not positive")
        n, d = row["n_params"], row["n_tokens"]
        budget = row.get("budget_flops", math.nan)
        trials.append(
            Trial(
                str(row.get("run_id", f"row-{i + 1}")),
                n,
                d,
                budget if math.isfinite(budget) else 6 * n * d,
                row["lr"],
                row["loss"] if math.isfinite(row["loss"]) else None,
                row.get("role") == "grid",
            )  # fmt: skip
        )
    return trials
