"""What ditscale says while it works goes to the logger "ditscale". The command line and jobs show it."""

import logging
import sys

log = logging.getLogger("ditscale")


class _ToStdout(logging.Handler):
    """Bare messages to what sys.stdout is at the moment, errors to sys.stderr, flushed for readers of job logs."""

    def emit(self, record: logging.LogRecord):
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        print(self.format(record), file=stream, flush=True)


def show(level: int = logging.INFO):
    """From now on, show this process's messages of this level and above on stdout. A second call changes the level."""
    if not any(isinstance(handler, _ToStdout) for handler in log.handlers):
        log.addHandler(_ToStdout())
    log.setLevel(level)
