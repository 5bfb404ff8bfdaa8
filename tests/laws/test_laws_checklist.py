import json

import h5py
import pytest
from laws_synthetic import CHINCHILLA, study, with_probe

from ditscale.collect.table import collect
from ditscale.laws import fit, read_table
from ditscale.laws.checks.checklist import NOT_RECORDED, PARTS, RECORDED, lines
from ditscale.pipeline import plan_study
from ditscale.plan.study import read_study

BUDGETS = (1e18, 3e18, 1e19, 3e19)


def write(path, head=""):
    table = study(CHINCHILLA, BUDGETS, sizes=7, noise=0.003)
    columns = (table.n_params, table.n_tokens, table.budget_flops, table.loss)
    rows = "".join(",".join(map(repr, map(float, row))) + "\n" for row in zip(*columns, strict=True))
    path.write_text(head + "n_params,n_tokens,budget_flops,loss\n" + rows)
    return path


def answers(items):
    return {(i.part, i.question): i.answer for i in items}


def test_what_a_bare_table_does_not_say_is_not_recorded(tmp_path):
    items = fit(read_table(write(tmp_path / "runs.csv")), bootstrap=50).checklist
    found = answers(items)
    assert all(found[part, question] == NOT_RECORDED for _, part, question in RECORDED)
    assert sum(not i.recorded for i in items) == len(RECORDED)
    assert [p for p in PARTS if any(i.part == p for i in items)] == list(PARTS)
    assert found["counting", "C / (N D)"] == "6 in the median, 6 to 6"
    assert found["dropped points", "runs excluded by name"] == "none"
    assert found["uncertainty", "bootstrap"] == "50 replicates, seed 0"
    assert "approach 3" in found["validation", "held-out budgets"] and "3e19" in found["validation", "held-out budgets"]
    text = lines(items)
    assert f"({len(items) - len(RECORDED)} of {len(items)} recorded)" in text[0] and len(text) == 1 + len(PARTS) + len(
        items
    )
    json.dumps([i.to_dict() for i in items], allow_nan=False)


def test_lines_above_the_header_answer(tmp_path):
    head = "".join(f"# {key.replace('_', ' ').title()}: answer to {key}\n" for key, *_ in RECORDED)
    items = fit(read_table(write(tmp_path / "runs.csv", head)), bootstrap=0).checklist
    found = answers(items)
    assert all(found[part, question] == f"answer to {key}" for key, part, question in RECORDED)
    assert all(i.recorded for i in items)
    assert found["uncertainty", "intervals"] == "none"


def test_what_was_dropped_and_refused_is_named(tmp_path):
    table = with_probe(study(CHINCHILLA, BUDGETS, sizes=7, noise=0.003), CHINCHILLA, 1e21)
    two_left = [f"row-{i}" for i in range(1, 5)]
    found = answers(fit(table.without(two_left, "diverged"), bootstrap=0).checklist)
    assert found["dropped points", "runs excluded by name"] == "; ".join(f"{r} (diverged)" for r in two_left)
    assert found["dropped points", "probes held out"] == "probe"
    assert found["dropped points", "slices without a usable minimum"] == "1e18"
    small = answers(fit(study(sizes=3, budgets=(1e11,)), bootstrap=0).checklist)
    assert (
        "refused: too_few" in small["fit", "optimiser"]
        and small["validation", "held-out budgets"] == "none was possible"
    )


def test_columns_that_were_renamed_or_computed_are_said(tmp_path):
    path = write(tmp_path / "runs.csv")
    path.write_text(path.read_text().replace("n_params,n_tokens,", "size,_,"))
    table = read_table(path, columns={"n_params": "size"}, kappa=6)
    found = answers(fit(table, bootstrap=0).checklist)
    assert found["counting", "column of n_params"] == "'size' in the file"
    assert found["counting", "what D counts"] == "computed as budget_flops / (6 n_params)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [["study=mini"], ["study=mini", "flops=6nd", "params=total", "design=crossattention"]]
)
def test_a_study_answers_all_but_its_hypothesis(tmp_path, settings):
    """What `collect` records leaves only the question open that a person must answer."""
    root = tmp_path / "study"
    plan_study(str(root), settings)
    of = read_study(root)
    collect(root)  # no run has finished, so the table is empty: it gets runs of a known surface
    table = study(CHINCHILLA, BUDGETS, sizes=7)
    with h5py.File(root / "study.h5", "a") as file:
        del file["points"]
        for name in ("n_params", "n_tokens", "budget_flops", "loss"):
            file[f"points/{name}"] = getattr(table, name)
    items = fit(read_table(root), bootstrap=0).checklist
    assert [i.question for i in items if not i.recorded] == ["what the study is to find out"]
    found = answers(items)
    assert (
        of.design.name in found["setup", "architecture"]
        and str(of.validation.n) in found["data", "what the metric was measured on"]
    )
    assert ("6 N D" in found["counting", "what C counts"]) == (of.flops == "6nd")

    with h5py.File(root / "study.h5", "a") as file:
        file["points/raw_loss"], file["points/fid_coco"] = table.loss, table.loss
        file.attrs["evaluation_fid_coco"] = "coco: 10000 images"
    for metric, words in {"raw_loss": "raw weights", "fid_coco": "coco: 10000 images", "loss": "EMA weights"}.items():
        assert (
            words
            in answers(fit(read_table(root, metric), bootstrap=0).checklist)["data", "what the metric was measured on"]
        )
