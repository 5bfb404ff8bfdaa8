"""Scaling laws for text-to-image Diffusion Transformers, from isoFLOP studies that you run yourself.

    import ditscale as ds

    table = ds.read_table("runs.csv")                     # columns n_params, n_tokens, budget_flops, loss
    laws = ds.fit(table, targets=["1.5e21"])              # Approaches 2 and 3, with intervals and findings
    sealed = ds.seal("forecast.json", ds.forecast(table, "1.5e21"))
    study = ds.Study.open("mystudy")                     # what `ditscale plan mystudy study=mini` wrote

Functions: read_table, fit, predict, decide, forecast, seal, verdict, compare and fit_rates on tables, ledger on their
forecasts; plan, train and evaluate on studies and runs. They raise UserError, of one line, at what they cannot take,
and print nothing. The import is light: numpy and torch are loaded by the first function that needs them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decision.decide import decide
    from .errors import UserError
    from .laws import fit_rates, forecast, ledger, predict, read_table, seal, verdict
    from .laws.compare import compare
    from .laws.fit import fit
    from .study import Study, evaluate, plan, train

__version__ = "0.1.0"
__all__ = [
    "Study", "UserError", "__version__", "compare", "decide", "evaluate", "fit", "fit_rates", "forecast", "ledger",
    "plan", "predict", "read_table", "seal", "train", "verdict",
]  # fmt: skip
_HOMES = {
    "UserError": "errors",
    "decide": "decision.decide",
    "Study": "study",
    "evaluate": "study",
    "plan": "study",
    "train": "study",
}

# Three functions are named like folders of the package. These (empty) folders are loaded now: when Python first loads
# one, it puts the folder in the place of the function.
for _folder in ("evaluate", "plan", "train"):
    import_module(f"{__name__}.{_folder}")
    del globals()[_folder]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ditscale' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'laws')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
