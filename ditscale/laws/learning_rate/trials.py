"""The runs of a learning-rate sweep, read from a study directory or from a table."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

from ...errors import UserError
from ...result import Result
from ...tables.read import Source, read_columns

NEEDED = ("n_params", "n_tokens", "lr", "loss")


@dataclass(frozen=True)
class Trial(Result):
    """One run of a sweep. loss is None where it diverged; `recipe`: its rate is the one that the recipe gives."""

    run_id: str
    n_params: float  # N
    n_tokens: float  # D
    budget_flops: float
    lr: float
    loss: float | None
    recipe: bool = False


def read_trials(source: Source, columns: Mapping[str, str] | None = None) -> tuple[list[Trial], list[tuple[str, str]]]:
    """(trials, [(run_id, reason) of runs left out]) of a study, or of a table, as `read_table` reads it.

    A table has the columns n_params, n_tokens, lr and loss, and may have budget_flops (else 6 N D), run_id and role
    (grid: its rate is the recipe's); `columns` {our name: the table's name}. A diverged run has an empty, nan or
    infinite loss. Raises UserError, of one line, at a mistake in it."""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        return _of_study(Path(source))
    return _of_table(source, columns), []


def _of_study(root: Path) -> tuple[list[Trial], list[tuple[str, str]]]:
    """The sweep's runs and the grid's at its budgets, from their own records: a diverged run is in no table."""
    from ...naming import StudyPaths  # Here, since a table needs neither these nor h5py.
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


def _of_table(source: Source, columns: Mapping[str, str] | None) -> list[Trial]:
    table, found, where = read_columns(source, NEEDED, ("budget_flops", "run_id", "role"), columns)
    trials = []
    for i, place in enumerate(where):
        row = {name: found[name][i] for name in found}
        for name in ("n_params", "n_tokens", "lr"):
            if not 0 < row[name] < math.inf:
                raise UserError(f"{table}, {place}, column {name}: {row[name]:g} is not a positive number")
        n, d, loss, budget = row["n_params"], row["n_tokens"], row["loss"], row.get("budget_flops", math.nan)
        if loss <= 0:
            raise UserError(f"{table}, {place}, column loss: {loss:g} is not positive")
        budget, measured = budget if math.isfinite(budget) else 6 * n * d, loss if math.isfinite(loss) else None
        name = str(row.get("run_id", f"row-{i + 1}"))
        trials.append(Trial(name, n, d, budget, row["lr"], measured, row.get("role") == "grid"))
    return trials
