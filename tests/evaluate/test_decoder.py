"""The decoder of a VAE against diffusers' own, and FID of a run on latents.

vae/ was written by diffusers 0.42.1: an AutoencoderKL of random weights (seed 0), by its save_pretrained; decoded.npz
has two random latents and what its decode made of them.
"""

import json
import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ditscale.cli import main
from ditscale.config import Evaluation
from ditscale.distributed.ranks import Ranks
from ditscale.errors import UserError
from ditscale.evaluate.decoder import CONFIG, WEIGHTS, load_decoder, read_safetensors
from ditscale.evaluate.extractor import load_extractor
from ditscale.laws import read_table
from ditscale.plan.run import read_run
from ditscale.rundir.evaluation import read_results
from ditscale.rundir.record import read_state

VAE = Path(__file__).with_name("vae")
CPU = torch.device("cpu")
DECODED = np.load(VAE / "decoded.npz")


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]):
    """The format as its authors describe it."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * 2
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(
        len(text).to_bytes(8, "little")
        + text
        + b"".join(t.half().contiguous().numpy().tobytes() for t in tensors.values())
    )


def test_pictures_are_those_of_diffusers():
    decoder = load_decoder(VAE, CPU)
    assert decoder.full_name.startswith("vae ")
    made = decoder(torch.from_numpy(DECODED["latents"]))
    np.testing.assert_allclose(made, DECODED["pictures"], atol=2e-5)
    twenty = decoder(torch.from_numpy(DECODED["latents"]).repeat(10, 1, 1, 1))  # more than are decoded at once
    np.testing.assert_allclose(twenty[-2:], made, atol=1e-5)


def test_a_file_of_2022(tmp_path):
    """With the names that an attention's matrices had then, kept as convolutions."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = read_safetensors(VAE / WEIGHTS, ("",))
    renamed = {}
    for name, tensor in tensors.items():
        for new, then in old.items():
            if f".{new}." in name:
                name, tensor = (
                    name.replace(f".{new}.", f".{then}."),
                    tensor[..., None, None] if tensor.dim() == 2 else tensor,
                )
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    shutil.copy(VAE / CONFIG, tmp_path)
    write_safetensors(tmp_path / WEIGHTS, renamed)
    made = load_decoder(tmp_path, CPU)(torch.from_numpy(DECODED["latents"]))
    np.testing.assert_allclose(made, DECODED["pictures"], atol=2e-5)


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda vae: (vae / WEIGHTS).unlink(), "there is no diffusion_pytorch_model.safetensors in it"),
        (lambda vae: (vae / CONFIG).write_text("{}"), "is not that of an AutoencoderKL"),
        (
            lambda vae: (vae / WEIGHTS).write_bytes((vae / WEIGHTS).read_bytes()[:-100]),
            "is truncated or not a safetensors file",
        ),
        (lambda vae: (vae / WEIGHTS).write_bytes(b"\xff" * 100), "is truncated or not a safetensors file"),
        (lambda vae: change(vae, block_out_channels=[4, 8]), "does not fit config.json"),
        (lambda vae: change(vae, up_block_types=["AttnUpDecoderBlock2D"]), "up_block_types is 'AttnUpDecoderBlock2D'"),
        (
            lambda vae: change(vae, act_fn="relu"),
            "act_fn is 'relu' in its config.json; ditscale reads VAEs with 'silu' only",
        ),
    ],
)
def test_another_network_or_none(tmp_path, spoil, said):
    vae = tmp_path / "vae"
    shutil.copytree(VAE, vae)
    spoil(vae)
    with pytest.raises(UserError, match=said) as error:
        load_decoder(vae, CPU)
    assert "\n" not in str(error.value)


def change(vae, **settings):
    (vae / CONFIG).write_text(json.dumps(json.loads((vae / CONFIG).read_text()) | settings))


def settings_of(root):
    shapes = [
        "data=latents",
        "data.channels=4",
        "data.resolution=4",
        "data.text_length=2",
        "data.text_dim=8",
        "design.patch=2",
    ]
    small = ["~validation.also", "budgets=[1e9]", "widths=[16]", "recipe.min_steps=10", "validation.n=64"]
    return [
        "study=mini",
        "nested=false",
        *shapes,
        *small,
        f"data.path={root}/train.h5",
        f"validation.path={root}/held-out.h5",
    ]


@pytest.fixture(scope="module")
def latents(tmp_path_factory, ditscale):
    """A small run trained on latents: its directory, and its held-out file, which has captions and pictures."""
    root = tmp_path_factory.mktemp("latents")
    g = np.random.default_rng(0)
    for name, n in (("train", 3000), ("held-out", 200)):
        with h5py.File(root / f"{name}.h5", "w") as file:
            file["latents"] = g.normal(2, 3, (n, 4, 4, 4)).astype("f2")
            file["text"] = g.normal(0, 1, (n, 2, 8)).astype("f2")
            file["captions"] = [f"picture {i}" for i in range(n)]
            file["pictures"] = g.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
            file.attrs.update({"shift": 2.0, "scale": 1 / 3})
    study = root / "study"
    planned = ditscale("plan", study, *settings_of(root), "~evaluation")
    assert planned.returncode == 0, planned.stderr
    assert ditscale("launch", study).returncode == 0
    return next(study.glob("runs/*")), root / "held-out.h5"


