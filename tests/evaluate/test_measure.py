"""Chunks: shared among ranks, resumed, and never half there."""

import sys

import numpy as np
import pytest
import torch

from ditscale.distributed.ranks import Ranks
from ditscale.errors import UserError
from ditscale.evaluate.measure import Workers, clear, measure

ONE = Ranks(0, 1, torch.device("cpu"))


class Squares:
    name, columns, dtype = "squares", ["i", "i^2"], torch.float64

    def __init__(self, dies_at=None, bad=None):
        self.dies_at, self.bad, self.seen = dies_at, bad, []

    def rows(self, index):
        if self.dies_at is not None and self.dies_at in index:
            raise KeyboardInterrupt
        self.seen += index.tolist()
        values = torch.stack([index, index**2], 1).double().numpy()
        if self.bad is not None:
            values[index == self.bad] = np.nan
        return values, 3 * len(index)


def test_rows_in_order_and_resumed_where_it_was(tmp_path):
    parts, workers = tmp_path / "parts" / "squares", Workers(ONE, tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        measure(Squares(dies_at=65), 100, 16, "squares", workers)
    assert len(list(parts.glob("*.npz"))) == 4
    (parts / "16.npz").write_bytes(b"")  # As after a crash of the machine.
    again = Squares()
    rows, wall_s, evaluations = measure(again, 100, 16, "squares", workers)
    assert again.seen == [*range(16, 32), *range(64, 100)]
    np.testing.assert_array_equal(rows, np.stack([np.arange(100), np.arange(100) ** 2], 1))
    assert evaluations == 3 and wall_s > 0
    clear(parts)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sys.modules[measure.__module__], "PROGRESS_S", -1.0)
    with caplog.at_level("INFO", "ditscale"):
        measure(Squares(), 40, 16, "squares", Workers(ONE, tmp_path))
    assert [r.message.split() for r in caplog.records] == [
        ["squares:", str(k), "of", "40", "images"] for k in (16, 32, 40)
    ]


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(UserError, match="not finite from image 16 on"):
        measure(Squares(bad=20), 100, 16, "parts", Workers(ONE, tmp_path))
    assert len(list((tmp_path / "parts").glob("*.npz"))) == 1
