"""Requests to stop: SIGTERM, SIGUSR2 and SIGINT only raise a flag; the loop looks at it between steps."""

from __future__ import annotations

import signal


class StopFlag:
    """True once a signal has asked for a stop. Made in the main thread.

    A signal that was being ignored stays ignored: a shell starts background jobs so that its Ctrl-C does not reach
    them.
    """

    def __init__(self, signals=(signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)):
        self.raised = False
        heard = [s for s in signals if signal.getsignal(s) is not signal.SIG_IGN]
        self._before = {s: signal.signal(s, self._raise) for s in heard}
        # a launcher may have blocked them: until we listen, and for what it asks Slurm afterwards
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _raise(self, *_):
        self.raised = True

    def restore(self):
        """Put back what was blocked, then the handlers found. Slurm signals every process of a step, more than once:
        where the job blocks these, the squeue that it starts to requeue itself inherits that and is not killed
        half-way."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for s, handler in self._before.items():
            signal.signal(s, handler)
