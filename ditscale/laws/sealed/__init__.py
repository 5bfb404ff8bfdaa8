"""Forecasts that are sealed before the probe runs, and their verdict."""
