"""The decoder of a VAE against diffusers' own, and FID of a run on latents.

vae/ was written by diffusers 0.42.1: an AutoencoderKL of random weights (seed 0), by its save_pretrained; decoded.npz has two
random latents and what its decode made of them.
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
from ditscale.errors import UserError
from ditscale.evaluate.decoder import CONFIG, WEIGHTS, load_decoder, read_safetensors
from ditscale.evaluate.extractor import extractor
from ditscale.plan.run import read_run
from ditscale.store.evaluation import read_results
from ditscale.train.ranks import Ranks

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
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(t.half().contiguous().numpy().tobytes() for t in tensors.values()))


def test_pictures_are_those_of_diffusers():
    decoder = load_decoder(VAE, CPU)
    assert decoder.factor == 4 and decoder.full_name.startswith("vae ")
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
                name, tensor = name.replace(f".{new}.", f".{then}."), tensor[..., None, None] if tensor.dim() == 2 else tensor
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
        (lambda vae: (vae / WEIGHTS).write_bytes((vae / WEIGHTS).read_bytes()[:-100]), "is truncated or no safetensors file"),
        (lambda vae: (vae / WEIGHTS).write_bytes(b"\xff" * 100), "is truncated or no safetensors file"),
        (lambda vae: change(vae, block_out_channels=[4, 8]), "does not fit config.json"),
        (lambda vae: change(vae, up_block_types=["AttnUpDecoderBlock2D"]), "blocks of kind 'AttnUpDecoderBlock2D'"),
        (lambda vae: change(vae, act_fn="relu"), "act_fn is 'relu' in its config.json; this decoder has 'silu' alone"),
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
    shapes = ["data=latents", "data.channels=4", "data.resolution=4", "data.text_length=2", "data.text_dim=8", "design.patch=2"]
    settings = ["study=mini", "~evaluation", "nested=false", *shapes, "~validation.also", "budgets=[1e9]", "widths=[16]", "recipe.min_steps=10", "validation.n=64"]
    planned = ditscale("plan", study, *settings, f"data.path={root}/train.h5", f"validation.path={root}/held-out.h5")
    assert planned.returncode == 0, planned.stderr
    assert ditscale("launch", study).returncode == 0
    return next(study.glob("runs/*")), root / "held-out.h5"


@pytest.mark.slow
def test_fid_of_latents(latents, inception, cache, capsys):
    run, file = latents
    words = ["evaluate", str(run), "--metrics", "fid", "--n", "24", "--few", "--steps", "2", "--sampler", "euler", "--samples", "3"]

    def refused(*more):
        assert main([*words, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "is latents, and an extractor wants pictures; name the directory of their VAE: --decoder DIR" in refused()
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
        np.testing.assert_array_equal(made["samples/reference"][:], held["pictures"][sorted(numbers)][np.argsort(np.argsort(numbers))])
        everything, latent = held["pictures"][:], held["latents"][:].astype("f4")
    (reference,) = set(cache.glob("reference-*.npz")) - before
    how = Evaluation(extractor="inception-v3-compat", weights=str(inception))
    features, _, _ = extractor(how, read_run(run / "run.yaml").data, Ranks(0, 1, CPU))
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
