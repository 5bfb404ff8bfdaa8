"""Rows of HDF5 datasets against the array they were written from, however they lie in the file."""

import h5py
import numpy as np
import pytest

from ditscale.data.latents import Rows

TRUTH = np.random.default_rng(0).normal(size=(50, 3, 4))
LAYOUTS = {
    "in one piece": {},
    "in chunks": {"chunks": (7, 3, 4)},
    "compressed": {"compression": "gzip"},
    "the other byte order": {"dtype": ">f4"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("userblock", [0, 512])
def test_rows_in_any_order(tmp_path, layout, userblock):
    options = {"dtype": "<f4"} | LAYOUTS[layout]
    with h5py.File(tmp_path / "f.h5", "w", userblock_size=userblock) as file:
        file["before"] = np.zeros(5)
        file.create_dataset("x", data=TRUTH, **options)
    with h5py.File(tmp_path / "f.h5") as file:
        rows = Rows(tmp_path / "f.h5", file["x"])
        assert (rows.offset is None) == (layout in ("in chunks", "compressed"))
        for index in ([3], [49, 0, 7, 7, 21, 20, 1, 2, 30, 48], []):
            read = rows.at(np.array(index, int))
            assert read.dtype.isnative and np.array_equal(read, TRUTH[index].astype("f4"))


def test_text_of_any_length(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["words"] = ["a", "bcd", ""]
    with h5py.File(tmp_path / "f.h5") as file:
        assert list(Rows(tmp_path / "f.h5", file["words"]).at(np.array([1, 2, 0]))) == [b"bcd", b"", b"a"]


def test_a_file_that_became_shorter(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x"] = TRUTH
    with h5py.File(tmp_path / "f.h5") as file:
        rows = Rows(tmp_path / "f.h5", file["x"])
        with open(tmp_path / "f.h5", "r+b") as other:
            other.truncate(rows.offset + 10 * 96)
        assert np.array_equal(rows.at(np.array([9])), TRUTH[[9]])
        with pytest.raises(OSError, match="ends before row 10"):
            rows.at(np.array([9, 10]))
