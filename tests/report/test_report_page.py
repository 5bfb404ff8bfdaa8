"""The page says the true numbers, names what is missing, and needs nothing but itself."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest

from ditscale import pipeline, units
from ditscale.cli import main
from ditscale.errors import UserError
from ditscale.laws import Estimate, ledger
from ditscale.naming import StudyPaths
from ditscale.pipeline import give_verdict, write_json
from ditscale.plan.grid import plan_probe
from ditscale.report import sentences
from ditscale.report.html import superscripts
from ditscale.report.ledger import ledger_plot
from ditscale.report.page import html, write_report
from ditscale.report.read import best_run, read_study_results
from ditscale.report.style import render

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A strict reading of a page: tags must nest, ids must differ; keeps text, links and sources."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.words, self.rows = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[k] for k in ("href", "src") if k in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [v for k, v in attrs if k in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


def page_of(paths) -> Page:
    """The page without its figures, which are slow to draw."""
    return Page(html(read_study_results(paths.root), []))


@pytest.fixture(scope="module")
def whole(held):
    """The complete report of the study whose forecast held: path and parsed page."""
    path = write_report(held.root)
    assert path == held.report / "index.html"
    return path, Page(path.read_text())


def test_self_contained(whole):
    path, page = whole
    text = path.read_text()
    assert len(text) < 2_000_000
    assert "//" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text), "something external"
    assert "<script" not in text and "@import" not in text and "url(" not in text.replace("url(#", "")
    for link in page.links:
        assert link.startswith(("data:image/png;base64,", "#", "../runs/", "figures/")), link
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:"):
            assert (path.parent / link).exists()
    for used in re.findall(r"url\(#([^)]+)\)", text):
        assert used in page.ids


def test_colours_follow_the_mode(whole):
    text = whole[0].read_text()
    used = set(re.findall(r"var\((--[\w]+)\)", text))
    light = re.search(r"<style>:root\{(.*?)\}", text)[1]
    dark = re.search(r"prefers-color-scheme:dark\)\{:root\{(.*?)\}", text)[1]
    for name in used:
        if re.fullmatch("--c[0-9a-f]{6}", name):
            assert f"{name}:" in light and f"{name}:" in dark
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.S))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) <= {"#ffffff"}, "a colour that dark mode cannot change"


def test_figures_are_valid_files(whole):
    figures = whole[0].parent / "figures"
    names = {"isoflop", "laws", "training", "domains", "metrics", "noise", "samples"}
    assert {p.stem for p in figures.iterdir()} == names and len(list(figures.iterdir())) == 14
    for name in names:
        png, pdf = (figures / f"{name}.{kind}" for kind in ("png", "pdf"))
        from matplotlib.image import imread

        assert png.read_bytes().startswith(b"\x89PNG") and min(imread(png).shape[:2]) > 300
        assert pdf.read_bytes().startswith(b"%PDF") and pdf.read_bytes().rstrip().endswith(b"%%EOF")


def test_every_run_with_its_numbers(whole, held):
    _, page = whole
    rows = {row[0]: row for row in page.rows if len(row) > 12}
    with h5py.File(held.table) as file:
        points = {name: column[()] for name, column in file["points"].items()}
    assert len(points["run_id"]) == 16 and "16 runs," in page.text and "15 runs of the grid finished" in page.text
    for i, run in enumerate(points["run_id"]):
        row = rows[run.decode()]
        assert row[1] == ("probe" if points["role"][i] == b"probe" else "fit")
        assert row[2] == units.compact(points["budget_flops"][i])
        assert row[5:8] == [f"{points[k][i]:,}" for k in ("n_params", "n_tokens", "n_images")]
        assert row[9] == f"{points['loss'][i]:.5f} ± {points['loss_se'][i]:.5f}"
        assert row[10:12] == [f"{points['train_loss'][i]:.5f}", f"{points['loss_scenes-ood'][i]:.5f}"]
        assert row[13] == "1"


def test_the_laws_are_those_of_laws_json(whole, held):
    text = whole[1].text
    laws = json.loads(held.laws.read_text())
    for name, symbol in (("model", "N*"), ("data", "D*"), ("loss", "L*")):
        value = laws["answer"]["exponents"][name]["value"]
        assert f"{symbol} ∝ C{value:.3f}".replace("-", "−") in text
    assert "The answer beyond the grid, a mixture of forms (surface " in text
    assert "Through the minima of 3 of 3 slices" in text
    assert "the two intervals overlap" in text  # the surface is symmetric: both exponents are one half
    for rms in (s["residual_rms"] for s in laws["slices"]):
        assert f"{100 * rms:.2g} %" in text
    error = laws["backtests"][0]["approach3"]["loss_error"]
    assert f"the surface missed L* by {100 * error:+.2g} %" in text


def test_captions_of_samples_are_escaped(whole):
    path, page = whole
    assert "a red <i>ship</i> & 7 cats, on blue" in page.text and "<i>ship" not in path.read_text()
    assert sum(link.startswith("data:image/png") for link in page.links) == 16


def test_a_forecast_that_held(whole, held):
    text, verdict = whole[1].text, json.loads(held.verdict.read_text())
    assert verdict["inside"]
    assert "the probe is inside the forecast interval" in text and "outside the" not in text
    assert f"measured {verdict['measured']:.4f}, inside the sealed 95 % interval" in text
    assert f"{verdict['interval'][0]:.4f} to {verdict['interval'][1]:.4f}" in text
    assert verdict["forecast_sha256"] in text


@pytest.mark.slow
def test_a_forecast_that_failed_is_said_as_plainly(failed):
    page, verdict = page_of(failed), json.loads(failed.verdict.read_text())
    assert not verdict["inside"]
    assert page.text.count("he probe is outside the forecast interval") == 3 and "inside the forecast" not in page.text
    assert f"measured {verdict['measured']:.4f}, outside the sealed 95 % interval" in page.text
    assert f"{100 * verdict['relative_error']:.2g} % above the forecast" in page.text


@pytest.mark.slow
def test_missing_parts_are_named_with_their_commands(study):
    paths = study("+evaluation.vlb.n=64", fit=False, samples=False, unfinished=2)
    page = Page(write_report(paths.root).read_text())  # also draws the slices without laws
    best = best_run(read_study_results(paths.root).table)
    for command in ("fit DIR", "forecast DIR", "verdict DIR", f"evaluate DIR/runs/{best}"):
        assert f"ditscale {command}" in page.text
    assert "VLB of 13 of 13 runs" in page.text and "then ditscale collect DIR" in page.text
    assert "13 runs collected, no law fitted yet" in page.text and "2 runs left out" in page.text
    left_out = [row for row in page.rows if len(row) == 2 and row[0] != "run"]
    assert len(left_out) == 2 and all("stopped: " in reason for _, reason in left_out)
    assert not (paths.report / "figures" / "laws.png").exists()

    from ditscale.laws import fit, read_table

    write_json(paths.laws, fit(read_table(paths.root), bootstrap=50).to_dict())
    page = page_of(paths)
    assert "ditscale fit DIR" not in page.text and "3 distinct sizes; a parabola needs 4" in page.text
    assert "Through the minima of 2 of 3 slices" in page.text

    with h5py.File(paths.table, "r+") as file:  # the table moves on, the laws do not
        file["points/loss"][0] *= 1.01
    assert "laws.json was fitted to other runs" in page_of(paths).text


@pytest.mark.slow
def test_refusals_and_exclusions_are_listed(held, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(held.root, root)
    paths = StudyPaths(root)
    from ditscale.laws import fit, read_table

    gone = read_study_results(root).table.run_id[0]
    table = read_table(root).without([gone], "its <disk> failed")
    write_json(paths.laws, fit(table, bootstrap=50).to_dict())
    page = page_of(paths)
    assert [gone, "excluded from the fit: its <disk> failed"] in page.rows
    assert next(row for row in page.rows if row[0] == gone and len(row) > 12)[1] == "grid"
    assert "Not in this report yet" not in page.text

    laws = json.loads(paths.laws.read_text())
    laws |= {"answer": None, "approach2": None, "approach3": None}
    laws["findings"].append(
        {"code": "too_few_budgets", "severity": "refused", "message": "nothing <fits>", "runs": [], "slices": []}
    )
    write_json(paths.laws, laws)
    page = page_of(paths)
    assert "No law could be given" in page.text and "refused nothing <fits>" in page.text


def test_what_the_numbers_count(held):
    text = page_of(held).text
    assert "weights of all matrix products" in text and "every matrix product of forward and backward" in text
    assert "images x 24 tokens an image" in text and "2048 fixed (image, noise, timestep) triples" in text
    assert "probe_budget7.2e12" in text and "lr_scale0.3" in text


def test_refused_directories(tmp_path, held):
    with pytest.raises(UserError, match="study.yaml"):
        write_report(tmp_path)
    shutil.copy(held.study, tmp_path)
    with pytest.raises(UserError, match=re.escape(f"ditscale collect {tmp_path}")):
        write_report(tmp_path)
    (tmp_path / "study.h5").write_bytes(held.table.read_bytes()[:3000])
    with pytest.raises(UserError, match="damaged"):
        write_report(tmp_path)
    shutil.copy(held.table, tmp_path)
    for name, verb in (("laws", "fit"), ("verdict", "verdict"), ("rates", "rates")):
        again = re.escape(f"`ditscale {verb} {tmp_path}` makes it again")
        path = tmp_path / f"{name}.json"
        for content, says in (("{", "not JSON"), ("{}", "not what"), ("[]", "not what"), ('{"a": 1}', "not what")):
            path.write_text(content)
            with pytest.raises(UserError, match=f"{re.escape(str(path))}: is {says}.*{again}"):
                write_report(tmp_path)
        path.unlink()
    with h5py.File(tmp_path / "study.h5", "r+") as file:
        file["points/role"][...] = "probe"
    with pytest.raises(UserError, match="study.h5 holds no finished run of the grid"):
        write_report(tmp_path)
    assert not (tmp_path / "report" / "index.html").exists()


def test_an_altered_forecast_is_not_published(held, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(held.root, root, ignore=shutil.ignore_patterns("report"))
    path = StudyPaths(root).forecast
    sealed = path.read_text()
    altered = re.sub(r'"value": [\d.e+-]+', '"value": 1e9', sealed, count=1)
    for content, says in (
        (altered, "altered"),
        ("{}", "'created' is missing"),
        ("[]", "no.* object"),
        ("{", "not JSON"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=f"{re.escape(str(path))}.*{says}.*`ditscale forecast"):
            write_report(root)
    assert not (root / "report").exists()


@pytest.mark.slow
def test_samples_with_any_caption_or_none(held, tmp_path):
    """An evaluation without samples is no damage, and a caption is never read as a formula."""
    root = tmp_path / "copy"
    shutil.copytree(held.root, root, ignore=shutil.ignore_patterns("report"))
    best = StudyPaths(root).run(best_run(read_study_results(root).table))
    with h5py.File(best.evaluation, "r+") as file:
        file["samples/captions"][0] = r"$\frac{1$ <b>"
    assert r"$\frac{1$ &lt;b&gt;" in write_report(root).read_text()
    with h5py.File(best.evaluation, "r+") as file:
        del file["samples"]
    results = read_study_results(root)
    assert results.samples is None and any("Samples of the best run" in what for what, _ in sentences.missing(results))


def test_a_study_table_without_the_fields_of_its_columns(held, tmp_path):
    """A study.h5 written before a column's metric, data set and variant were attributes is read by its names."""
    root = tmp_path / "copy"
    shutil.copytree(held.root, root, ignore=shutil.ignore_patterns("report", "runs"))
    with h5py.File(root / "study.h5", "r+") as file:
        for column in file["points"].values():
            for name in list(column.attrs):
                del column.attrs[name]
        for name in ("vlb", "vlb_se", "vlb_a_b", "vlb_se_a_b", "vlb:n=5"):
            file[f"points/{name}"] = file["points/loss"][()]
            file[f"points/{name}"].attrs["unit"] = "nats"
    results = read_study_results(root)
    assert results.columns("loss", out_of_domain=True) == {"scenes-ood": "loss_scenes-ood"}
    assert results.columns("vlb") == {"scenes": "vlb", "scenes:n=5": "vlb:n=5", "a_b": "vlb_a_b"}
    assert results.table.info_of("vlb").unit == "nats"
    assert read_study_results(held.root).columns("loss") == {"scenes": "loss", "scenes-ood": "loss_scenes-ood"}


