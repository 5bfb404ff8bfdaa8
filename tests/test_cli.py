"""The command line: every verb answers, bad input is one line, light verbs are quick and load no torch."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ditscale import cli
from ditscale.cli.parse import find, parse
from ditscale.cli.verb import VERBS, Report

ROOT = Path(__file__).resolve().parent.parent
FIRST_NAMES = (
    "plan study collect report rehearse launch status cancel doctor bench run evaluate fit predict decide forecast "
    "verdict ledger compare rates sbatch fetch-weights completion help"
).split()
TABLE = "n_params,n_tokens,budget_flops,loss\n" + "".join(
    f"{n},{c / 6 / n},{c},{1 + (n / 1e6) ** -0.3 + (c / 6 / n / 1e8) ** -0.3}\n"
    for c in (1e15, 3e15, 1e16)
    for n in (3e5, 6e5, 1.2e6, 2.4e6, 5e6)
)


@pytest.fixture
def call(capsys):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def run(*words):
        status = cli.main([str(w) for w in words])
        return (status, *capsys.readouterr())

    return run


# --------------------------------------------------------------------------------------------------------------- help


def test_help_names_every_verb(ditscale):
    text = ditscale("--help").stdout
    assert text == ditscale("help").stdout == ditscale().stdout
    assert list(VERBS) and set(FIRST_NAMES) == set(VERBS)
    for verb in FIRST_NAMES:
        assert f"\n    {verb} " in text
    assert len(text.splitlines()) <= 50 and max(map(len, text.splitlines())) <= 90


@pytest.mark.parametrize("name", FIRST_NAMES)
def test_help_of_a_verb(name, call):
    status, text, err = call("help", name)
    assert status == 0 and err == "" and (status, text, err) == call(name, "--help") == call(name, "x", "-h")
    verb = VERBS[name]
    assert text.startswith(f"usage: ditscale {name}") and verb.examples
    for a in verb.arguments:
        assert a.usage in text and not a.help.startswith(("of ", "the ")), a  # nouns first
        assert not a.default or f"(default: {a.default})" in " ".join(text.split()), a
        assert not re.search(r"(?<!default: )\([\w.]+\)$", a.help), a
    for line in verb.examples:
        assert f"    {line}\n" in text + "\n"


def test_topics_and_version(call):
    assert call("--version") == (0, "ditscale 0.1.0\n", "")
    status, text, _ = call("help", "exit-codes")
    assert status == 0 and all(re.search(rf"^ +{code} ", text, re.M) for code in (0, 1, 2, 3, 70, 130, 141))
    status, text, _ = call("help", "settings")
    assert status == 0 and "study=       abra, mini, paper" in text and "design=      crossattention, incontext" in text


def test_the_reference_is_current(ditscale):
    done = subprocess.run(
        [sys.executable, "-m", "ditscale.cli.reference"], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == (ROOT / "docs" / "cli.md").read_text(), "docs/cli.md is old"


EXAMPLES = [(name, line) for name in FIRST_NAMES for line in VERBS[name].examples]


@pytest.mark.parametrize("name, line", EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_examples_parse(name, line):
    words = shlex.split(line.removeprefix("source <(").removesuffix(")"))
    if words[0] == "python":
        return
    assert words[0] == "ditscale" and words[1] == name
    options = parse(find(name), words[2 : words.index(">") if ">" in words else None])
    assert not options.help


@pytest.mark.slow
def test_cheap_examples_work_as_pasted(tmp_path):
    """In the order of the help, by a shell, in an empty directory."""
    heavy = (
        "launch",
        "study",
        "bench",
        "run",
        "evaluate",
        "rehearse",
        "fetch-weights",
        "forecast my",
        "verdict",
        "cancel",
    )
    late = (
        "fit my",
        "plan mystudy --refine",
        "decide mystudy",
        "ledger ledger.jsonl mystudy",
        "compare a=",
        "rates",
        "report",
        "doctor",
        "collect",
    )  # they need trained runs, or a cluster
    for name, words in (("ditscale", "-m ditscale"), ("python", "")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (tmp_path / name).chmod(0o755)
    lines = [line for _, line in EXAMPLES if not line.startswith(tuple(f"ditscale {x}" for x in heavy + late))]
    assert len(lines) >= 12
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for line in [x for x in lines if x.startswith("python")] + [x for x in lines if not x.startswith("python")]:
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and "Traceback" not in done.stderr, (line, done)
    assert (tmp_path / "forecast.json").exists() and (tmp_path / "train_array.sbatch").exists()
    run = cli.verbs.runs.RUN
    assert (tmp_path / run / "run.yaml").is_file(), "the RUN_DIR of the examples is a run of study=mini"


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize("line, says", [
    ("lanch s", "unknown verb lanch (did you mean launch?)"),
    ("--json status", "unknown option --json; write the verb first"),
    ("forecast t.csv --buget 1e20", "unknown option --buget (did you mean --budget?)"),
    ("forecast t.csv --bud 1e20", "unknown option --bud"),  # no abbreviations
    ("evaluate r --s 3", "unknown option --s"),
    ("status", "status: DIR is missing, as in `ditscale status mystudy`"),
    ("compare", "[NAME=]DIR|TABLE is missing"),
    ("fit", "fit: DIR|TABLE is missing, as in `ditscale fit runs.csv --target 1.5e21`"),
    ("plan s stdy=mini", "stdy: there is no such setting (did you mean 'study'?)"),
    ("fit t.csv --objective hubber", "'hubber' is not known (did you mean huber?); choose one of: huber, ls, ls_log"),
    ("completion tcsh", "SHELL: 'tcsh' is not known; choose one of: bash, zsh, fish"),
    ("sbatch arry", "'arry' is not known (did you mean array?)"),
    ("fit t.csv --seed", "fit: --seed needs a value, as in --seed N"),
    ("fit t.csv --seed --json", "fit: --seed needs a value, as in --seed N"),
    ("status s --watch=yes", "--watch is a flag and takes no value"),
    ("status a b", "status: unexpected argument 'b'"),
    ("fit a.csv b.csv", "fit: unexpected argument 'b.csv'"),
    ("help fitt", "there is no verb or topic 'fitt' (did you mean fit?)"),
    ("plan s study=mini seeds=[0,1", "seeds=[0,1: write KEY=VALUE, and close every bracket"),
    ("plan s study=mini =3", "=3: write KEY=VALUE"),
    ("plan s study=mini word", "word: write KEY=VALUE"),
])  # fmt: skip
def test_mistakes_of_a_command_line(line, says, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(*shlex.split(line))
    assert status == 2 and out == "" and err.startswith("ditscale: error: ") and err.count("\n") == 1
    assert says in err and "argument" not in err.replace("unexpected argument", "") and "hydra.cc" not in err
    assert not list(tmp_path.iterdir())


def test_options_stand_anywhere():
    before, after = (parse(find("fit"), words.split()) for words in ("--seed=3 --json t.csv", "t.csv --json --seed 3"))
    assert before == after and before.seed == "3" and before.json and before.table == "t.csv"
    assert parse(find("fit"), ["t.csv", "--target", "-1", "--target=2"]).target == ["-1", "2"]
    assert parse(find("status"), ["--", "-s"]).dir == "-s"
    assert parse(find("plan"), ["s", "a=1", "--dry-run", "~b"]).settings == ["a=1", "~b"]


# ------------------------------------------------------------------------------------------- output and exit codes


@pytest.fixture
def with_verb(monkeypatch):
    """Replace the function of `status`."""

    def replace(function):
        monkeypatch.setitem(VERBS, "status", dataclasses.replace(VERBS["status"], run=function))

    return replace


def test_json_is_one_value_and_messages_go_to_stderr(call, with_verb):
    from ditscale.logs import log

    def run(options):
        log.info("a message")
        print("printed by a library")
        return Report("text", {"value": float("nan"), "list": (1, 2)}, 3)

    with_verb(run)
    assert call("status", "s") == (3, "a message\nprinted by a library\ntext\n", "")
    status, out, err = call("status", "s", "--json")
    assert status == 3 and json.loads(out) == {"value": None, "list": [1, 2]}
    assert err == "a message\nprinted by a library\n"


def test_quiet_and_verbose(call, with_verb):
    from ditscale.logs import log

    def run(options):
        log.debug("detail"), log.info("message"), log.warning("warning")
        return Report("result", 1)

    with_verb(run)
    assert call("status", "s")[1] == "message\nwarning\nresult\n"
    assert call("status", "s", "-q")[1] == "warning\nresult\n"
    assert call("status", "s", "-v")[1] == "detail\nmessage\nwarning\nresult\n"


def test_an_internal_error_is_one_line(call, with_verb):
    def run(options):
        raise ZeroDivisionError("of two\nlines")

    with_verb(run)
    status, out, err = call("status", "s")
    assert status == 70 and out == "" and err.count("\n") == 1 and "Traceback" not in err
    assert err.startswith("ditscale: internal error: ZeroDivisionError: of two lines; run again with -v")
    status, out, err = call("status", "s", "-v", "--json")
    assert status == 70 and out == "" and "Traceback" in err and "line" in err


def test_interrupts_and_closed_pipes(call, with_verb, tmp_path):
    def run(options):
        raise KeyboardInterrupt

    with_verb(run)
    assert call("status", "s")[0] == 130
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m ditscale help fit | true; echo ${{PIPESTATUS[0]}}"],
        env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout in ("141\n", "0\n") and done.stderr == ""


@pytest.mark.slow
def test_json_of_cheap_verbs(tmp_path, ditscale):
    (tmp_path / "t.csv").write_text(TABLE)
    tiny = ["study=mini", "~evaluation", "nested=false", "budgets=[2.5e9]", "widths=[16,24,32]", "recipe.min_steps=20"]
    for words, keys in (
        (["plan", "s", *tiny], {"rows", "dropped", "flops", "dir"}),
        (["status", "s"], None),
        (["doctor", "s"], None),
        (["collect", "s"], {"rows", "excluded", "notes"}),
        (["fit", "t.csv", "--bootstrap", "0"], {"approach2", "findings"}),
        (["compare", "t.csv", "t.csv"], {"pairs"}),
        (["forecast", "t.csv", "--budget", "3e16"], {"loss", "sha256"}),
        (["sbatch", "study"], {"script"}),
        (["sbatch", "array", "--out", "."], {"file"}),
    ):
        done = ditscale(*words, "--json", cwd=tmp_path)
        value = json.loads(done.stdout)
        assert done.returncode in (0, 1) and done.stdout.count("\n") == 1, (words, done)
        assert isinstance(value, list) if keys is None else keys <= value.keys(), (words, value)
    assert (tmp_path / "train_array.sbatch").read_text() == (ROOT / "slurm" / "train_array.sbatch").read_text()
    assert len(json.loads(ditscale("status", "s", "--json", cwd=tmp_path).stdout)) == 3


def test_printed_commands_paste(tmp_path, ditscale):
    """A directory with a space and a quote: what is printed is a command that works."""
    root = tmp_path / "my study's"
    done = ditscale("plan", root, "study=mini")
    (command,) = re.findall("`([^`]+)`", done.stdout)
    assert shlex.split(command) == ["ditscale", "launch", str(root)]
    missing = ditscale("verdict", root)
    (command,) = re.findall("`([^`]+)`", missing.stderr)
    assert shlex.split(command) == ["ditscale", "forecast", str(root)]


def test_batch_scripts(tmp_path, ditscale, one_line_error):
    for name, file in (("array", "train_array"), ("study", "study"), ("aggregate", "aggregate")):
        text = (ROOT / "slurm" / f"{file}.sbatch").read_text()
        assert ditscale("sbatch", name).stdout == text
        assert ditscale("sbatch", name, "--out", tmp_path).returncode == 0
        assert (tmp_path / f"{file}.sbatch").read_text() == text
    (tmp_path / "study.sbatch").write_text("mine")
    assert "holds another script" in one_line_error(ditscale("sbatch", "study", "--out", tmp_path))
    assert (tmp_path / "study.sbatch").read_text() == "mine"
    import tomllib

    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {f"slurm/{file}.sbatch" for file in ("train_array", "study", "aggregate")} <= set(wheel["force-include"])


# ---------------------------------------------------------------------------------------------------------------- verbs


def test_dry_run_writes_nothing(tmp_path, ditscale):
    done = ditscale("plan", "study=paper-as-published", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and "84 runs" in done.stdout and not list(tmp_path.iterdir())
    done = ditscale("plan", "s", "study=mini", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_plan_twice_is_one_study(tmp_path, ditscale, one_line_error):
    assert ditscale("plan", "s", "study=mini", cwd=tmp_path).returncode == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.yaml")}
    assert ditscale("plan", "s", "study=mini", cwd=tmp_path).returncode == 0
    assert ditscale("plan", "s", cwd=tmp_path).returncode == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.yaml")}
    assert "holds another study" in one_line_error(ditscale("plan", "s", "study=mini", "recipe.clip=3", cwd=tmp_path))
    assert "holds another study" in one_line_error(ditscale("study", "s", "study=paper", cwd=tmp_path))


@pytest.mark.slow
def test_planned_again_a_study_stays_where_it_is_launched(tmp_path, ditscale, one_line_error):
    """What is said of its cluster is remembered, until something else is said of it."""
    cluster = lambda: yaml.safe_load((tmp_path / "s" / "study.yaml").read_text())["cluster"]
    words = ["study=mini", "~evaluation", "budgets=[2e11]"]
    ditscale("plan", "s", *words, "cluster=slurm", "cluster.partition=gpu", cwd=tmp_path)
    assert ditscale("plan", "s", *words, "rates=[0.5,1,2]", cwd=tmp_path).returncode == 0
    assert (cluster()["name"], cluster()["partition"]) == ("slurm", "gpu")
    ditscale("plan", "s", *words, "cluster.parallel=3", cwd=tmp_path)
    assert (cluster()["name"], cluster()["partition"], cluster()["parallel"]) == ("slurm", "gpu", 3)
    refused = one_line_error(ditscale("launch", "s", "recipe.clip=2", cwd=tmp_path))
    assert "cluster and budget may change here" in refused
    ditscale("plan", "s", *words, "cluster=local", cwd=tmp_path)
    assert cluster()["name"] == "local"


@pytest.mark.parametrize(
    "setting, says",
    [
        ("recipe.lr_width=1e300", "too large; see recipe.aspect"),
        ("recipe.aspect=1e-300", "too large; see recipe.aspect"),
        ("recipe.lr_width=-1e300", "a learning rate of 0"),
        ("recipe.lr_scale=1e308", "no width fits it"),
        ("recipe.batch_law={scale: 16, quantum: 1e308}", "no width fits it"),
        ("recipe.warmup_images=1e300", "recipe.warmup_images: a warm-up of"),
    ],
)
def test_impossible_recipes_are_not_planned(tmp_path, ditscale, one_line_error, setting, says):
    words = ["study=mini", "recipe.lr_width=10"] if "lr_scale" in setting else ["study=mini"]
    assert says in one_line_error(ditscale("plan", "s", *words, setting, cwd=tmp_path))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "words, says",
    [
        (["plan"], "name the study directory"),
        (["plan", "s", "study=minni"], "did you mean 'mini'"),
        (["plan", "s", "study=mini", "budgets=[1e3]", "widths=[32]"], "no width fits it"),
        (["plan", "s", "study=mini", "design.head_size=10"], "multiple of the head size 10"),
        (["plan", "s"], "which study? add study=NAME; choose one of: abra, mini, paper"),
        (["study", "s", "seeds=[1]"], "which study? add study=NAME"),
        (["plan", "/proc/s", "study=mini"], "cannot be made"),
        (["status", "nowhere"], "holds no study.yaml"),
        (["launch", "nowhere"], "holds no study.yaml"),
        (["run", "nowhere"], "there is no such file"),
        (["evaluate", "nowhere"], "there is no such file"),
        (["evaluate", "nowhere", "--samples", "x"], "--samples: 'x' is not a number"),
        (["evaluate", "nowhere", "--n", "1e15"], "--n: 1e15 is too large; at most 1e+08"),
        (["evaluate", "nowhere", "--seed", "1e30"], "--seed: 1e30 is too large"),
        (["evaluate", "nowhere", "--samples", "1e15"], "--samples: 1e15 is too large"),
        (["evaluate", "nowhere", "--batch-size", "1e15"], "--batch-size: 1e15 is too large"),
        (["evaluate", "nowhere", "--probes", "1e15"], "--probes: 1e15 is too large"),
        (["evaluate", "nowhere", "--steps", "1e15"], "--steps: 1e15 is too large"),
        (["collect", "nowhere"], "holds no runs"),
        (["fit", "nowhere.csv"], "nowhere.csv"),
        (["fit", "nowhere.csv", "--target", "big"], "'big' is not a number"),
        (["forecast", "nowhere"], "holds no study.yaml"),
        (["verdict", "nowhere"], "holds no study.yaml"),
        (["compare", "nowhere"], "at least two"),
        (["rates", "nowhere"], "no such file"),
        (["plan", "s", "study=mini", "rates=[1,2]"], "a minimum takes three or more"),
        (["report", "nowhere"], "nowhere"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_is_one_line(tmp_path, ditscale, one_line_error, words, says):
    assert says in one_line_error(ditscale(*words, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


def test_fit_of_a_table(tmp_path, ditscale):
    """A table drawn from a known surface, through the command, as JSON: the law comes back."""
    E, A, B, alpha, beta = 0.3, 50.0, 400.0, 0.4, 0.45
    lines = ["n_params,n_tokens,budget_flops,loss"]
    for C in (1e17, 3e17, 1e18, 3e18):
        best = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (C / 6) ** (beta / (alpha + beta))
        for k in range(-4, 5):
            N = best * 1.5**k
            D = C / 6 / N
            lines.append(f"{N!r},{D!r},{C},{E + A * N**-alpha + B * D**-beta!r}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    done = ditscale("fit", tmp_path / "t.csv", "--json", "--target", "1.5e21")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n_runs"] == 36 and set(found["predictions"]) == {"1.5e21"}
    assert found["approach3"]["alpha"]["value"] == pytest.approx(alpha, rel=1e-5)
    assert found["approach2"]["model_exponent"]["value"] == pytest.approx(beta / (alpha + beta), abs=0.02)
    assert "Approach 3" in ditscale("fit", tmp_path / "t.csv").stdout


def test_light_verbs_load_no_torch(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    for words in (
        ["plan", "s", "study=mini"],
        ["status", "s"],
        ["fit", "t.csv"],
        ["compare", "t.csv", "t.csv"],
        ["collect", "s"],
        ["report", "s"],
    ):
        code = (
            f"import sys; from ditscale.cli import main; main({words!r}); "
            "print(sorted(m for m in sys.modules if m in ('torch', 'submitit')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert done.stdout.rstrip().endswith("[]"), (words, done.stdout, done.stderr)
