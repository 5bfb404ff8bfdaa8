"""Chunks: shared among ranks, resumed, and never half there."""

import numpy as np
import pytest
import torch

from ditscale.distributed.ranks import Ranks
from ditscale.errors import UserError
from ditscale.evaluate.measure import clear, measure

ONE = Ranks(0, 1, torch.device("cpu"))


class Squares:
    name, columns, settings, dtype = "squares", ["i", "i^2"], {}, torch.float64

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
    parts = tmp_path / "parts" / "squares"
    with pytest.raises(KeyboardInterrupt):
        measure(Squares(dies_at=65), 100, 16, parts, ONE)
    assert len(list(parts.glob("*.npz"))) == 4
    (parts / "16.npz").write_bytes(b"")  # a machine that went down
    again = Squares()
    rows, wall_s, evaluations = measure(again, 100, 16, parts, ONE)
    assert again.seen == [*range(16, 32), *range(64, 100)]
    np.testing.assert_array_equal(rows, np.stack([np.arange(100), np.arange(100) ** 2], 1))
    assert evaluations == 3 and wall_s > 0
    clear(parts)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(UserError, match="not finite"):
        measure(Squares(bad=20), 100, 16, tmp_path / "parts", ONE)
    assert len(list((tmp_path / "parts").glob("*.npz"))) == 1
