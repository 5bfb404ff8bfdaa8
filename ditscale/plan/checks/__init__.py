"""Checks of a plan before anything is written, each with its number and with what to type against it. Whether the
design determines a law is asked in pipeline.py, of the laws."""

from collections.abc import Iterable
from dataclasses import replace

from ...config import Study
from ..grid import Plan
from .check import BY_SEVERITY, CODES, Check, found, listed, refuse
from .cluster import check_cluster
from .data import check_data
from .design import check_design
from .lengths import check_lengths

__all__ = ["CODES", "Check", "check", "found", "listed", "ordered", "refuse"]


def check(study: Study, plan: Plan, launching: bool = False) -> tuple[Check, ...]:
    """All findings about a plan. launching: whether its runs are about to start, which they cannot here, if the cluster
    is local, without the data files."""
    checkers = (check_data, check_lengths, check_design, check_cluster)
    checks = [each for checker in checkers for each in checker(study, plan)]
    if launching and study.cluster.name == "local":
        there = "put the files there, or plan another study with other paths"
        lost = lambda each: replace(each, severity="error", cure=there) if each.code == "data_missing" else each
        checks = [lost(each) for each in checks]
    return ordered(checks)


def ordered(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Errors first, then warnings."""
    return tuple(sorted(checks, key=lambda each: list(BY_SEVERITY).index(each.severity)))
