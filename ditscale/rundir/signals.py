"""Requests to stop: SIGTERM, SIGUSR2 and SIGINT only raise a flag; the loop looks at it between steps."""

import signal


class StopFlag:
    """Whether a signal has asked for a stop. Made in the main thread. Signals that are ignored stay so."""

    def __init__(self, signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)):
        self.raised = False
        heard = [s for s in signals if signal.getsignal(s) is not signal.SIG_IGN]
        self._before = {s: signal.signal(s, self._raise) for s in heard}
        # The job may have blocked them until now (launch/job/execute.py).
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _raise(self, *_):
        self.raised = True

    def restore(self):
        """Block again what was blocked, then put back the handlers. Slurm signals every process of a step, more than
        once: the squeue with which the job requeues itself inherits the mask, so that no signal kills it."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for s, handler in self._before.items():
            signal.signal(s, handler)
