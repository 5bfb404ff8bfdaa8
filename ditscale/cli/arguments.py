"""Parsers of command lines, and the arguments that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """A mistake is one line."""

    def error(self, message):
        self.exit(2, f"ditscale: error: {message}; see: {self.prog} --help\n")


class Verb(Parser):
    """Options may stand before, between and after settings."""

    inside = False

    def parse_known_args(self, args=None, namespace=None):
        if self.inside:
            return super().parse_known_args(args, namespace)
        self.inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.inside = False


def fitting(sub, objectives):
    """How a surface is fitted."""
    sub.add_argument("--objective", default="huber", choices=objectives, help="of the surface fit (huber)")
    sub.add_argument("--bootstrap", default="1000", metavar="N", help="resamples for the intervals (1000)")
    sub.add_argument("--seed", default="0", help="of the resampling (0)")


def reading(sub, metric=True, of=""):
    """How tables are read. of: how an argument says which table it is about."""
    if metric:
        sub.add_argument(
            "--metric",
            default="loss",
            metavar="COLUMN",
            help="the column to fit (loss), or a metric of `evaluate`: vlb, likelihood, fid",
        )
    sub.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="OURS=THEIRS,...",
        help="where a table names its columns otherwise, as in n_params=size",
    )
    sub.add_argument(
        "--only",
        action="append",
        default=[],
        metavar=f"{of}COLUMN=VALUE",
        help="read the rows with this value alone; may be repeated",
    )
    sub.add_argument(
        "--kappa",
        metavar="NUMBER",
        help="C = kappa N D: computes the one of N, D and C that a table lacks; fit also holds the surface to it",
    )
    sub.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar=f"{of}RUN=REASON",
        help="leave a run out, listed with the reason; may be repeated",
    )
    sub.add_argument("--json", action="store_true", help="print the whole result as one JSON object")


def settings(sub):
    """What Hydra composes."""
    sub.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, as in study=mini")
    sub.add_argument("--configs", type=Path, metavar="DIR", help="a directory of your own configuration groups")
