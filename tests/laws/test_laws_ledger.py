"""The record of forecasts: what enters it, what is refused, and its sums against scipy's binomial."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import ditscale as ds
from ditscale.cli import main
from ditscale.errors import UserError
from ditscale.laws import Entry, Estimate, Ledger, Table, forecast, ledger, load_forecast, read_ledger, seal, verdict
from ditscale.laws.sealed.ledger import at_most, score
from ditscale.laws.synthetic import CHINCHILLA, synthetic_study

OLD = Path(__file__).parent / "old_layout"
LARGEST = 6e18  # FLOPs of the grid of laws/synthetic.py
# (times beyond the grid, the probe's loss beside the true one; None: not measured), by name.
STUDIES = {"near": (2, 1.002), "edge": (3, 1.3), "far": (100, 1.0), "farther": (400, 0.999), "waits": (8, None)}


def grid(name):
    """The runs of a study, and its truth."""
    return synthetic_study("chinchilla", noise=0.003, seed=list(STUDIES).index(name))


def write_verdict(at, name, off):
    """verdict.json by a probe at the true optimum that measures `off` times its loss."""
    sealed, (table, truth) = load_forecast(at / "forecast.json"), grid(name)
    probed, _ = synthetic_study("chinchilla", noise=0.003, seed=0, probe=sealed.target_budget_flops)
    probe = probed.take(probed.role == "probe")
    loss = off * float(truth.optimum(sealed.target_budget_flops)[2])
    parts = [np.append(getattr(table, c), getattr(probe, c)) for c in ("n_params", "n_tokens", "budget_flops")]
    run_id, role = [*table.run_id, "probe"], [*table.role, "probe"]
    made = verdict(sealed, Table.of(*parts, np.append(table.loss, loss), run_id=run_id, role=role))
    (at / "verdict.json").write_text(json.dumps(made.to_dict()))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with a forecast.json, and mostly a verdict.json, for each of STUDIES."""
    root = tmp_path_factory.mktemp("studies")
    for name, (factor, off) in STUDIES.items():
        (root / name).mkdir()
        seal(root / name / "forecast.json", forecast(grid(name)[0], LARGEST * factor))
        if off:
            write_verdict(root / name, name, off)
    return root


@pytest.fixture
def file(tmp_path):
    return tmp_path / "ledger.jsonl"


def entry(held=True, error=0.01, half=0.05, factor=10.0, level=0.95, key="0", **more):
    """An entry whose interval is 1 +- half, measured `error` above it; without a verdict where held is None."""
    said = Estimate(1.0, 1 - half, 1 + half)
    verdict = {} if held is None else {"measured": 1 + error, "run_id": "p", "n_params": 1e6}
    when, by = "2026-01-01T00:00:00Z", ("mixture", 40, False)
    made = Entry("s", "loss", 1e20, factor, when, level, said, 1e6, *by, key, "inputs", "0.1.0", **verdict)
    assert held is None or made.inside == held
    return dataclasses.replace(made, **more)


def test_studies_enter_with_their_numbers(made, file):
    record = ledger(file, *(made / name for name in STUDIES))
    assert record == read_ledger(file) == Ledger.from_dict(json.loads(json.dumps(record.to_dict(), allow_nan=False)))
    by_name = {e.name: e for e in record.entries}
    assert by_name.keys() == STUDIES.keys()
    for name, (factor, off) in STUDIES.items():
        sealed = json.loads((made / name / "forecast.json").read_text())
        e = by_name[name]
        assert e.forecast.to_dict() == sealed["loss"] and e.forecast_sha256 == sealed["sha256"]
        assert e.inputs_sha256 == sealed["inputs_sha256"] and e.n_runs == 84 and e.version == ds.__version__
        assert e.factor == pytest.approx(factor) and e.n_params_forecast == sealed["n_params"]["value"]
        if off:
            n, _, loss = CHINCHILLA.optimum(LARGEST * factor)
            assert (e.measured, e.n_params) == pytest.approx((off * loss, n)) and e.run_id == "probe"
            assert e.relative_error == pytest.approx(off * loss / sealed["loss"]["value"] - 1)
            assert e.inside == (off < 1.1)
        else:
            assert e.measured is e.relative_error is e.inside is None
    every, *parts = record.scores
    assert (every.verdicts, every.held) == (4, 3)
    assert [(p.beyond, p.held, p.verdicts) for p in parts] == [("<= 3x", 1, 2), ("30x to 300x", 1, 1), ("> 300x", 1, 1)]


