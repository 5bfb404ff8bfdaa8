import dataclasses

import pytest
import yaml

from ditscale.config import Evaluation, Recipe, Size, Study, build, changed, check, compose, dump_yaml, plain, read
from ditscale.errors import UserError

BAD = [  # overrides, and what the one line must say
    (["study=minni"], "did you mean 'mini'"),
    (["design=unet"], "choose one of: crossattention, incontext"),
    (["recipe.batchsize=3"], "did you mean 'recipe.batch_size'"),
    (["recipe.batch_size=abc"], "'abc' is not a number"),
    (["recipe.batch_size=2.5"], "not a whole number"),
    (["recipe.schedule=linear"], "choose one of: constant, cosine, wsd"),
    (["recipe.clip=-1"], "must be above 0"),
    (["design.head_size=7"], "not a multiple of the head size 7"),
    (["budgets=[3e11,1e11]", "widths=[32]"], "from small to large"),
    (["budgets=[]"], "the list is empty"),
    (["budgets=5e11", "widths=[32]"], "is not a list"),
    (["budgets=[1e11,2e11]", "widths=[[32]]"], "one list of widths"),
    (["probe_budget=1e9"], "not above the largest budget"),
    (["design.patch=5"], "not a multiple of the patch 5"),
    (["validation.also.ood.resolution=24"], "scenes-ood: resolution is 24, but the model is trained on 12"),
    (["design.qk_norm=3"], "not true or false"),
    (["cluster.workers=-1"], "at least 0"),
    (["flops=exactly"], "choose one of: exact, 6nd"),
    (["study=paper", "validation.path="], "validation.path"),
    (["nonsense"], "nonsense"),
    (["seeds=[0,0]"], "study.seeds: [0, 0]: give each seed once"),
    (["seeds=[1e30]"], "too large"),
    (["widths=[32,32]"], "give each width of a budget once"),
    (["budgets=[2e11,4e11]", "widths=[[32,40],[]]"], "and at least one"),
    (["recipe=3"], "recipe=3: is not the name of a file in configs/recipe/"),
    (["data=latents"], "data.path: missing; give data.path=VALUE"),
    (["study=mini", "study=nope"], "study=nope: there is no such study"),
    (["recipe.batch_size=8,16"], "recipe.batch_size=8,16: several values; give one"),
    (["validation.n=1e300"], "too large"),
    (["cluster.threads=1e9"], "too large"),
    (["recipe.width_scaling=mup"], "recipe.base_width=256"),
]


@pytest.mark.parametrize("overrides, says", BAD, ids=lambda x: x[0] if isinstance(x, list) else "")
def test_bad_settings_are_one_line(overrides, says):
    named = overrides if any(word.startswith("study=") for word in overrides) else ["study=mini", *overrides]
    with pytest.raises(UserError) as error:
        compose(named)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_study_survives_its_file(tmp_path):
    study = compose(["study=paper"])
    (tmp_path / "study.yaml").write_text(dump_yaml(plain(study)))
    assert read(Study, tmp_path / "study.yaml") == study


@pytest.mark.parametrize("x", [1e17, 6e18, 1.5e21, 0.1 + 0.2, 1e-5, 123456789.0, 1.0, 0.0, -2.5e-7])
def test_floats_survive_yaml_in_any_reader(x):
    assert yaml.safe_load(dump_yaml({"x": x}))["x"] == x


def test_numbers_as_text_are_numbers():
    recipe = build(Recipe, {"aspect": "16", "batch_size": "1e3", "lr_scale": "3e-1"}, "recipe")
    assert (recipe.aspect, recipe.batch_size, recipe.lr_scale) == (16.0, 1000, 0.3)


def test_missing_and_unknown_keys():
    with pytest.raises(UserError, match="the key 'batch_size' is missing"):
        build(Recipe, {"aspect": 16, "lr_scale": 1}, "recipe")
    with pytest.raises(UserError, match="unknown key 'lr'"):
        build(Recipe, {"aspect": 16, "batch_size": 4, "lr_scale": 1, "lr": 1}, "recipe")