@pytest.mark.slow
def test_held_out_files_that_do_not_fit(latents, tmp_path, capsys):
    """Told before a run is trained, or anything is measured; nothing is written."""
    run, file = latents
    words = (run / "run.yaml").read_text()
    (tmp_path / "run").mkdir()

    def refused(verb, *changes):
        changed = words
        for old, new in changes:
            assert old in changed
            changed = changed.replace(old, new)
        (tmp_path / "run" / "run.yaml").write_text(changed)
        assert main([verb, str(tmp_path / "run")]) == 2
        assert not list(tmp_path.glob("run/*.h5"))
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert f"{file}: holds 200 images, fewer than 201; use validation.n=200" in refused(
        "run", ("\n  n: 64\n", "\n  n: 201\n")
    )
    other = tmp_path / "other.h5"
    other.write_bytes(file.read_bytes())
    train = file.parent / "train.h5"
    for path, encoder in ((train, "t5-base"), (other, "clip-l")):
        with h5py.File(path, "a") as changed:
            changed.attrs["text_encoder"] = encoder
    said = "its text_encoder is clip-l, but the run's own data was encoded with t5-base; encode"
    assert said in refused("run", (str(file), str(other)))
    with h5py.File(train, "a") as changed:
        del changed.attrs["text_encoder"]


