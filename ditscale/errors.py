"""The one exception a user may see, and commands inside messages."""

import shlex
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake the user can fix. Its text is one line: what is wrong, where, what to type instead. The command line
    prints it and exits with `status`, without a traceback."""

    status = 2

    def __init__(self, message: str, status: int | None = None):
        super().__init__(" ".join(str(message).split()))
        if status is not None:
            self.status = status


def one_of(value: T, valid: Collection[T], what: str) -> T:
    """Return `value` when it is in `valid`, else raise a UserError that lists the valid choices."""
    if value not in valid:
        raise UserError(f"{what}: {value!r} is not known; choose one of: {', '.join(map(str, valid))}")
    return value


def nearest(word: object, valid: Iterable[object], form: Callable[[str], str] = repr) -> str:
    """ " (did you mean 'X'?)" when a valid word is close to `word`, else the empty string. `form` writes X."""
    import difflib

    close = difflib.get_close_matches(str(word), [str(v) for v in valid], n=1, cutoff=0.65)
    return f" (did you mean {form(close[0])}?)" if close else ""


def command(verb: str, *words: object) -> str:
    """A command to type, as in "`ditscale launch DIR`" with its backquotes; quoted so that it pastes."""
    return f"`{shlex.join(['ditscale', verb, *map(str, words)])}`"


class Interrupted(UserError):
    """Ctrl-C or SIGTERM while runs were training; nothing is lost."""

    status = 130
