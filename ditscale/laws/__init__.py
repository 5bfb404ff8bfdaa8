"""Scaling laws from any table of runs: table in, frozen result out.

    from ditscale.laws import read_table, fit
    laws = fit(read_table("runs.csv"), targets=["1.5e21"])
    print(laws.summary())

Needs numpy and scipy (h5py to read HDF5), no torch; importing it costs little more than importing numpy.

predictor/ is the answer to what lies beyond the grid; minima/ is Approach 2, surface/ Approach 3; checks/ says what
stands against a fit; sealed/ forecasts, gives verdicts and keeps their record; frontier.py reads other metrics at the
optimum; learning_rate.py fits a sweep."""

from ..tables.read import read_table
from ..tables.table import Table
from .checks.backtest import Backtest
from .compare import Comparison, Criterion, Pair, compare
from .estimates import Estimate
from .findings import CODES, Finding
from .fit import fit
from .frontier import Gap, Trend, fit_gap, fit_trend
from .laws import Laws, read_laws
from .learning_rate import BestRate, RateLaw, Trial, fit_rates, read_rates, read_trials
from .minima.approach2 import Approach2, fit_approach2
from .minima.parabola import Parabola, fit_parabola
from .predictor.predictor import Predictor, predictor
from .questions import Answers, predict
from .sealed.forecast import Forecast, forecast, load_forecast, seal
from .sealed.ledger import Entry, Ledger, Score, ledger, read_ledger
from .sealed.verdict import Verdict, read_verdict, verdict
from .surface.fit_surface import Approach3, Surface, fit_approach3, fit_surface

__all__ = [
    "Answers", "Approach2", "Approach3", "Backtest", "BestRate", "CODES", "Comparison", "Criterion", "Entry",
    "Estimate", "Finding", "Forecast", "Gap", "Laws", "Ledger", "Pair", "Parabola", "Predictor", "RateLaw", "Score",
    "Surface", "Table", "Trend", "Trial", "Verdict", "compare", "fit", "fit_approach2", "fit_approach3", "fit_gap",
    "fit_parabola", "fit_rates", "fit_surface", "fit_trend", "forecast", "ledger", "load_forecast", "predict",
    "predictor", "read_laws", "read_ledger", "read_rates", "read_table", "read_trials", "read_verdict", "seal",
    "verdict",
]  # fmt: skip