@pytest.mark.slow
def test_fid_of_latents(latents, inception, cache, capsys):
    run, file = latents
    words = [
        "evaluate",
        str(run),
        "--metrics",
        "fid",
        "--n",
        "24",
        "--few",
        "--steps",
        "2",
        "--sampler",
        "euler",
        "--samples",
        "3",
    ]

    def refused(*more):
        assert main([*words, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "is latents, and FID needs pictures; name the directory of their VAE with --decoder DIR" in refused()
    assert "the caption-reader learns from pictures" in refused("--decoder", str(VAE))
    words += ["--extractor", "inception-v3-compat", "--weights", str(inception)]
    assert "there is no config.json in it" in refused("--decoder", str(VAE.parent))
    assert not (run / "evaluation.h5").exists()

    words += ["--decoder", str(VAE)]
    before = set(cache.glob("reference-*.npz"))
    assert main(words) == 0
    (found,) = read_results(run / "evaluation.h5")
    assert found.settings["reference"] == "pictures of the file" and found.settings["decoder"].startswith("vae ")
    with h5py.File(run / "evaluation.h5") as made, h5py.File(file) as held:
        assert made["samples/generated"].shape == (3, 16, 16, 3) and made["samples/generated"].dtype == np.uint8
        captions = made["samples/captions"].asstr()[:]
        numbers = [int(caption.split()[1]) for caption in captions]  # the order is a shuffle; captions tell which
        np.testing.assert_array_equal(
            made["samples/reference"][:], held["pictures"][sorted(numbers)][np.argsort(np.argsort(numbers))]
        )
        everything, latent = held["pictures"][:], held["latents"][:].astype("f4")
    (reference,) = set(cache.glob("reference-*.npz")) - before
    how = Evaluation(extractor="inception-v3-compat", weights=str(inception))
    features, _, _ = load_extractor(how, read_run(run / "run.yaml").data, Ranks(0, 1, CPU))
    theirs = features(torch.from_numpy(everything[numbers]).permute(0, 3, 1, 2))
    np.testing.assert_allclose(np.load(reference)["features"][:3], theirs, rtol=1e-3, atol=1e-3 * theirs.std())

    with h5py.File(file, "r+") as held:  # where nobody has kept the pictures
        del held["pictures"]
    (run / "evaluation.h5").unlink()
    assert main(words) == 0
    assert found.se > 0 and found.value > 3 * found.se
    (found,) = read_results(run / "evaluation.h5")
    assert found.settings["reference"] == "decoded latents" and math.isfinite(found.value)
    with h5py.File(run / "evaluation.h5") as made:
        decoded = load_decoder(VAE, CPU)(torch.from_numpy(latent[numbers]))
        expected = ((decoded + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
        assert np.abs(made["samples/reference"][:].astype(int) - expected.numpy()).max() <= 1
        assert made["samples/reference"][:].std() > 20


@pytest.mark.slow
def test_a_data_set_the_study_did_not_name(latents, tmp_path, capsys):
    """Measured on when the run is long finished, and in the study's table; another file of the same name is another
    data set."""
    run, held_out = latents
    ood, study = tmp_path / "coco.h5", run.parent.parent

    def write(path, n=64, shape=(4, 4, 4), spread=3.0):
        g = np.random.default_rng(7)
        with h5py.File(path, "w") as file:
            file["latents"] = g.normal(2, spread, (n, *shape)).astype("f2")
            file["text"] = g.normal(0, 1, (n, 2, 8)).astype("f2")
            file.attrs.update({"shift": 2.0, "scale": 1 / 3})

    def evaluated(*words):
        assert main(["evaluate", str(run), "--samples", "0", *words]) == 0
        return capsys.readouterr().out

    def refused(*words):
        assert main(["evaluate", str(run), "--samples", "0", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    write(ood, shape=(4, 6, 6))
    for words, said in {
        f"coco={tmp_path}/none.h5": f"--dataset coco={tmp_path}/none.h5: there is no such file",
        f"coco={ood}": "coco: resolution is 6, but the model is trained on 4",
        f"latents={ood}": "latents is a data set of the run's study; give the file another label",
        f"se={ood}": "a label is of letters", f"a b={ood}": "a label is of letters", "coco=": "there is no such file",
    }.items():  # fmt: skip
        assert said in refused("--metrics", "val_loss,vlb", "--dataset", words)
    assert "--dataset coco: given twice" in refused("--dataset", f"coco={ood}", "--dataset", "coco=other.h5")
    write(ood)
    assert "holds 64 images, fewer than 65" in refused("--dataset", f"coco={ood}", "--n", "65")
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before

    asked = "--metrics", "val_loss,vlb", "--dataset", f"coco={ood}"
    assert "  0 samples\n" in evaluated(*asked) and "2 of 2 results were measured before" in evaluated(*asked)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    shutil.copy(ood, elsewhere / "renamed.h5")
    assert "2 of 2 results were measured before" in evaluated(*asked[:3], f"coco={elsewhere}/renamed.h5")
    found = {(r.metric, r.dataset): r for r in read_results(run / "evaluation.h5")}
    assert main(["collect", str(study)]) == 0
    table = read_table(study, "val_loss_coco", also=("vlb_coco", "loss_se_coco"))
    assert (table.metric, table.loss[0]) == ("loss_coco", found["val_loss", "coco"].value)
    assert table.columns["vlb_coco"][0] == found["vlb", "coco"].value and table.columns["loss_se_coco"][0] > 0
    # the record's own losses are as they were, and a study's own data set is read from the file it names
    evaluated("--metrics", "val_loss", "--dataset", "latents")
    own = next(
        r.value for r in read_results(run / "evaluation.h5") if r.metric == "val_loss" and r.dataset == "latents"
    )
    assert own == pytest.approx(read_table(study).loss[0], rel=1e-6) and own != pytest.approx(
        found["val_loss", "coco"].value, rel=1e-3
    )

    write(ood, spread=4.0)
    again = evaluated(*asked)
    assert "measured before" not in again
    losses = {
        r.settings["file"]: r.value
        for r in read_results(run / "evaluation.h5")
        if (r.metric, r.dataset) == ("val_loss", "coco")
    }
    old = found["val_loss", "coco"]
    assert (
        len(losses) == 2 and losses.pop(old.settings["file"]) == old.value and next(iter(losses.values())) > old.value
    )


@pytest.mark.slow
def test_a_study_of_latents_that_asks_for_fid(latents, inception, tmp_path, ditscale):
    """Refused without a VAE to look through, or with an extractor that learns from pictures; else a run has it at its
    end."""
    study, settings = tmp_path / "study", [*settings_of(latents[1].parent), "~evaluation.vlb", "~evaluation.likelihood"]

    def plan(*words):
        return ditscale("plan", study, *settings, *words)

    refused = plan()
    assert (
        refused.returncode == 2 and "name the directory of their VAE with +evaluation.fid.decoder=DIR" in refused.stderr
    )
    settings.append(f"+evaluation.fid.decoder={VAE}")
    refused = plan()
    assert refused.returncode == 2 and "+evaluation.fid.extractor=clip-vit-l-14" in refused.stderr
    assert not study.exists()
    settings += ["+evaluation.fid.extractor=inception-v3-compat", "evaluation.fid.n=24", "evaluation.fid.steps=2"]
    assert plan("+evaluation.fid.weights=/none.pth").returncode == 0
    refused = ditscale("launch", study)
    assert "the file of its weights is missing (/none.pth)" in refused.stdout + refused.stderr
    assert plan(f"+evaluation.fid.weights={inception}").returncode == 0
    done = ditscale("launch", study)
    assert done.returncode == 0, done
    (run,) = study.glob("runs/*")
    (found,) = read_results(run / "evaluation.h5")
    assert (
        (found.metric, found.n) == ("fid", 24)
        and found.settings["decoder"].startswith("vae ")
        and math.isfinite(found.value)
    )
    assert read_state(run / "metrics.h5") == "finished"
