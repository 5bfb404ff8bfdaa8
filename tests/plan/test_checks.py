"""Checks of a plan, against numbers computed by hand and files of images made here."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import ditscale as ds
from ditscale.config import Prior, Rehearsal, compose
from ditscale.errors import UserError
from ditscale.pipeline import check_plan, plan_study
from ditscale.plan.checks import CODES, check, cluster, listed
from ditscale.plan.checks.design import believed_optimum
from ditscale.plan.grid import plan_runs

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [f"data.{key}={n}" for key, n in dict(channels=4, resolution=8, text_length=5, text_dim=6).items()]
# Latents of 8 x 8 in 16 patches; budgets far below those of the published law.
TINY = [
    *("study=mini", "data=latents", "~prior", "design.patch=2", "~validation.also", "~evaluation", "nested=false"),
    *SHAPES,
    *("budgets=[1e9,4e9,1.6e10]", "widths=[16,24,32,40]", "probe_budget=1e11", "recipe.min_steps=1"),
    *("recipe.warmup_images=16", "validation.n=32", "cluster=local"),
]  # fmt: skip


def images(path, n, channels=4, resolution=32, text=(77, 768), scale=1.0, fill=False, **attributes):
    """A file as docs/data.md describes it. Without `fill` its rows are never written, so it is small at any n."""
    rng = np.random.default_rng(0)
    shapes = {"latents": (n, channels, resolution, resolution), "text": (n, *text)}
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            if fill:
                file[name] = rng.normal(size=shape).astype("f2")
            else:
                file.create_dataset(name, shape, "f2", chunks=(1, *shape[1:]))
        file.attrs.update({"shift": 0.0, "scale": scale} | attributes)
    return path


@pytest.fixture(scope="module")
def laion(tmp_path_factory):
    """Settings that name 108M images, as many as the paper has, and 10,000 held-out ones."""
    at = tmp_path_factory.mktemp("images")
    train, held_out = images(at / "train.h5", 108_000_000), images(at / "held-out.h5", 10_000)
    return [f"data.path={train}", f"validation.path={held_out}"]


def checks_of(*settings, launching=False):
    study = compose(list(settings))
    return {each.code: each for each in check_plan(study, plan_runs(study), launching)}


def warnings(found):
    return {code for code, each in found.items() if each.severity != "info"}


# ------------------------------------------------------------------------------------------- the paper's list of sizes

PAPER = ["study=paper-as-published", "~prior"]


def test_the_papers_list_of_sizes(laion):
    """Six budgets with 14 sizes each: 128x2 has 12 * 2 * 128^2 parameters, an image 256 + 77 + 1 tokens, a batch 1024
    images, and N* = 0.0009 C^0.5681."""
    found = checks_of(*PAPER, *laion)
    n = lambda depth: 12 * depth * (64 * depth) ** 2
    images_of = lambda budget, depth: budget / (6 * n(depth) * 334)
    optimum = lambda budget: 0.0009 * budget**0.5681
    budgets, depths = (1e17, 3e17, 6e17, 1e18, 3e18, 6e18), range(2, 16)
    cells = [(budget, depth) for budget in budgets for depth in depths]
    assert warnings(found) == {
        *("many_passes", "few_steps", "long_warmup", "many_steps", "costly_evaluation"),
        *("wide_grid", "one_sided_grid", "drifting_centring"),
    }
    assert found["many_passes"].value == pytest.approx(images_of(6e18, 2) / 108e6, rel=1e-3)  # 70.5
    assert len(found["many_passes"].runs) == sum(images_of(*cell) > 4 * 108e6 for cell in cells)
    assert found["many_steps"].value == round(images_of(6e18, 2) / 1024) == 7435709
    assert found["few_steps"].value == round(images_of(1e17, 15) / 1024) == 294
    assert found["long_warmup"].value == pytest.approx(100 / 294)
    # Per image 1 + 4 + 60 * 3 forward passes, each a third of a training step, of 10,000 images.
    assert found["costly_evaluation"].value == pytest.approx(10_000 * 185 / 3 / (294 * 1024), rel=1e-9)
    far = [cell for cell in cells if abs(math.log(n(cell[1]) / optimum(cell[0]))) > math.log(8)]
    assert found["wide_grid"].value == len(far) == 29 and "24% of the FLOPs and 87% of the images" in str(
        found["wide_grid"]
    )
    below, above = optimum(6e18) / n(2), n(15) / optimum(6e18)
    assert found["one_sided_grid"].value == pytest.approx(math.log(below) / math.log(above), rel=1e-3)
    # The middle of one list for all stays where it is, so against N* it drifts as N* does.
    assert found["drifting_centring"].value == pytest.approx(60**0.5681, rel=1e-6)
    assert found["exact_flops"].value == pytest.approx(1.48, abs=0.005) and "1.06 (960x15)" in str(found["exact_flops"])
    assert found["not_nested"].value == pytest.approx(0.45, abs=0.005)
    assert "probe_passes" not in found  # The runs' passes are said.


def test_each_cure_of_the_papers_list_cures(laion):
    found = checks_of(*PAPER, *laion)
    typed = lambda code: next(word for word in found[code].cure.replace(",  ", " ").split() if "=" in word).rstrip(",;")
    assert typed("wide_grid") == typed("drifting_centring").rstrip() and typed("wide_grid").startswith("widths=[[192,")
    left = checks_of(*PAPER, *laion, typed("wide_grid"))
    assert warnings(left) == set() and len(plan_runs(compose([*PAPER, typed("wide_grid")])).runs) == 46
    assert left["probe_passes"].value == pytest.approx(1.5e21 / (6 * 0.0009 * 1.5e21**0.5681 * 334) / 108e6, rel=0.15)
    for code in ("few_steps", "long_warmup", "costly_evaluation", "not_nested"):
        assert code in found and code not in checks_of(*PAPER, *laion, typed(code)), code
    assert "exact_flops" not in checks_of(*PAPER, *laion, typed("exact_flops"))


def test_a_repeated_cure_is_said_once(laion):
    lines = listed(list(checks_of(*PAPER, *laion).values()))
    assert (
        sum("widths=[[192" in line for line in lines) == 1 and sum(line.endswith("; as above") for line in lines) == 2
    )


# ------------------------------------------------------------------------------------------------------- other designs


def test_the_miniature_is_not_spoken_of():
    assert checks_of("study=mini") == {}


@pytest.mark.parametrize("name", ["paper", "abra"])
def test_shipped_studies_raise_no_warning(name, tmp_path):
    """With 108M images of their shapes."""
    data = compose([f"study={name}"]).data
    shape = {"channels": data.channels, "resolution": data.resolution, "text": (data.text_length, data.text_dim)}
    train = images(tmp_path / "train.h5", 108_000_000, **shape)
    held_out = images(tmp_path / "held-out.h5", 10_000, **shape)
    assert warnings(checks_of(f"study={name}", f"data.path={train}", f"validation.path={held_out}")) == set()


@pytest.mark.parametrize(
    ("settings", "code", "value"),
    [
        # Matrices of 160x7: 7 blocks of 12 * 160^2, and 160^2 + 118 * 160 around them; of 32x1 likewise.
        (
            ["~prior", "widths=[32,64,160]", "recipe.min_steps=1", "recipe.batch_size=1"],
            "wide_grid",
            (7 * 12 * 160**2 + 160**2 + 118 * 160) / (12 * 32**2 + 32**2 + 118 * 32),
        ),
        # The same sizes at budgets that are 256x apart: against C^.5 their middle drifts by 16.
        (["~prior", "budgets=[1e11,1.6e12,2.56e13]", "probe_budget=1e15"], "drifting_centring", 16),
        (["recipe.min_steps=1", "recipe.batch_size=64"], "few_steps", 89),  # 5680 images of 80x3 at 2e11.
        (["recipe.warmup_images=2840"], "long_warmup", 0.5),
        # On two data sets: 160 images of 60 * (1 + 2) forward passes, 256 of 1 and of 8, each a third of a step.
        (["evaluation.likelihood.n=160"], "costly_evaluation", 2 * (160 * 180 + 256 * 9) / 3 / 5680),
        (["nested=false"], "not_nested", 0.43),
        (["flops=6nd"], "exact_flops", 1 / 1.15),  # of 32x1, whose 6ND / C the plan's table has
        (["budgets=[2e11,4e11]"], "not_identified", None),
    ],
)
def test_a_miniature_made_worse(settings, code, value):
    found = checks_of("study=mini", *settings)
    assert code in found
    if value is not None:
        assert found[code].value == pytest.approx(value, rel=0.02)
    assert found[code].cure and found[code].severity == CODES[code]


def test_all_codes_are_explained():
    text = (ROOT / "docs" / "planning.md").read_text()
    assert dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE)) == CODES


def test_runs_whose_parents_are_lost():
    """A launch finds what is left of a nested study."""
    planned = plan_runs(study := compose(["study=mini"]))
    left = replace(planned, runs=tuple(run for run in planned.runs if run.within))
    assert len(left.runs) == 12 and not left.flops and check(study, left) == ()


def test_what_is_not_identified_is_the_laws_word():
    found = checks_of("study=mini", "budgets=[2e11,4e11]")["not_identified"]
    assert "two budgets" in found.message and found.cure.startswith("add N = ") and found.severity == "warning"


def test_the_published_law_is_for_latents_at_its_budgets():
    study = compose(PAPER)
    assert believed_optimum(study).at(1.5e21) == pytest.approx(958.3e6, rel=0.01)  # The paper's own prediction.
    assert believed_optimum(replace(study, budgets=(1e12, 1e13))) is None
    assert believed_optimum(compose(["study=mini", "~prior"])) is None
    prior = Prior(E=0.5, A=100.0, B=100.0, alpha=0.3, beta=0.3)
    assert believed_optimum(replace(study, prior=prior)).at(6e18) == pytest.approx(1e9)  # A = B: N* = D* = (C / 6)^.5


# ---------------------------------------------------------------------------------------------------------- data files


@pytest.fixture
def files(tmp_path):
    """Settings that name two good files, 2,000 and 64 images."""
    shape = {"resolution": 8, "text": (5, 6), "fill": True}
    train, held_out = images(tmp_path / "train.h5", 2000, **shape), images(tmp_path / "held.h5", 64, **shape)
    return train, held_out, [*TINY, f"data.path={train}", f"validation.path={held_out}"]


def again(path, **changes):
    """Write a file of images anew with some of it changed."""
    shape = {"n": 64, "resolution": 8, "text": (5, 6), "fill": True} | changes
    return images(path, **shape)


def test_passes_over_the_images_of_a_file(files):
    *_, settings = files
    runs = plan_runs(compose(settings)).runs
    longest = max(run.n_images for run in runs)
    found = checks_of(*settings)["many_passes"]
    assert found.value == longest / 2000 and found.severity == "warning"
    assert len(found.runs) == sum(run.n_images > 8000 for run in runs)


def test_missing_files_are_a_warning_with_what_to_type(files):
    train, held_out, settings = files
    held_out.unlink()
    found = checks_of(*settings)["data_missing"]
    assert found.severity == "warning" and f"validation.path={held_out}" in found.message
    assert "data.path=" not in found.message.split("validation.path")[0] and "validation.path=FILE" in found.cure
    train.unlink()
    both = checks_of(*settings)["data_missing"]
    assert "set data.path=FILE validation.path=FILE" in both.cure
    assert both.value == max(run.n_images for run in plan_runs(compose(settings)).runs)
    # Runs of this machine cannot start without them; those of a cluster may find them there.
    assert checks_of(*settings, launching=True)["data_missing"].severity == "error"
    elsewhere = checks_of(*settings, "cluster=slurm-cpu", launching=True)["data_missing"]
    assert elsewhere.severity == "warning"


def no_hdf5(path):
    path.write_bytes(b"nothing" * 100)


def truncated(path):
    path.write_bytes(path.read_bytes()[:4000])


def changed(name, value):
    def change(path):
        with h5py.File(path, "r+") as file:
            if name in file:
                del file[name]
            if value is h5py.Group:
                file.create_group(name)
            elif name in ("shift", "scale"):
                file.attrs[name] = value
            else:
                file[name] = value

    return change


WORDS = np.array([[1, 2]] * 64)
DAMAGES = {
    "no HDF5": (no_hdf5, "not HDF5"),
    "truncated": (truncated, "not HDF5, or is truncated"),
    "a group": (changed("latents", h5py.Group), "latents is no dataset"),
    "oblong": (changed("latents", np.zeros((64, 4, 8, 6), "f2")), "8 x 6 are not square"),
    "flat": (changed("latents", np.zeros((64, 256), "f2")), "latents is float16 [64, 256]"),
    "complex": (changed("latents", np.zeros((64, 4, 8, 8), "c8")), "latents is complex64"),
    "fewer texts": (changed("text", np.zeros((63, 5, 6), "f2")), "64 latents but 63 texts"),
    "texts in words": (changed("text", np.array([[b"a"]] * 64)), "text is |S1"),
    "captions of numbers": (changed("captions", WORDS[:, 0]), "captions is not text [n]"),
    "captions in columns": (changed("captions", np.array([[b"a", b"b"]] * 64)), "captions is not text [n]"),
    "scale 0": (changed("scale", 0.0), "make no images"),
    "scale per channel": (changed("scale", np.ones(4)), "scale is not one number"),
    "scale in words": (changed("scale", "one"), "scale is not one number"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_errors(files, damage):
    train, held_out, settings = files
    how, says = DAMAGES[damage]
    how(held_out)
    found = checks_of(*settings)["data_file"]
    assert found.severity == "error" and says in found.message and found.message.startswith("validation.path: ")
    assert found.cure


@pytest.mark.parametrize(
    ("of", "changes", "code", "says", "cure"),
    [
        ("train", {"n": 2000, "channels": 16}, "data_shapes", "channels is 16, and 4 in the study", "data.channels=16"),
        ("train", {"n": 2000, "resolution": 16}, "data_shapes", "resolution is 16", "data.resolution=16"),
        ("train", {"n": 2000, "text": (120, 6)}, "data_shapes", "text_length is 120", "data.text_length=120"),
        ("train", {"n": 2000, "text": (5, 7)}, "data_shapes", "text_dim is 7", "data.text_dim=7"),
        ("held", {"text": (4, 7)}, "data_shapes", "text_dim is 7, and 6", "data.text_length=4 data.text_dim=7"),
        ("train", {"n": 15}, "too_few_images", "holds 15 images, fewer than the 16 of one batch", "recipe.batch_size"),
        ("held", {"n": 31}, "too_few_images", "holds 31 images, fewer than 32", "validation.n=31"),
        ("held", {"scale": 0.18215}, "unlike_files", "scale 0.18215", "the same shift and scale"),
        ("held", {"vae": "sd3"}, "unlike_files", "its vae is sd3", "encode"),
    ],
)
def test_files_that_do_not_fit_are_errors(files, of, changes, code, says, cure):
    train, held_out, settings = files
    again(train, n=2000, vae="sd1")
    again(train if of == "train" else held_out, **{"vae": "sd1"} | changes)
    found = checks_of(*settings)
    assert found[code].severity == "error" and says in found[code].message and cure in found[code].cure
    assert [each.code for each in found.values() if each.severity == "error"] == [code]


def test_more_images_than_a_metric_finds(files):
    *_, settings = files
    found = checks_of(*settings, "+evaluation.vlb.n=65")["too_few_images"]
    assert "holds 64 images, fewer than 65" in found.message and found.cure == "set evaluation.vlb.n=64"


def test_held_out_images_that_are_trained_on(files):
    train, held_out, settings = files
    held_out.unlink()
    held_out.symlink_to(train)
    assert checks_of(*settings)["held_out_is_training"].severity == "warning"


def test_other_data_sets_are_checked_too(files, tmp_path):
    *_, settings = files
    shape = dict(word.removeprefix("data.").split("=") for word in SHAPES)
    coco = again(tmp_path / "coco.h5", n=20)
    known = ", ".join(f"{key}: {n}" for key, n in shape.items())
    also = f"+validation.also={{coco: {{name: coco, source: latents, path: {coco}, {known}}}}}"
    assert "validation.also.coco.path" in checks_of(*settings, also)["too_few_images"].message


def test_a_rehearsal_reads_no_images(files):
    train, _, settings = files
    train.unlink()
    study = replace(compose(settings), rehearsal=Rehearsal(0.2, 10, 10, 0.3, 0.3))
    assert "data_missing" not in {each.code for each in check(study, plan_runs(study))}


# --------------------------------------------------------------------------------------------------------------- verbs


def test_an_error_refuses_and_writes_nothing(files, tmp_path):
    train, _, settings = files
    again(train, channels=16)
    for plan in (lambda: plan_study(tmp_path / "s", settings), lambda: ds.plan(*settings)):
        with pytest.raises(UserError, match="channels is 16, and 4 in the study; set data.channels=16"):
            plan()
    assert not (tmp_path / "s").exists()
    again(train, n=2000)
    plan_study(tmp_path / "s", settings)
    again(train, channels=16)
    with pytest.raises(UserError, match="channels is 16"):
        plan_study(tmp_path / "s")
    assert "data_shapes" in {each["code"] for each in ds.Study.open(tmp_path / "s").plan().checks}  # only shows


@pytest.mark.slow
def test_verbs_say_the_same(files, tmp_path, ditscale, one_line_error):
    """plan, its JSON, ds.plan and launch; a launch without its data starts nothing."""
    train, _, settings = files
    found = checks_of(*settings)
    printed = ditscale("plan", "--dry-run", *settings).stdout
    assert all(str(each) in printed for each in found.values()) and "many_passes" in found
    value = json.loads(ditscale("plan", "s", *settings, "--json", cwd=tmp_path).stdout)
    assert {each["code"]: each["value"] for each in value["checks"]} == {c: each.value for c, each in found.items()}
    assert [each["code"] for each in ds.plan(*settings).checks] == [each["code"] for each in value["checks"]]
    before = (tmp_path / "s" / "study.yaml").read_text()
    train.rename(tmp_path / "elsewhere.h5")
    for words in (["launch", "s", "cluster.threads=2"], ["study", "s"]):
        done = ditscale(*words, cwd=tmp_path)
        assert done.returncode == 2 and "no such file here" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "s" / "study.yaml").read_text() == before
    assert not list((tmp_path / "s" / "runs").glob("*/metrics.h5"))
    again(train, channels=16)
    for words in (["plan", "--dry-run"], ["study", "t"]):
        done = ditscale(*words, *settings, cwd=tmp_path)
        assert "channels is 16, and 4 in the study" in one_line_error(done) and not done.stdout
    assert not (tmp_path / "t").exists()


def test_a_plan_that_is_checked_loads_no_torch(files):
    *_, settings = files
    code = f"import sys; import ditscale as ds; ds.plan(*{settings}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr


# --------------------------------------------------------------------------------------------------------------- Slurm


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A function that puts a scontrol and a sacctmgr of given text on the PATH, which holds nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def put(**programs):
        for name, text in programs.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / "bin" / name).chmod(0o755)

    return put


SLURM = ["study=mini", "cluster=slurm-cpu", "nested=false"]  # 18 jobs
LIMITS = "echo 'physics|'; echo 'chemistry|12'"


def test_a_plan_needs_no_slurm(slurm):
    assert {*checks_of(*SLURM)} == {"not_nested"}


def test_limits_of_slurm(slurm):
    slurm(scontrol="echo 'MaxArraySize            = 7'", sacctmgr=LIMITS)
    found = checks_of(*SLURM)
    assert found["array_split"].value == 18 and "at least 3 arrays" in found["array_split"].message
    assert found["queue_limit"].severity == "warning" and found["queue_limit"].cure == "set cluster.max_queued=12"
    assert "queue_limit" not in checks_of(*SLURM, "cluster.account=physics")
    limited = checks_of(*SLURM, "cluster.max_queued=5")
    assert "4 launches" in limited["several_launches"].message and "queue_limit" not in limited
    assert {*checks_of("study=mini", "cluster=slurm-cpu")} == set()  # 6 jobs, since nested runs are none
    assert not checks_of("study=mini")  # nobody asked for Slurm


@pytest.mark.parametrize("scontrol", ["exit 1", "exec /bin/sleep 60"], ids=["fails", "silent"])
def test_a_slurm_without_answer_is_not_waited_for(slurm, monkeypatch, tmp_path, scontrol):
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.2)
    slurm(scontrol=scontrol, sacctmgr=f"echo asked > {tmp_path}/asked; {LIMITS}")
    assert {*checks_of(*SLURM)} == {"not_nested"}
    assert not (tmp_path / "asked").exists()
    assert os.environ["PATH"] == str(tmp_path / "bin")
