"""Forecasts that are sealed before the probe runs, their verdict, and the record of several."""
