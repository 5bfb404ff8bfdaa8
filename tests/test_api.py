"""`import ditscale as ds`: light, documented, typed, and what a notebook needs."""

import inspect
import json
import logging
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import ditscale as ds

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "study=mini", "~evaluation", "nested=false", "budgets=[2.5e9,5e9]", "widths=[16,24,32]", "probe_budget=4e10",
    "recipe.min_steps=20", "validation.n=128",
]  # fmt: skip
NAMES = [name for name in ds.__all__ if name != "__version__"]


def python(code):
    """What a new interpreter prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_is_light():
    heavy = ("torch", "numpy", "scipy", "h5py", "matplotlib", "hydra", "submitit", "pandas", "yaml")
    code = f"import sys, ditscale; print([name for name in {heavy} if name in sys.modules])"
    assert python(code) == "[]\n"
    code = "import time; began = time.perf_counter(); import ditscale; print(time.perf_counter() - began)"
    assert min(float(python(code)) for _ in range(3)) < 0.1
    code = "import sys, ditscale as ds; ds.Study, ds.plan, ds.UserError; print({'torch', 'numpy'} & {*sys.modules})"
    assert python(code) == "set()\n"


def test_names_are_listed():
    wanted = (
        "read_table fit predict decide forecast seal verdict ledger compare fit_rates plan train evaluate Study "
        "UserError __version__"
    )
    assert set(ds.__all__) == set(wanted.split()) <= set(dir(ds))
    with pytest.raises(AttributeError, match="no attribute 'fti'"):
        ds.fti
    assert (ROOT / "ditscale" / "py.typed").exists()


def test_functions_keep_their_names_beside_folders():
    """plan, train and evaluate are folders too, which must never take the functions' place."""
    code = (
        "import ditscale.plan.grid, ditscale.train, ditscale as ds; from ditscale.evaluate import weights;"
        "from ditscale.launch.monitor import status; ds.Study; import ditscale.evaluate.weights;"
        "print(all(callable(f) for f in (ds.plan, ds.train, ds.evaluate)), weights.Weights.__name__)"
    )
    assert python(code) == "True Weights\n"


def public():
    """(name, object) of all that is public, methods of classes too."""
    for name in NAMES:
        what = getattr(ds, name)
        yield name, what
        if inspect.isclass(what) and not issubclass(what, Exception):
            for attribute, member in vars(what).items():
                if not attribute.startswith("_") and not isinstance(member, type(what.__annotations__)):
                    member = getattr(member, "__func__", getattr(member, "fget", member))
                    if callable(member):
                        yield f"{name}.{attribute}", member


@pytest.mark.parametrize("name, what", [pytest.param(*pair, id=pair[0]) for pair in public()])
def test_docstrings_and_annotations(name, what):
    doc = inspect.getdoc(what) or ""
    short = name.rpartition(".")[2]
    assert len(doc.splitlines()[0]) > 20, "the first line says what it does"
    if name != "UserError":
        assert re.search(rf"\b{short}[.(\[]" if short != "paths" else "study.paths", doc), "a line of use"
    if callable(what) and not inspect.isclass(what):
        signature = inspect.signature(what)
        assert signature.return_annotation is not inspect.Signature.empty
        given = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
        assert not [p.name for p in given if p.annotation is p.empty]


def test_errors_are_one_line(tmp_path):
    (tmp_path / "t.csv").write_text("n_params,n_tokens,loss\n1,2,3\n")
    for mistake in (
        lambda: ds.Study.open(tmp_path),
        lambda: ds.Study.open(tmp_path / "absent"),
        lambda: ds.Study.open(tmp_path / "t.csv"),
        lambda: ds.plan("study=minni"),
        lambda: ds.plan("seeds=[0,1"),
        lambda: ds.plan("study=mini", configs=tmp_path / "absent"),
        lambda: ds.plan("study=mini", dir=tmp_path),
        lambda: ds.train(tmp_path),
        lambda: ds.evaluate(tmp_path),
        lambda: ds.evaluate(tmp_path, stepps=3),
        lambda: ds.read_table(tmp_path / "absent.csv"),
        lambda: ds.read_table(tmp_path / "t.csv"),
    ):
        with pytest.raises(ds.UserError) as error:
            mistake()
        assert "\n" not in str(error.value) and len(str(error.value)) > 20
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
    with pytest.raises(ds.UserError, match="holds no study.yaml; `ditscale plan"):
        ds.Study.open(tmp_path / "absent")
    with pytest.raises(ds.UserError, match="did you mean 'steps'"):
        ds.evaluate(tmp_path, stepps=3)


