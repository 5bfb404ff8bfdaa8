"""The law of an earlier study, or of any table, as the prior of the next one."""

import json
from pathlib import Path

from ..config import Prior, check
from ..errors import UserError
from ..naming import StudyPaths
from ..tables.table import describe
from .fit import fit
from .laws import read_laws

MOST_NOISE = 0.1  # As `Prior` allows.


def prior_of(source: str) -> Prior:
    """The surface of a laws.json, of a study directory (its laws.json, else its table), or fitted to a table that `fit`
    reads. Raises UserError, in one line, where there is no surface."""
    path, laws = Path(source), StudyPaths(source).laws
    if path.is_dir():
        path = laws if laws.is_file() else path
    try:
        law = read_laws(path) if _is_laws(path) else fit(path, bootstrap=0)
    except UserError as error:
        raise UserError(f"prior.path: {error}") from None
    if not law.approach3:
        why = next((f.message for f in law.findings if f.severity == "refused"), "its runs show none")
        raise UserError(f"prior.path={source}: there is no surface L(N, D) to plan by: {why}")
    numbers = {name: getattr(law.approach3, name).value for name in ("E", "A", "B", "alpha", "beta")}
    noise = {"noise": min(law.answer.scatter, MOST_NOISE)} if law.answer else {}
    prior = Prior(**numbers, **noise, source=f"{source}: surface of {law.metric}, {describe(law.n_runs, law.budgets)}")
    check(prior, f"prior.path={source}: prior")
    return prior


def _is_laws(path: Path) -> bool:
    """Whether a file is a laws.json rather than a table in JSON."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "approach3" in content
