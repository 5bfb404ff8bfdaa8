import h5py
import numpy as np
import pytest
import torch

from ditscale.config import Data, Validation
from ditscale.data.latents import Latents
from ditscale.data.source import open_source
from ditscale.errors import UserError
from ditscale.evaluate.held_out import HeldOut


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "latents.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as f:
        f["latents"] = rng.normal(size=(37, 4, 8, 8)).astype("f2")
        f["latents"][:, 0, 0, 0] = np.arange(37)
        f["text"] = rng.normal(size=(37, 5, 6)).astype("f2")
        f.attrs["shift"], f.attrs["scale"] = 0.5, 2.0
    return path


def test_each_pass_is_a_new_shuffle_of_all_images(file):
    source = Latents(file)
    orders = [
        (source.batch(torch.arange(k * 37, (k + 1) * 37))[0][:, 0, 0, 0] / 2 + 0.5).round().int().tolist()
        for k in range(3)
    ]
    for order in orders:
        assert sorted(order) == list(range(37))
    assert orders[0] != orders[1] != orders[2] and orders[0] != list(range(37))


def test_the_data_seed_orders_the_images_of_training_and_not_the_held_out_ones(file):
    shape = {"channels": 4, "resolution": 8, "text_length": 5, "text_dim": 6}
    data = [Data("x", "latents", **shape, seed=seed, path=str(file)) for seed in (0, 1)]
    index = torch.arange(37)
    first, second = (open_source(d).batch(index)[0] for d in data)
    assert not torch.equal(first, second)
    assert torch.equal(first.flatten(1).sort(0).values, second.flatten(1).sort(0).values)
    validation = Validation(n=20, path=str(file))
    for d in data:
        held = HeldOut(d, validation, 20, validation.seed, torch.device("cpu"))
        assert torch.equal(held.images(index[:20])[0], Latents(file).batch(index[:20])[0])


def test_values_and_text_belong_together(file):
    source = Latents(file)
    x, text = source.batch(torch.tensor([5, 3, 5]))
    with h5py.File(file, "r", locking=False) as f:
        row = int(round(float(x[0, 0, 0, 0]) / 2 + 0.5))
        np.testing.assert_allclose(x[0], (f["latents"][row].astype("f4") - 0.5) * 2)
        np.testing.assert_allclose(text[0], f["text"][row].astype("f4"))
    assert torch.equal(x[0], x[2]) and not torch.equal(x[0], x[1])


def test_a_batch_is_made_of_what_is_stored(file):
    """Half the bytes travel to a GPU; in fp32, in place or not, the numbers are the same."""
    source, index = Latents(file), torch.tensor([5, 3, 40])
    latents, text = source.read(index)
    assert latents.dtype == text.dtype == torch.float16
    for made, batch in zip(source.normalise(latents, text), source.batch(index), strict=True):
        assert made.dtype == torch.float32 and torch.equal(made, batch)
    assert torch.equal(source.read(index)[0], latents), "what was read is not written over"


def test_wrong_files(file, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Latents(tmp_path / "none.h5")
    (tmp_path / "cut.h5").write_bytes(file.read_bytes()[:3000])
    with pytest.raises(UserError, match="not HDF5, or is truncated"):
        Latents(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "bare.h5", "w") as f:
        f["latents"] = np.zeros((2, 4, 8, 8))
    with pytest.raises(UserError, match="needs latents"):
        Latents(tmp_path / "bare.h5")
    for scale in (0, float("nan")):
        with h5py.File(file, "r+") as f:
            f.attrs["scale"] = scale
        with pytest.raises(UserError, match="make no images"):
            Latents(file)
    for name, shape in (("oblong", (2, 4, 8, 6)), ("fewer", (3, 4, 8, 8))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as f:
            f["latents"], f["text"] = np.zeros(shape), np.zeros((2, 5, 6))
            f.attrs.update({"shift": 0.0, "scale": 1.0})
        with pytest.raises(UserError, match="8 x 6 are not square|3 latents but 2 texts"):
            Latents(tmp_path / f"{name}.h5")
    with h5py.File(file, "r+") as f:
        f.attrs["scale"] = 2.0
    with pytest.raises(UserError, match="resolution is 16 in the configuration but 8 in the data"):
        open_source(Data("x", "latents", 4, 16, 5, 0, 6, path=str(file)))