# ------------------------------------------------------------------------------------------------------------- studies


def shown(rows):
    """A result as a notebook shows it; returns its text."""
    text, html = repr(rows), rows._repr_html_()
    assert len(text.splitlines()) <= 10 and max(map(len, text.splitlines())) <= 160
    assert html.count("<table>") == html.count("</table>") <= 1 and html.count("<tr>") == html.count("</tr>") <= 31
    return text


def test_plan_writes_only_where_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan = ds.plan(*TINY)
    assert len(plan) == 6 and plan.dir == "" and not list(tmp_path.iterdir())
    assert shown(plan).startswith("mini: 6 runs, ") and plan[5]["width"] == 32
    assert {"run_id", "n_params", "n_tokens", "budget_flops", "lr", "steps"} <= plan[0].keys()
    value = json.loads(json.dumps(plan.to_dict()))
    assert len(value["rows"]) == 6 and value["flops"] == plan.flops == pytest.approx(
        sum(r["achieved_flops"] for r in plan)
    )
    written = ds.plan(*TINY, dir=tmp_path / "s")
    assert written.rows == plan.rows and written.dir == str(tmp_path / "s")
    assert {p.name for p in (tmp_path / "s" / "runs").iterdir()} == {row["run_id"] for row in plan}
    assert ds.plan(dir=tmp_path / "s").rows == ds.Study.open(tmp_path / "s").plan().rows == plan.rows
    dropped = ds.plan(*TINY[:3], "budgets=[2.5e9]", "widths=[16,128]", "recipe.min_steps=20")
    assert [cell["width"] for cell in dropped.dropped] == [128]
    assert capsys.readouterr() == ("", "")


def test_frames(monkeypatch):
    plan = ds.plan(*TINY)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ds.UserError, match="pandas is not installed"):
        plan.to_frame()
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows: rows))
    assert plan.to_frame() == [dict(row) for row in plan]
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas")
    frame = plan.to_frame()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 6 and set(frame) == set(plan[0])


