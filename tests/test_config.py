import dataclasses

import pytest
import yaml

from ditscale.config import Recipe, Study, build, compose, dump_yaml, plain, read_yaml
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
    (["validation.also.ood.resolution=24"], "a model is evaluated on images and captions of its own shape"),
    (["design.qk_norm=3"], "not true or false"),
    (["cluster.workers=-1"], "at least 0"),
    (["flops=exactly"], "choose one of: exact, 6nd"),
    (["study=paper", "validation.path="], "validation.path"),
    (["nonsense"], "nonsense"),
]


@pytest.mark.parametrize("overrides, says", BAD, ids=lambda x: x[0] if isinstance(x, list) else "")
def test_bad_settings_are_one_line(overrides, says):
    with pytest.raises(UserError) as error:
        compose(overrides)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_study_survives_its_file(tmp_path):
    study = compose(["study=paper"])
    (tmp_path / "study.yaml").write_text(dump_yaml(plain(study)))
    assert build(Study, read_yaml(tmp_path / "study.yaml"), "study") == study


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
        compose([]).recipe.clip = 2


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: {c: 2, d: [1, 2]}\ne:\n  f: x\n  g: [1.0e+9, two]\n# said\nh: null\n",
        "a: &one {b: 1}\nc: *one\n",  # read as a whole: a block alone means nothing
        "a: |\n  text\n  b: no key\n'quoted': 1\n",
        "---\na: 1\nb: 2\n",
        "a:\n- 1\n- b: 2\n",
        "a: 1\na: 2\n",
    ],
)
def test_files_read_block_by_block_say_what_yaml_says(tmp_path, text):
    from ditscale.config import read_yaml

    path = tmp_path / "x.yaml"
    path.write_text(text)
    expected = yaml.safe_load(text)
    for _ in range(2):
        found = read_yaml(path)
        assert found == expected
        for value in found.values():  # what a caller does to it stays with the caller
            if isinstance(value, dict):
                value.clear()