def test_adding_again_changes_nothing_and_order_is_no_input(made, file, tmp_path):
    ledger(file, *(made / name for name in STUDIES))
    text, before = file.read_text(), file.stat()
    ledger(file, made / "near", made / "far" / "forecast.json", made / "far" / "verdict.json")
    assert (file.read_text(), file.stat().st_mtime_ns, file.stat().st_ino) == (text, before.st_mtime_ns, before.st_ino)
    other = tmp_path / "other.jsonl"
    for name in reversed(STUDIES):
        ledger(other, made / name)
    assert other.read_text() == text and len(text.splitlines()) == len(STUDIES)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_later_verdict_completes_its_forecast_and_one_line_of_the_file(made, file, tmp_path):
    first = ledger(file, made / "near" / "forecast.json", made / "far" / "forecast.json")
    assert [e.measured for e in first.entries] == [None, None]
    lines = file.read_text().splitlines()
    moved = tmp_path / "alone.json"  # a verdict whose forecast is in the ledger alone
    moved.write_text((made / "near" / "verdict.json").read_text())
    done = ledger(file, moved)
    assert {e.name: e.measured is not None for e in done.entries} == {"near": True, "far": False}
    assert sum(a != b for a, b in zip(lines, file.read_text().splitlines(), strict=True)) == 1


def test_names(made, file):
    assert [e.name for e in ledger(file, cross=made / "near" / "forecast.json").entries] == ["cross"]
    assert [e.name for e in ledger(file, made / "near").entries] == ["cross"]  # a name once given stays ...
    assert [e.name for e in ledger(file, other=made / "near").entries] == ["other"]  # ... until another is given
    with pytest.raises(UserError, match="is no name"):
        ledger(file, **{"two\nlines": made / "near"})


def test_contradictions_are_refused_and_nothing_is_written(made, file, tmp_path):
    ledger(file, made / "near")
    text = file.read_text()
    (tmp_path / "copy").mkdir()
    at = tmp_path / "copy"
    (at / "forecast.json").write_text((made / "near" / "forecast.json").read_text())
    write_verdict(at, "near", 1.01)
    with pytest.raises(UserError, match=r"was measured by run probe, but the ledger holds .* delete the line"):
        ledger(file, made / "far", at)
    body = json.loads((at / "verdict.json").read_text())
    for change in ({"inside": not body["inside"]}, {"predicted": 1.0}, {"measured": 0.5}, {"interval": [0, 1]}):
        (at / "verdict.json").write_text(json.dumps(body | change))
        with pytest.raises(UserError, match="is of another forecast.*`ditscale verdict"):
            ledger(file, at)
    (at / "verdict.json").write_text((made / "far" / "verdict.json").read_text())
    with pytest.raises(UserError, match="is of another forecast"):
        ledger(file, at)
    sealed = (at / "forecast.json").read_text()
    (at / "forecast.json").write_text(sealed.replace('"level": 0.95', '"level": 0.5'))
    with pytest.raises(UserError, match="was altered after it was sealed.*`ditscale forecast TABLE"):
        ledger(file, at)
    with pytest.raises(UserError, match="no such file"):
        ledger(file, tmp_path / "nowhere")
    assert file.read_text() == text


@pytest.mark.parametrize("damage", [
    lambda line: line[:-9], lambda line: line.replace('"inside": true', '"inside": false'), lambda line: "<<<<<<< HEAD",
    lambda line: re.sub(r'"measured": \d.', '"measured": 7.', line), lambda line: "[" * 10**5, lambda line: "null",
    lambda line: line.replace('"near"', '"far"'), lambda line: "{}",
])  # fmt: skip
def test_a_damaged_or_edited_line_is_named(made, file, damage):
    ledger(file, *(made / name for name in STUDIES))
    lines = file.read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines) if '"near"' in line)
    file.write_text("\n".join([*lines[:number], damage(lines[number]), *lines[number + 1 :]]))
    with pytest.raises(UserError, match=rf"ledger.jsonl, line {number + 1}: no entry .*edited.*`ditscale ledger"):
        read_ledger(file)


def test_two_branches_of_the_file_merge(made, file, tmp_path):
    """As git's union merge leaves them: the lines of both, one forecast twice, of which one has the verdict."""
    ledger(file, made / "near" / "forecast.json", made / "edge")
    other = tmp_path / "other.jsonl"
    ledger(other, made / "near", made / "far")
    file.write_text(other.read_text() + "\n" + file.read_text())
    record = read_ledger(file)
    assert {e.name: e.measured is not None for e in record.entries} == {"near": True, "edge": True, "far": True}
    assert ledger(file, made / "waits").entries and len(file.read_text().splitlines()) == 4


def test_no_file(file, tmp_path):
    with pytest.raises(UserError, match="no such file; `ditscale ledger .*ledger.jsonl mystudy` starts it"):
        ledger(file)
    with pytest.raises(UserError, match="is a directory; name the ledger's file before it"):
        ledger(tmp_path)


# ---------------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("n", [5, 17, 60])
def test_the_chance_is_the_binomials(n):
    for k in range(n + 1):
        assert at_most(k, [0.95] * n) == pytest.approx(stats.binom.cdf(k, n, 0.95), rel=1e-9, abs=1e-15)
    found = score([entry(held=i > 1, error=0.01 if i > 1 else 0.2) for i in range(n)])
    assert (found.held, found.verdicts) == (n - 2, n) and found.expected == pytest.approx(0.95 * n)
    assert found.chance == pytest.approx(stats.binom.cdf(n - 2, n, 0.95))
    # All errors are above: the sign test's p, as scipy has it.
    assert found.above == n and found.one_sided == pytest.approx(stats.binomtest(n, n, 0.5).pvalue)
    assert ("lean to one side" in found.sentence) == (found.one_sided < 0.05)


