"""A verb of the command line, declared in one place: parsing, help, completion and docs/cli.md read VERBS.

@verb("Show one row per run.", positional("dir", "DIR", "study directory"), examples=["ditscale status mystudy"])
def status(options: Options) -> Report: ..."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

Options = SimpleNamespace  # The values of a verb's arguments, by name.


@dataclass(frozen=True)
class Report:
    text: str
    value: Any  # what --json prints in place of the text
    status: int = 0  # the exit code


@dataclass(frozen=True)
class Argument:
    """An option ("--seed") or a positional argument ("dir")."""

    names: tuple[str, ...]
    metavar: str  # how help shows the value; "" for a flag
    help: str
    default: str | None = None
    count: str = ""  # "" for exactly one value, "?" for at most one, "+" or "*" for several, as a list
    choices: tuple[str, ...] = ()
    complete: str = ""  # what a shell completes the value with, "file" or "directory"

    @property
    def is_option(self) -> bool:
        return self.names[0].startswith("-")

    @property
    def name(self) -> str:
        """The attribute of Options."""
        return next((n for n in self.names if n.startswith("--")), self.names[0]).lstrip("-").replace("-", "_")

    @property
    def usage(self) -> str:
        """'-o, --out FILE' of an option, 'DIR' of a positional argument."""
        return " ".join(filter(None, [", ".join(self.names), self.metavar])) if self.is_option else self.metavar

    @property
    def description(self) -> str:
        """'random seed (default: 0)'."""
        choices = f"; one of: {', '.join(self.choices)}" if self.choices else ""
        return self.help + choices + (f" (default: {self.default})" if self.default else "")


def positional(name: str, metavar: str, help: str, count: str = "", **more: Any) -> Argument:
    return Argument((name,), metavar, help, count=count, **more)


def option(names: str, metavar: str, help: str, default: str | None = None, **more: Any) -> Argument:
    """An option with a value; names as in "--n --images"."""
    return Argument(tuple(names.split()), metavar, help, default, **more)


def flag(names: str, help: str) -> Argument:
    return Argument(tuple(names.split()), "", help)


JSON = flag("--json", "print one JSON value and nothing else; messages go to stderr")
COMMON = (
    flag("-q --quiet", "print only warnings and the result"),
    flag("-v --verbose", "print debug messages, and the traceback of an internal error"),
    flag("-h --help", "print this help"),
)
DIR = positional("dir", "DIR", "study directory", complete="directory")
RUN_DIR = positional("run_dir", "RUN_DIR", "directory of a run, as in DIR/runs/RUN_ID", complete="directory")
SETTINGS = (
    positional("settings", "KEY=VALUE", "Hydra overrides, as in study=mini (`ditscale help settings`)", count="*"),
    option("--configs", "DIR", "directory with your own configuration groups", complete="directory"),
)


# Returns a Report, or yields several; None where there is nothing to print.
Function = Callable[[Options], Report | Iterator[Report] | None]


@dataclass(frozen=True)
class Verb:
    name: str
    summary: str
    arguments: tuple[Argument, ...]
    examples: tuple[str, ...]
    run: Function

    @property
    def positionals(self) -> list[Argument]:
        return [a for a in self.arguments if not a.is_option]

    @property
    def options(self) -> list[Argument]:
        return [a for a in self.arguments if a.is_option]

    @property
    def headline(self) -> str:
        """The first sentence of the summary."""
        return self.summary.split(". ")[0].rstrip(".")


VERBS: dict[str, Verb] = {}


def verb(summary: str, *arguments: Argument, examples: Sequence[str], reports: bool = True):
    """Declare the decorated function as a verb of its name. reports: whether --json makes sense."""

    def declare(function: Function) -> Function:
        name = function.__name__.replace("_", "-")
        everything = (*arguments, *([JSON] if reports else []), *COMMON)
        VERBS[name] = Verb(name, summary, everything, tuple(examples), function)
        return function

    return declare
