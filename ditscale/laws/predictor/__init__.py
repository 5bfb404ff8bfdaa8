"""The one predictor: N*, D*, L* and any metric beyond the grid, from the runs of one table, with intervals that hold
where runs share errors. `fit`, `forecast`, `compare` and the report all ask it."""
