"""Completion scripts, sourced by real shells; a shell that is not installed is skipped, visibly."""

import shutil
import subprocess

import pytest

from ditscale.cli.verb import VERBS
from ditscale.cli.verbs.tools import completion_script as script

COMPLETE = {
    "bash": """
source {script}
COMP_WORDS=({words}) COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
COMP_LINE="${{COMP_WORDS[*]}}" COMP_POINT=${{#COMP_LINE}}
function=$(complete -p ditscale | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function ditscale "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "fish": "source {script}\ncomplete -C '{line}' | string split -f1 \\t",
}


def complete(shell, tmp_path, *words):
    """What a shell offers for the last of the words."""
    (tmp_path / "completion").write_text(script(shell))
    quoted = " ".join(f"'{word}'" for word in words)
    text = COMPLETE[shell].format(script=tmp_path / "completion", words=quoted, line=" ".join(words))
    flags = ["--norc", "--noprofile"] if shell == "bash" else ["--no-config"]
    done = subprocess.run([shell, *flags, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout.split()


@pytest.mark.parametrize("shell", COMPLETE)
def test_verbs_options_and_choices(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert set(complete(shell, tmp_path, "ditscale", "")) >= set(VERBS)
    assert complete(shell, tmp_path, "ditscale", "lau") == ["launch"]
    assert set(complete(shell, tmp_path, "ditscale", "fit", "--")) >= {"--target", "--json", "--quiet", "--bootstrap"}
    assert "--budget" not in complete(shell, tmp_path, "ditscale", "fit", "--")
    assert set(complete(shell, tmp_path, "ditscale", "fit", "--objective", "")) == {"huber", "ls", "ls_log"}
    assert set(complete(shell, tmp_path, "ditscale", "completion", "")) >= {"bash", "zsh", "fish"}
    assert set(complete(shell, tmp_path, "ditscale", "help", "fo")) == {"forecast"}
    (tmp_path / "a-study").mkdir()
    (tmp_path / "a-table.csv").write_text("")
    assert [word.rstrip("/") for word in complete(shell, tmp_path, "ditscale", "status", "a-")] == ["a-study"]


def test_the_script_of_zsh_is_read_by_zsh(tmp_path):
    (tmp_path / "_ditscale").write_text(script("zsh"))
    text = (tmp_path / "_ditscale").read_text()
    assert text.startswith("#compdef ditscale") and all(f"    {verb}:'" in text for verb in VERBS)
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed; its script was not read by it")
    done = subprocess.run(["zsh", "-n", tmp_path / "_ditscale"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_printed(shell, ditscale):
    done = ditscale("completion", shell)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.rstrip() == script(shell).rstrip()
