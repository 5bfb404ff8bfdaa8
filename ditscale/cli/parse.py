"""Words of a command line to a verb and its options. Every mistake is one line in our words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, command, nearest
from .verb import VERBS, Argument, Options, Verb


def find(name: str) -> Verb:
    """The verb of a name. Raises UserError with the nearest name."""
    if name in VERBS:
        return VERBS[name]
    if name.startswith("-"):
        raise UserError(f"unknown option {name}; write the verb first, as in `ditscale status mystudy {name}`")
    raise UserError(f"unknown verb {name}{nearest(name, VERBS, str)}; `ditscale help` lists the verbs")


def parse(verb: Verb, words: Sequence[str]) -> Options:
    """The options of a verb. Where help is asked for, nothing else is looked at. Raises UserError on a mistake."""
    values: dict[str, Any] = {a.name: a.default if a.metavar else False for a in verb.arguments}
    values |= {a.name: [] for a in verb.arguments if a.count in ("+", "*")}
    known = {name: a for a in verb.options for name in a.names}
    positionals: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            positionals += rest
        elif not word.startswith("-"):
            positionals.append(word)
        elif name not in known:
            raise UserError(f"{verb.name}: unknown option {name}{nearest(name, known, str)}; {_see(verb)}")
        elif not known[name].metavar:
            if equals:
                raise UserError(f"{verb.name}: {name} is a flag and takes no value; write {name} alone")
            values[known[name].name] = True
        else:
            text = value if equals else next(rest, None)
            if text is None or not equals and (text in known or text.startswith("--")):
                raise UserError(f"{verb.name}: {name} needs a value, as in {name} {known[name].metavar}; {_see(verb)}")
            _set(values, known[name], [text])
    if not values["help"]:
        _place(verb, positionals, values)
    return Options(**values)


def _place(verb: Verb, words: list[str], values: dict) -> None:
    """Give words to the positional arguments, in their order."""
    for a in verb.positionals:
        taken, words = (words, []) if a.count in ("+", "*") else (words[:1], words[1:])
        if not taken and a.count in ("", "+"):
            example = next(line for line in verb.examples if line.startswith("ditscale"))
            raise UserError(f"{verb.name}: {a.metavar} is missing, as in `{example}`; {_see(verb)}")
        if taken:
            _set(values, a, taken)
    if words:
        takes = " ".join(a.metavar for a in verb.positionals) or "no arguments"
        raise UserError(f"{verb.name}: unexpected argument {words[0]!r}; it takes {takes}; {_see(verb)}")


def _set(values: dict, a: Argument, words: list[str]) -> None:
    for word in words:
        if a.choices and word not in a.choices:
            hint = nearest(word, a.choices, str)
            raise UserError(f"{a.usage}: {word!r} is not known{hint}; choose one of: {', '.join(a.choices)}")
    values[a.name] = values[a.name] + words if a.count in ("+", "*") else words[0]


def _see(verb: Verb) -> str:
    return f"see {command('help', verb.name)}"


def path(text: str | None) -> Path | None:
    """The path that an option names, if any."""
    return Path(text) if text else None