def test_levels_may_differ():
    """The Poisson binomial, against an enumeration of all outcomes."""
    levels = [0.95, 0.8, 0.5, 0.99]
    outcomes = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T
    chances = np.prod(np.where(outcomes, levels, 1 - np.array(levels)), axis=1)
    for k in range(5):
        assert at_most(k, levels) == pytest.approx(chances[outcomes.sum(1) <= k].sum())


def test_the_sentence_of_five():
    held = [entry(error=e) for e in (0.01, -0.02, 0.03, -0.04)]
    found = score([*held, entry(held=False, error=0.2), entry(held=None)])
    assert found.sentence.startswith("held 4 of 5 (95 % intervals: 4.75 expected; the chance of 4 or fewer is 0.23)")
    assert found.median_error == pytest.approx(0.03) and found.median_width == pytest.approx(0.1)
    assert "lean" not in found.sentence


def test_fewer_than_five_verdicts_say_nothing_of_calibration():
    found = score([entry() for _ in range(4)] + [entry(held=None)])
    assert found.chance is found.one_sided is None and found.verdicts == 4
    assert "chance" not in found.sentence and "expected" not in found.sentence
    assert score([entry(held=None)]).sentence == "no verdict yet"


@pytest.mark.parametrize(("said", "wide"), [
    (Estimate(1, 0.82, 1.22), False), (Estimate(1, 0.8, 1.22), True), (Estimate(1, None, 1.1), True),
    (Estimate(1), True),
    (Estimate(-1, -1.2, -0.9), False), (Estimate(-1, -2, -0.9), True), (Estimate(1, -0.1, 1.1), True),
])  # fmt: skip
def test_wide_intervals_are_marked(said, wide):
    e = entry(forecast=said, measured=float(said.value))
    assert e.wide == wide and ("wide" in e.cells()[-1]) == wide and score([e]).wide == wide
    assert ("says little" in score([e]).sentence) == wide


def test_forecasts_of_the_older_rule_enter(file):
    (e,) = ledger(file, OLD).entries
    body = json.loads((OLD / "verdict.json").read_text())
    assert e.law == "average" and (e.measured, e.inside) == (body["measured"], body["inside"])


def test_rehearsals_are_listed_and_not_counted(file, tmp_path):
    rehearsed = dataclasses.replace(grid("near")[0], recorded=(("rehearsal", "losses drawn from a surface"),))
    seal(tmp_path / "first.json", forecast(rehearsed, 2 * LARGEST))
    (e,) = ledger(file, tmp_path / "first.json").entries
    assert e.rehearsal and e.name == "first" and read_ledger(file).scores[0].verdicts == 0
    record = Ledger((entry(key="a"), entry(key="b", held=False, error=0.5, rehearsal=True, name="practice")))
    assert record.scores[0].verdicts == record.scores[0].held == 1
    text = record.summary()
    assert text.index("Rehearsals") < text.index("practice") and json.dumps(record.to_dict())
    assert len(repr(record).splitlines()) <= 10 and "<td>" in record._repr_html_()


@pytest.mark.parametrize(("factor", "beyond"), [
    (2, "<= 3x"), (3.0000000000000004, "<= 3x"), (3.1, "3x to 30x"), (30, "3x to 30x"), (300, "30x to 300x"),
    (301, "30x to 300x"), (310, "> 300x"),
])  # fmt: skip
def test_distances_are_those_of_a_budget_within_a_per_cent(factor, beyond):
    assert [part.beyond for part in Ledger((entry(factor=factor),)).scores[1:]] == [beyond]


# ---------------------------------------------------------------------------------------------------------------- verb


def test_the_verb(made, file, capsys):
    assert main(["ledger", str(file), str(made / "near"), f"a b={made / 'edge'}", str(made / "near")]) == 0
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert any("a b" in row for row in rows) and any("held 1 of 2" in cell for row in rows for cell in row)
    assert main(["ledger", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layout"] == 1 and [e["name"] for e in found["entries"]] == [e.name for e in read_ledger(file).entries]
    assert found["scores"][0]["held"] == 1 and {"inside", "relative_error"} <= found["entries"][0].keys()


@pytest.mark.parametrize(("words", "says"), [
    (["nowhere.jsonl"], "starts it"), (["."], "is a directory"), (["l.jsonl", "nowhere"], "no such file"),
    (["l.jsonl", __file__], "holds no forecast"),
    (["l.jsonl", "=x"], "write a path"), (["l.jsonl", "a=b", "a=c"], "given twice"), ([], "FILE"),
])  # fmt: skip
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert main(["ledger", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and says in err and not list(tmp_path.iterdir())