def test_a_forecast_before_its_probe(study, monkeypatch, capsys):
    """A verdict says who trains the probe; a probe of another size than the forecast's is said."""
    root = str(study(forecast=False, samples=False).root)
    assert main(["forecast", root]) == 0
    assert capsys.readouterr().out.endswith(f"`ditscale launch {root}` trains it\n")
    with pytest.raises(
        UserError, match=re.escape(f"no measured loss yet (not started); `ditscale launch {root}` trains it")
    ):
        give_verdict(root)
    monkeypatch.setattr(pipeline, "plan_probe", lambda study, n, *_, **__: plan_probe(study, n / 4))
    assert main(["forecast", root]) == 0
    assert re.search(r"its N = \S+, the nearest .* is 0\.2\d?x the forecast's N\*", capsys.readouterr().out)


def test_a_report_needs_no_torch():
    code = "import sys, ditscale.report.page; assert not {'torch', 'matplotlib.pyplot', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sentence_of_growth():
    low, high = Estimate(0.4, 0.35, 0.45), Estimate(0.6, 0.55, 0.65)
    assert "model grows faster" in sentences.growth(high, low)
    assert "data grow faster" in sentences.growth(low, high)
    assert "overlap" in sentences.growth(low, Estimate(0.6, 0.44, 0.7))
    assert "overlap" in sentences.growth(low, Estimate(0.6))


