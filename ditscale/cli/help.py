"""What `ditscale help` prints."""

import shutil
import textwrap
from collections.abc import Iterable

from ..errors import UserError, nearest
from .verb import VERBS, Verb

EXIT_CODES = {
    0: "success",
    1: "runs failed, a check found a serious problem, a rehearsal failed, or verdict --early raised an alarm",
    2: "mistake in the command, in settings or in files; one line says what to change",
    3: "no law can be given, for the reasons printed",
    70: "internal error; run again with -v for the traceback, and report it",
    130: "interrupted (Ctrl-C or a signal to stop); the same command resumes",
    141: "the reader of the output closed the pipe",
}
# Titles by module of verbs/.
GROUPS = {"studies": "Studies", "runs": "Runs", "laws": "Scaling laws of a study or a table", "tools": "Tools"}
INTRODUCTION = "Scaling laws for Diffusion Transformers: plan, train, fit, forecast, verify."
FIRST_STEPS = (
    ("ditscale study mystudy study=mini", "everything, in miniature, on this machine"),
    ("ditscale fit runs.csv --target 1.5e21", "the laws of a table of your own"),
)


def grouped() -> Iterable[tuple[str, list[Verb]]]:
    """(title, verbs) of each group."""
    for module, title in GROUPS.items():
        yield title, [v for v in VERBS.values() if v.run.__module__.rpartition(".")[2] == module]


def overview() -> str:
    """Every verb in a line."""
    lines = ["usage: ditscale VERB ...", "", INTRODUCTION]
    for title, verbs in grouped():
        lines += ["", f"{title}:", *_columns((v.name, v.headline) for v in verbs)]
    lines += ["", "Topics:", *_columns((name, about) for name, (about, _) in TOPICS.items())]
    lines += ["", "First steps:", *(f"    {words:<39}# {what}" for words, what in FIRST_STEPS)]
    return "\n".join([*lines, "", "`ditscale help VERB` explains a verb; `ditscale --version` prints the version."])


def of_verb(verb: Verb) -> str:
    """Usage, arguments, options and examples of a verb."""
    forms = {"": "{}", "?": "[{}]", "+": "{} ...", "*": "[{} ...]"}
    words = [forms[a.count].format(a.metavar) for a in verb.positionals]
    lines = [" ".join(["usage: ditscale", verb.name, *words, "[options]"]), "", *_wrapped(verb.summary)]
    for title, arguments in (("Arguments", verb.positionals), ("Options", verb.options)):
        if arguments:
            lines += ["", f"{title}:", *_columns((a.usage, a.description) for a in arguments)]
    lines += ["", f"Example{'s' if len(verb.examples) > 1 else ''}:", *(f"    {line}" for line in verb.examples)]
    return "\n".join(lines)


def topic(name: str) -> str:
    """Help on a verb or a topic. Raises UserError with the nearest name."""
    if name in VERBS:
        return of_verb(VERBS[name])
    if name not in TOPICS:
        hint = nearest(name, [*VERBS, *TOPICS], str)
        raise UserError(f"help: there is no verb or topic {name!r}{hint}; `ditscale help` lists them")
    about, text = TOPICS[name]
    return f"{about[0].upper()}{about[1:]}:\n\n" + text()


def exit_codes() -> str:
    return "\n".join(_columns((str(code), meaning) for code, meaning in EXIT_CODES.items()))


def settings() -> str:
    """The groups of configs/ and their choices."""
    from ..config.compose import GROUPS as GROUPS_OF_CONFIGS
    from ..config.compose import configs_dir

    groups = ("study", *GROUPS_OF_CONFIGS)
    choices = {group: sorted(path.stem for path in (configs_dir() / group).glob("*.yaml")) for group in groups}
    rows = [(f"{group}=", ", ".join(names)) for group, names in choices.items() if names]
    about = _wrapped("A setting chooses a file of a group, or sets a key of study.yaml. Lists stand in brackets.")
    example = "    ditscale plan --dry-run study=paper design=crossattention recipe.batch_size=32 'seeds=[0,1]'"
    return "\n".join([*about, "", *_columns(rows), "", example])


TOPICS = {"settings": ("what KEY=VALUE may set", settings), "exit-codes": ("what the exit codes mean", exit_codes)}


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 110) - 2


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _width(), break_on_hyphens=False, break_long_words=False)


def _columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Rows of two columns; the right one is wrapped."""
    rows = list(rows)
    left = min(28, max(len(name) for name, _ in rows)) + 2
    lines = []
    for name, text in rows:
        parts = textwrap.wrap(text, max(30, _width() - left - 4), break_on_hyphens=False) or [""]
        if len(name) > left - 2:
            lines.append(f"    {name}")
            name = ""
        lines += [f"    {word:<{left}}{part}".rstrip() for word, part in zip([name] + [""] * len(parts), parts)]
    return lines
