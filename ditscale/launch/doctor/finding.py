"""What `ditscale doctor` says about one thing."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, BAD = "ok", "note", "bad"


@dataclass(frozen=True)
class Finding:
    """`level`: ok, note (works, but know it) or bad; `what` was found, `remedy` is what to do."""

    level: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.what}{f'; {self.remedy}' if self.remedy else ''}"


def ok(what: str) -> Finding:
    return Finding(OK, what)


def note(what: str, remedy: str) -> Finding:
    return Finding(NOTE, what, remedy)


def bad(what: str, remedy: str) -> Finding:
    return Finding(BAD, what, remedy)
