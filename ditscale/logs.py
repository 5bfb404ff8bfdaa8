"""What ditscale says while it works goes to the logger "ditscale". The command line and jobs show it; a notebook need
not.

from .logs import log
log.info("requeueing job 7_3")
"""

import logging
import sys

log = logging.getLogger("ditscale")


class _ToStdout(logging.Handler):
    """Bare messages, a line each, to whatever sys.stdout is at the moment, errors to sys.stderr. Flushed: job logs are
    read while written."""

    def emit(self, record: logging.LogRecord):
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        print(self.format(record), file=stream, flush=True)


def show(level: int = logging.INFO):
    """From now on, show this process's messages of this level and above on stdout. A second call changes the level."""
    if not any(isinstance(handler, _ToStdout) for handler in log.handlers):
        log.addHandler(_ToStdout())
    log.setLevel(level)