def test_html_is_escaped():
    from ditscale.study import Rows

    rows = Rows("<t>", ({"a": "<b>"},) * 40, ("a",), ("<n>",))
    html = rows._repr_html_()
    assert not {"<b>", "<t>", "<n>"} & {*re.findall("<.>", html)} and "&lt;b&gt;" in html and "10 more rows" in html


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of three small runs, trained in this process as a notebook would; and what `progress` was told."""
    root, seen = tmp_path_factory.mktemp("api") / "s", []
    ds.plan(*TINY, "budgets=[2.5e9]", dir=root)
    for run in ds.Study.open(root).runs():
        result = ds.train(run["dir"], progress=seen.append)
        assert result.run_id == run["run_id"] and result.state == "finished" and result.images == run["n_images"]
        assert 0 < result.loss < 2
    return root, seen


def test_training_in_a_notebook(trained, capsys):
    root, seen = trained
    assert len(seen) >= 3 and {"run_id", "state", "images", "loss", "eta_s"} <= seen[-1].keys()
    assert seen[-1]["state"] == "finished"
    run = ds.Study.open(root).runs()[0]
    assert ds.train(run["dir"]).state == "finished"  # again: nothing to do
    results = ds.evaluate(run["dir"], metrics=["val_loss"], samples=2, n=64)
    assert "val_loss" in shown(results) and results[0]["n"] == 64 and results[0]["value"] > 0
    assert ds.evaluate(run["dir"], "val_loss", samples=2, n=64).rows == results.rows
    with pytest.raises(ds.UserError, match="given twice"):
        ds.evaluate(run["dir"], datasets=["scenes", "scenes"])
    with pytest.raises(ds.UserError, match="metrics"):
        ds.evaluate(run["dir"], metrics=["fidd"])
    assert capsys.readouterr().out == ""


def test_a_stop_is_a_result(tmp_path):
    import signal

    plan = ds.plan(
        "study=mini",
        "~evaluation",
        "nested=false",
        "budgets=[2e12]",
        "widths=[32]",
        "probe_budget=1e13",
        dir=tmp_path / "s",
    )
    (run,) = ds.Study.open(tmp_path / "s").runs()
    stopped = []

    def stop(row):
        if row["images"] and not stopped:
            stopped.append(row)
            os.kill(os.getpid(), signal.SIGINT)  # as the stop button of a notebook does

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # by an earlier test in this process, perhaps
    result = ds.train(run["dir"], progress=stop)
    assert result.state == "stopped" and 0 < result.images < plan[0]["n_images"]
    assert "resume" in result.reason or "goes on" in result.reason
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked


@pytest.mark.slow
def test_a_study_in_a_notebook(trained, capsys):
    root, _ = trained
    study = ds.Study.open(root)
    assert "3 runs planned" in shown_study(study) and "holds no results yet" in repr(study)
    assert len(study.runs()) == 3 and shown(study.runs()) and all(Path(r["dir"]).is_dir() for r in study.runs())
    status = study.status()
    assert shown(status).startswith("3 finished") and {row["state"] for row in status} == {"finished"}
    table = study.table()  # collects, since there is no study.h5 yet
    assert len(table.loss) == 3 and (root / "study.h5").exists()
    assert "3 runs collected, 0 left out" in shown(study.collect())
    laws = study.laws(bootstrap=0)
    assert list(laws.predictions) == ["4e10"] and not (root / "laws.json").exists()
    assert study.report() == root / "report" / "index.html" and study.report().exists()
    assert "study.h5" in repr(study) and "report" in repr(study)
    assert capsys.readouterr().out == ""


def shown_study(study):
    assert len(repr(study).splitlines()) <= 10 and "<pre>" in study._repr_html_()
    return repr(study)


def test_the_forecast_of_a_study(tmp_path):
    """A new one that writes nothing, until the verb has sealed one; and at other budgets."""
    import h5py

    from ditscale.laws import synthetic

    ds.plan(*TINY[:3], "probe_budget=1e23", dir=tmp_path / "s")
    study = ds.Study.open(tmp_path / "s")
    synthetic.main(["chinchilla", "--out", str(tmp_path / "t.csv")])
    table = ds.read_table(tmp_path / "t.csv")
    with h5py.File(study.paths.table, "w") as file:
        for name in ("n_params", "n_tokens", "budget_flops", "loss"):
            file[f"points/{name}"] = getattr(table, name)
    free = study.forecast()
    assert not study.paths.forecast.exists() and free.sha256 is None and free.target_budget_flops == 1e23
    sealed = ds.seal(study.paths.forecast, free)
    assert study.forecast() == sealed and study.forecast("1e24").target_budget_flops == 1e24
    assert study.laws(bootstrap=0).given and list(study.laws(bootstrap=0, targets=["1e25"]).predictions) == ["1e25"]


# -------------------------------------------------------------------------------------------------------------- tables


def test_laws_of_a_table(tmp_path, capsys):
    """What README and docs promise, in a plain session."""
    from ditscale.laws.synthetic import main

    path = tmp_path / "runs.csv"
    main(["chinchilla", "--out", str(path)])
    capsys.readouterr()
    table = ds.read_table(path)
    laws = ds.fit(table, targets=["1.5e21"], bootstrap=0)
    assert laws.given and "Approach 2" in laws.summary() and json.dumps(laws.to_dict(), allow_nan=False)
    made = ds.forecast(table, 1e23)
    sealed = ds.seal(tmp_path / "forecast.json", made)
    assert sealed.sha256 and json.loads((tmp_path / "forecast.json").read_text())["sha256"] == sealed.sha256
    assert ds.compare({"a": table, "b": table}, 1e23).pairs
    with pytest.raises(ds.UserError, match="probe"):
        ds.verdict(sealed, table)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_messages_go_to_the_log(tmp_path, capsys, caplog):
    """Nothing outside cli/ prints; what is worth saying is in the log."""
    from ditscale import pipeline

    words = [*TINY[:3], "budgets=[2.5e9]", "widths=[16]", "recipe.min_steps=20", "validation.n=64"]
    with caplog.at_level(logging.INFO, "ditscale"):
        ended = pipeline.whole_study(tmp_path / "s", words)
    assert ended.status == "no law" and ended.exit_code == 3 and Path(ended.report).exists()
    assert "1 runs" in caplog.text and "1 runs collected" in caplog.text
    assert json.loads(json.dumps(ended.to_dict()))["results"]["laws"]["n_runs"] == 1
    assert capsys.readouterr().out == ""


def test_checkers_see_the_names():
    """The lazy names are those that type checkers read."""
    source = (ROOT / "ditscale" / "__init__.py").read_text()
    block = source.split("if TYPE_CHECKING:")[1].split("__version__")[0]
    assert set(re.findall(r"\w+", " ".join(re.findall("import (.*)", block)))) == set(NAMES)