def test_numbers_as_text():
    assert sentences.digits(0.199) == "0.1990" and sentences.digits(2.0) == "2.000"
    assert np.isfinite(float(sentences.digits(12345.6)))
    assert sentences.power("C", Estimate(-0.2, -0.3, -0.1)) == "C^\u22120.200 (95 % \u22120.300 to \u22120.100)"
    assert superscripts("C^\u22120.2 N^-alpha C^a") == "C<sup>\u22120.2</sup> N<sup>\u2212\u03b1</sup> C<sup>a</sup>"


def test_the_ledger_is_shown_where_it_is_given(held, failed, tmp_path):
    """Two studies, one renamed to what would be markup: table and sum say what the file says."""
    name = "a <b>bold</b> $name"
    record = ledger(tmp_path / "ledger.jsonl", held.root, **{name: failed.root})
    page = Page(html(dataclasses.replace(read_study_results(held.root), ledger=record), []))
    for entry in record.entries:
        assert entry.cells() in page.rows
    assert record.scores[0].sentence.startswith("held 1 of 2;") and "Held 1 of 2;" in page.text
    assert {cells[-1] for cells in page.rows if name in cells} == {"missed"}


@pytest.mark.slow
def test_a_report_with_a_ledger_and_without_it_again(held, failed, tmp_path, capsys):
    file, page = tmp_path / "ledger.jsonl", held.report / "index.html"
    ledger(file, held.root, **{"$a <b>": failed.root})
    assert main(["report", str(held.root), "--ledger", str(file)]) == 0 and "ledger" in Page(page.read_text()).ids
    assert {p.name for p in (held.report / "figures").iterdir()} >= {"ledger.png", "ledger.pdf"}
    before, text = page.read_text(), file.read_text()
    file.write_text(text.replace('"inside": true', '"inside": false'))
    capsys.readouterr()
    assert main(["report", str(held.root), "--ledger", str(file)]) == 2
    assert re.search(r"ledger.jsonl, line \d: no entry", capsys.readouterr().err) and page.read_text() == before
    write_report(held.root)
    assert "ledger" not in Page(page.read_text()).ids
    assert not (held.report / "figures" / "ledger.png").exists()


@pytest.mark.slow
def test_forecasts_that_wait_or_are_open_or_rehearsed_are_drawn(held, tmp_path):
    record = ledger(tmp_path / "l.jsonl", held.forecast)
    (entry,) = record.entries
    shapes = [
        dataclasses.replace(entry, forecast=Estimate(-1.0, None, -0.5)), dataclasses.replace(entry, measured=0.1),
        dataclasses.replace(entry, rehearsal=True, name="practice"),
        *(dataclasses.replace(entry, name=f"n{i}") for i in range(20)),
    ]  # fmt: skip
    for entries in ([], shapes[:1], shapes[2:3], shapes):
        given = dataclasses.replace(record, entries=tuple(entries))
        results = dataclasses.replace(read_study_results(held.root), ledger=given)
        plot = ledger_plot(results)
        assert (plot is None) == all(e.rehearsal for e in entries)
        assert not plot or render(plot)[1]["png"].startswith(b"\x89PNG")
        page = Page(html(results, []))
        assert ("Rehearsals, never counted" in page.text) == any(e.rehearsal for e in entries)
