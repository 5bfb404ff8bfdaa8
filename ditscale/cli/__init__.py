"""The command `ditscale`. Each verb imports what it needs, so the light ones answer at once and never load torch."""

import contextlib
import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from .. import __version__, logs
from ..errors import UserError
from . import help
from .parse import find, parse
from .verb import Options, Report, Verb
from .verbs import laws, runs, studies, tools  # noqa: F401  # declare their verbs


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code (help.EXIT_CODES). A user's mistake is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    level = logs.log.level
    try:
        return _run(words)
    except UserError as error:
        print(f"ditscale: error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("ditscale: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # Else Python fails to flush the closed pipe when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        again = "run again with -v for the traceback, and please report it"
        if logs.log.level == logging.DEBUG:
            traceback.print_exc()
            again = "please report it"
        what = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"ditscale: internal error: {what}; {again}", file=sys.stderr)
        return 70
    finally:
        logs.log.setLevel(level)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(help.overview(), flush=True)
        return 0
    if words[0] == "--version":
        print(f"ditscale {__version__}", flush=True)
        return 0
    verb = find(words[0])
    options = parse(verb, words[1:])
    if options.help:
        print(help.of_verb(verb), flush=True)
        return 0
    logs.show(logging.DEBUG if options.verbose else logging.WARNING if options.quiet else logging.INFO)
    return _report(verb, options)


def _report(verb: Verb, options: Options) -> int:
    """Run a verb and print what it reports: text, or with --json its value, while all messages go to stderr."""
    out, status, as_json = sys.stdout, 0, getattr(options, "json", False)
    with contextlib.redirect_stdout(sys.stderr if as_json else out):
        reports = verb.run(options)
        for report in [reports] if isinstance(reports, Report) else reports or ():
            text = json.dumps(_plain(report.value), allow_nan=False) if as_json else report.text
            if text:
                print(text, file=out, flush=True)
            status = report.status
    return status


def _plain(value: Any) -> Any:
    """A value as JSON has it: numpy's numbers become Python's, NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