def test_users_own_configs(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("aspect: 8\nbatch_size: 8\nlr_scale: 0.1\n")
    assert compose(["study=mini", "recipe=mine"], tmp_path).recipe.aspect == 8
    with pytest.raises(UserError, match="no such directory"):
        compose([], tmp_path / "nowhere")


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        compose(["study=mini"]).recipe.clip = 2


SIZE = "up_to_params: 1e9\nflops_per_s: {speed}\n"


@pytest.mark.parametrize(
    "text",
    [
        SIZE.format(speed="1.0e+14"),
        SIZE.format(speed="1e14") + "gpus: 8\n",  # text to YAML's reader, a number to ours
        SIZE.format(speed='"1e14"  # measured') + "nodes:\n  2\n",
        SIZE.format(speed="&fast 1.0e+14") + "gpus: 1\n",
        "---\n" + SIZE.format(speed="1.0e+14"),
        "{up_to_params: 1.0e+9, flops_per_s: 1.0e+14}\n",
        SIZE.format(speed="2.0") + "flops_per_s: 1.0e+14\n",  # YAML's reader takes the last
    ],
)
def test_files_read_key_by_key_say_what_yaml_says(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    found = read(Size, tmp_path / "x.yaml")
    assert found == build(Size, yaml.safe_load(text), "x") and found.flops_per_s == 1e14
    assert type(found.gpus) is int and type(found.flops_per_s) is float


@pytest.mark.parametrize(
    "text, says",
    [
        (SIZE.format(speed="fast"), "x.yaml.flops_per_s: 'fast' is not a number"),
        (SIZE.format(speed="-1"), "x.yaml.flops_per_s: -1 is too small"),
        (SIZE.format(speed="1e14") + "gpu: 1\n", "x.yaml: unknown key 'gpu'"),
        (SIZE.format(speed="1e14") + "gpus: 1.5\n", "x.yaml.gpus: 1.5 is not a whole number"),
        (SIZE.format(speed="1.2.3"), "x.yaml.flops_per_s: '1.2.3' is not a number"),
        ("up_to_params: 1e9\n", "x.yaml: the key 'flops_per_s' is missing"),
        (SIZE.format(speed="[1"), "x.yaml, line 3: not valid YAML"),
        ("- 1\n", "x.yaml: holds no keys"),
        ("", "x.yaml: holds no keys"),
    ],
)
def test_a_wrong_file_says_where(tmp_path, text, says):
    (tmp_path / "x.yaml").write_text(text)
    for _ in range(2):
        with pytest.raises(UserError) as error:
            read(Size, tmp_path / "x.yaml")
        assert says in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "x.yaml").write_bytes(b"up_to_params: 1e9 # \xff\n")
    with pytest.raises(UserError, match="x.yaml: is not UTF-8 text"):
        read(Size, tmp_path / "x.yaml")
    with pytest.raises(UserError, match="nothing.yaml: cannot be read"):
        read(Size, tmp_path / "nothing.yaml")


def test_what_is_replaced_is_checked_like_what_is_read():
    """Limits and combinations of a dataclass that no file made, at any depth, named as an option or as a key."""
    study = compose(["study=mini"])
    check(study, "study")
    check(Evaluation(n=2), "")
    replace = dataclasses.replace
    for wrong, where, says in (
        (Evaluation(n=1), "", "--n: 1 image"),
        (Evaluation(t_min=2.0), "", "--t-min: 2.0 is too large; at most 0.5"),
        (Evaluation(sampler="ddim"), "fid", "fid.sampler: 'ddim' is not known; choose one of: heun, euler"),
        (replace(study, seeds=(-1,)), "study", "study.seeds[0]: -1 is too small"),
        (replace(study, recipe=replace(study.recipe, clip=0.0)), "study", "study.recipe.clip: 0.0 is too small"),
        (replace(study, widths=((32,), (30.5,))), "study", "study.widths[1][0]: 30.5 is not a whole number"),
        (replace(study, evaluation={"fid": Evaluation(steps=0)}), "study", "study.evaluation.fid.steps: 0 is too"),
        (replace(study, cluster=replace(study.cluster, gpus=-1)), "study", "study.cluster.gpus: -1 is too small"),
    ):
        with pytest.raises(UserError) as error:
            check(wrong, where)
        assert says in str(error.value)


def test_a_clusters_own_settings():
    """Those that are not mentioned stay as they were; cluster=NAME takes another."""
    there = compose(["study=mini", "cluster=slurm", "cluster.partition=gpu", "+cluster.sbatch.qos=long"]).cluster
    assert changed(there, ["study=mini", "recipe.clip=2"]) == there
    other = changed(there, ["cluster.parallel=4", "+cluster.sbatch.exclusive=''"])
    assert other == dataclasses.replace(there, parallel=4, sbatch={"qos": "long", "exclusive": ""})
    assert changed(there, ["cluster=local"]) == compose(["study=paper"]).cluster
    with pytest.raises(UserError, match="study.cluster.margin"):
        changed(there, ["cluster.margin=-1"])
