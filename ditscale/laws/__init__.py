"""Scaling laws from any table of runs: table in, frozen result out.

    from ditscale.laws import read_table, fit
    laws = fit(read_table("runs.csv"), targets=["1.5e21"])
    print(laws.summary())

Needs numpy only (h5py to read HDF5); importing it costs little more than importing numpy.
"""

from .findings import CODES, Finding
from .fit import Laws, fit
from .table import Table, read_table
from .uncertainty import Estimate

__all__ = ["CODES", "Estimate", "Finding", "Laws", "Table", "fit", "read_table"]
