"""Verbs that come with the tool: batch scripts, weights of feature extractors, completion and help."""

import argparse
from pathlib import Path
from typing import Any

from ...errors import UserError, one_of
from ..parse import path
from ..verb import VERBS, Options, Report, option, positional, verb


@verb(
    "Print or write a batch script for sbatch. `array` trains a study's runs, `study` does a whole study, `aggregate` "
    "collects, fits and reports, `bench` measures a node's speed.",
    positional("script", "SCRIPT", "which script", choices=("array", "study", "aggregate", "bench")),
    option("--out", "FILE", "file or directory to write to (default: print the script)", complete="file"),
    examples=["ditscale sbatch array --out .", "ditscale sbatch study"],
)
def sbatch(options: Options) -> Report:
    from ...files import write_text
    from ...launch.backends.preamble import SCRIPTS, script

    text = script(options.script)
    if not options.out:
        return Report(text.rstrip("\n"), {"script": text})
    out = Path(options.out)
    out = out / SCRIPTS[options.script] if out.is_dir() else out
    if out.is_file() and out.read_text() != text:
        raise UserError(f"{out}: holds another script already; move it away, or give --out another name")
    write_text(out, text)
    return Report(f"written: {out}", {"file": str(out)})


@verb(
    "Download the weights of a feature extractor for FID. Needs internet access; runs never download.",
    positional("extractor", "NAME", "clip-vit-l-14, inception-v3-compat or vgg16"),
    option("--to", "FILE", "file to write (default: in DITSCALE_CACHE, or ~/.cache/ditscale)", complete="file"),
    option("--url", "URL", "mirror to download from; the hash is checked all the same", default=""),
    examples=["ditscale fetch-weights clip-vit-l-14"],
)
def fetch_weights(options: Options) -> Report:
    from ...evaluate.weights import WEIGHTS
    from ...evaluate.weights import fetch_weights as fetch

    one_of(options.extractor, tuple(WEIGHTS), "fetch-weights")
    file = fetch(options.extractor, path(options.to), options.url)
    return Report(str(file), {"file": str(file)})


@verb(
    "Print a completion script for a shell.",
    positional("shell", "SHELL", "name of the shell", choices=("bash", "zsh", "fish")),
    examples=["ditscale completion bash > ditscale-completion.bash", "source <(ditscale completion bash)"],
    reports=False,
)
def completion(options: Options) -> Report:
    text = completion_script(options.shell)
    return Report(text, text)


def completion_script(shell: str) -> str:
    """The script that a shell of this name (bash, zsh, fish) sources."""
    import shtab

    from ..help import INTRODUCTION, TOPICS

    # The verbs as shtab reads them. Command lines are parsed by parse.py, whose messages are ours.
    parser = argparse.ArgumentParser("ditscale", description=INTRODUCTION)
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(metavar="VERB")
    complete = {"file": shtab.FILE, "directory": shtab.DIRECTORY}
    for each in VERBS.values():
        sub = verbs.add_parser(each.name, help=_plain(each.headline), add_help=False)
        for a in each.arguments:
            words: dict[str, Any] = {"action": "store_true"}
            if a.metavar:
                words = {"metavar": a.metavar, "choices": a.choices or None}
                words |= {} if not a.count else {"action": "append"} if a.is_option else {"nargs": a.count}
            action = sub.add_argument(*a.names, help=_plain(a.help), **words)
            if a.complete:
                action.complete = complete[a.complete]  # type: ignore[attr-defined]  # shtab reads this attribute
            if (each.name, a.name) == ("help", "verb"):
                action.choices = [*VERBS, *TOPICS]
    return shtab.complete(parser, shell=shell)


def _plain(text: str) -> str:
    """Help without the signs that shells or argparse would interpret."""
    return text.replace("%", "%%").replace("`", "'")


@verb(
    "Explain a verb or a topic; without one, list them.",
    positional("verb", "VERB", "a verb, or a topic: settings, exit-codes", count="?"),
    examples=["ditscale help fit", "ditscale help settings"], reports=False,
)  # fmt: skip
def help(options: Options) -> Report:
    from .. import help

    text = help.topic(options.verb) if options.verb else help.overview()
    return Report(text, text)
