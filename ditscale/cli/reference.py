"""Print docs/cli.md: `python -m ditscale.cli.reference > docs/cli.md`."""

import os
from textwrap import indent

from . import help

INTRODUCTION = """# The command line

The text of `ditscale help`, of every verb and of every topic: `python -m ditscale.cli.reference > docs/cli.md`.

* Options may stand before, between and after other arguments. Their names are never abbreviated.
* Every verb that reports has `--json`. Standard output is then one JSON value and nothing else; messages go to standard
  error. `status --watch --json` prints one value in each line.
* `-q` leaves out messages; `-v` adds debug messages and the traceback of an internal error.
* Commands that ditscale prints are quoted, so that they paste.
* Completion: `source <(ditscale completion bash)` in `~/.bashrc`; `ditscale completion zsh > ~/.zfunc/_ditscale` with
  `~/.zfunc` in `fpath`; `ditscale completion fish > ~/.config/fish/completions/ditscale.fish`.
"""


def markdown() -> str:
    os.environ["COLUMNS"] = "110"  # The width that help goes by.
    texts = {verb.name: help.of_verb(verb) for _, verbs in help.grouped() for verb in verbs}
    texts |= {name: help.topic(name) for name in help.TOPICS}
    sections = [f"## {name}\n\n{indent(text, '    ')}\n" for name, text in texts.items()]
    return "\n".join([INTRODUCTION, indent(help.overview(), "    ") + "\n", *sections])


if __name__ == "__main__":
    print(markdown(), end="")
