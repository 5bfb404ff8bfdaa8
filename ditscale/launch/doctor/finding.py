"""What `ditscale doctor` says about one thing."""

from dataclasses import dataclass
from functools import partial

OK, NOTE, BAD = "ok", "note", "bad"


@dataclass(frozen=True)
class Finding:
    """`level`: ok, note (works, but know it) or bad; `what` was found, `remedy` is what to do."""

    level: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.what}{f'; {self.remedy}' if self.remedy else ''}"


ok, note, bad = (partial(Finding, level) for level in (OK, NOTE, BAD))
