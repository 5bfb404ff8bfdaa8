"""Scaling laws from any table of runs: table in, frozen result out.

    from ditscale.laws import read_table, fit
    laws = fit(read_table("runs.csv"), targets=["1.5e21"])
    print(laws.summary())

Needs numpy only (h5py to read HDF5); importing it costs little more than importing numpy.
"""

from .approach2 import Approach2, fit_approach2
from .approach3 import Approach3, fit_approach3
from .backtest import Backtest
from .checklist import checklist
from .compare import Comparison, Criterion, Pair, compare
from .findings import CODES, Finding
from .fit import Laws, fit
from .fit_surface import fit_surface
from .forecast import Forecast, forecast
from .metric_law import MetricLaw, metric_law
from .offset import Offset, fit_offset
from .parabola import Parabola, fit_parabola
from .powerlaw import FloorLaw, PowerLaw, floor_law, power_law
from .read import read_table
from .seal import load_forecast, seal
from .surface import ExtraTerm, Surface
from .table import Table
from .uncertainty import Estimate
from .verdict import Verdict, verdict

__all__ = [
    "Approach2", "Approach3", "Backtest", "CODES", "Comparison", "Criterion", "Estimate", "ExtraTerm", "Finding",
    "FloorLaw", "Forecast", "Laws", "MetricLaw", "Offset", "Pair", "Parabola", "PowerLaw", "Surface", "Table",
    "Verdict", "checklist", "compare", "fit", "fit_approach2", "fit_approach3", "fit_offset", "fit_parabola",
    "fit_surface", "floor_law", "forecast", "load_forecast", "metric_law", "power_law", "read_table", "seal", "verdict",
]  # fmt: skip
