"""Intervals: the bootstrap and the delta method."""
