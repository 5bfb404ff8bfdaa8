"""The command line: every verb answers, bad input is one line, light verbs are quick and load no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def test_help_names_every_verb(ditscale):
    text = ditscale("--help").stdout
    for verb in "plan launch status run evaluate collect fit forecast verdict compare rates report study".split():
        assert f"\n    {verb} " in text or f"\n    {verb}\n" in text
        assert ditscale(verb, "--help").returncode == 0


def test_dry_run_writes_nothing(tmp_path, ditscale):
    done = ditscale("plan", "study=paper", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and "84 runs" in done.stdout and not list(tmp_path.iterdir())
    done = ditscale("plan", "s", "study=mini", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and not list(tmp_path.iterdir())


def test_plan_twice_is_one_study(tmp_path, ditscale, one_line_error):
    assert ditscale("plan", "s", "study=mini", cwd=tmp_path).returncode == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.yaml")}
    assert ditscale("plan", "s", "study=mini", cwd=tmp_path).returncode == 0
    assert ditscale("plan", "s", cwd=tmp_path).returncode == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.yaml")}
    assert "holds another study" in one_line_error(ditscale("plan", "s", "study=mini", "recipe.clip=3", cwd=tmp_path))
    assert "holds another study" in one_line_error(ditscale("study", "s", "study=paper", cwd=tmp_path))


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
    assert "only the cluster may change here" in refused
    ditscale("plan", "s", *words, "cluster=local", cwd=tmp_path)
    assert cluster()["name"] == "local"


@pytest.mark.parametrize(
    "setting, says",
    [
        ("recipe.lr_width=1e300", "too large a number"),
        ("recipe.aspect=1e-300", "too large a number"),
        ("recipe.lr_width=-1e300", "a learning rate of 0"),
        ("recipe.lr_scale=1e308", "no width fits it"),
        ("recipe.batch_law={scale: 16, quantum: 1e308}", "no width fits it"),
        ("recipe.warmup_images=1e300", "by recipe.warmup_images, but the run has"),
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
        (["plan", "s", "budgets=[1e3]", "widths=[32]"], "no width fits it"),
        (["plan", "s", "design.head_size=10"], "multiple of the head size 10"),
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
    (tmp_path / "t.csv").write_text(
        "n_params,n_tokens,budget_flops,loss\n"
        + "".join(
            f"{n},{c / 6 / n},{c},{1 + (n / 1e6) ** -0.3 + (c / 6 / n / 1e8) ** -0.3}\n"
            for c in (1e15, 3e15, 1e16)
            for n in (3e5, 6e5, 1.2e6, 2.4e6, 5e6)
        )
    )
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
