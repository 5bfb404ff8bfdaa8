"""The command `ditscale`. Each verb imports what it needs, so the light ones answer at once and never load torch."""

from __future__ import annotations

import sys

from .. import logs
from ..errors import UserError
from . import laws, measured, runs, whole
from .arguments import Parser, Verb

EPILOG = """Settings are Hydra overrides: a group's choice (study=mini, design=crossattention) or any key of study.yaml
(recipe.batch_size=32). `ditscale study DIR study=mini` does everything, and the same command again goes on where it
stopped."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. A user's mistake is one line on stderr, without a traceback."""
    options = _parser().parse_args(argv)
    logs.show()
    try:
        return options.verb(options) or 0
    except UserError as error:
        print(f"ditscale: error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("ditscale: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


def _parser() -> Parser:
    parser = Parser(prog="ditscale", description="Scaling laws for Diffusion Transformers.", epilog=EPILOG)
    verbs = parser.add_subparsers(dest="command", metavar="VERB", required=True, parser_class=Verb)

    def verb(name: str, function, text: str):
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=function)
        return sub

    for room in (runs, measured, laws, whole):
        room.add(verb)
    return parser
