import math

import h5py
import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.laws import Table, read_table

HEAD = "run_id,n_params,n_tokens,budget_flops,loss\n"
ROWS = ["a,1e6,1e8,6e14,3.1\n", "b,2e6,5e7,6e14,3.0\n", "c,4e6,2.5e7,6e14,3.2\n"]


def write(tmp_path, text, name="runs.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def refused(path, *words, metric="loss", exclude=None):
    with pytest.raises(UserError) as caught:
        read_table(path, metric, exclude)
    text = str(caught.value)
    assert "\n" not in text
    for word in (str(path), *words):
        assert word in text, (word, text)


def test_csv_with_scientific_text(tmp_path):
    table = read_table(write(tmp_path, HEAD + "".join(ROWS).replace("6e14", '"6e+14"')))
    assert list(table.run_id) == ["a", "b", "c"]
    np.testing.assert_array_equal(table.n_params, [1e6, 2e6, 4e6])
    np.testing.assert_array_equal(table.budget_flops, 6e14)
    assert table.kappa() == 6.0


def test_run_ids_are_made_up_when_absent(tmp_path):
    table = read_table(
        write(tmp_path, "n_params,n_tokens,budget_flops,loss,note\n1e6,1e8,6e14,3,x\n2e6,5e7,6e14,2,y\n")
    )
    assert list(table.run_id) == ["row-1", "row-2"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("params,n_tokens,budget_flops,loss", ("'n_params'", "'params'")),
        ("N,D,C,loss", ("'n_params'", "'N'")),
        ("n_params,n_tokens,flops,loss", ("'budget_flops'", "'flops'")),
        ("n_params,n_token,budget_flops,loss", ("'n_tokens'", "'n_token'")),
        ("n_params,n_tokens,budget_flops,los", ("'loss'", "'los'")),
    ],
)
def test_missing_column_suggests_the_near_name(tmp_path, header, words):
    refused(write(tmp_path, header + "\n1e6,1e8,6e14,3\n"), *words)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("nan", ("row 3", "column loss", "not finite", "'b'")),
        ("inf", ("row 3", "column loss", "not finite")),
        ("0", ("row 3", "column loss", "not positive")),
        ("-2", ("row 3", "column loss", "not positive")),
        ("three", ("row 3", "column loss", "'three'", "not a number")),
        ("", ("row 3", "column loss", "empty")),
    ],
)
def test_bad_cells_name_file_row_and_column(tmp_path, cell, words):
    refused(write(tmp_path, HEAD + ROWS[0] + f"b,2e6,5e7,6e14,{cell}\n" + ROWS[2]), *words)


def test_a_bad_row_can_be_excluded_by_name(tmp_path):
    path = write(tmp_path, HEAD + ROWS[0] + "b,2e6,5e7,6e14,nan\n" + ROWS[2])
    table = read_table(path, exclude={"b": "diverged"})
    assert list(table.run_id) == ["a", "c"] and table.exclusions == (("b", "diverged"),)
    refused(path, "no run 'bb'", "'b'", exclude={"bb": "typo"})


def test_duplicates_empty_ragged_and_binary(tmp_path):
    refused(write(tmp_path, HEAD + ROWS[0] + ROWS[1] + ROWS[0]), "'a'", "row 2", "row 4")
    bare = "n_params,n_tokens,budget_flops,loss\n1e6,1e8,6e14,3\n1e6,1e8,6e14,3\n"
    refused(write(tmp_path, bare), "same row", "row 2", "row 3")
    refused(write(tmp_path, HEAD), "no rows")
    refused(write(tmp_path, ""), "empty")
    refused(write(tmp_path, HEAD + "a,1e6,1e8\n"), "row 2", "3 cells")
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(range(128, 256)) * 8)
    refused(path, "neither CSV")
    refused(tmp_path / "absent.csv", "no such file")
    refused(tmp_path, "ditscale collect")


def test_seeds_with_equal_rounded_losses_are_not_duplicates(tmp_path):
    assert len(read_table(write(tmp_path, HEAD + "a,1e6,1e8,6e14,3.1\nb,1e6,1e8,6e14,3.1\n"))) == 2


def write_study(path, group="points", probe_loss=math.nan):
    with h5py.File(path, "w") as file:
        g = file.create_group(group) if group else file
        g["run_id"] = np.array(["a", "b", "p"], dtype=h5py.string_dtype())
        g["role"] = np.array(["grid", "grid", "probe"], dtype=h5py.string_dtype())
        g["n_params"] = [100, 200, 400]
        g["n_tokens"] = [1000, 500, 2000]
        g["budget_flops"] = [6e5, 6e5, 4.8e6]
        g["loss"] = [0.3, 0.2, probe_loss]
        g["vlb"] = [3.0, 2.0, 1.0]
        g["loss_se"] = [0.01, math.nan, math.nan]
    return path


@pytest.mark.parametrize("group", ["points", ""])
def test_hdf5_and_study_directory(tmp_path, group):
    write_study(tmp_path / "study.h5", group)
    table = read_table(tmp_path)
    assert list(table.run_id) == ["a", "b", "p"] and table.n_params.dtype == float
    # A probe without a loss is no reason to refuse the grid.
    assert list(table.grid().run_id) == ["a", "b"]
    np.testing.assert_array_equal(read_table(tmp_path / "study.h5", "vlb").loss, [3, 2, 1])
    refused(tmp_path / "study.h5", "'fid'", metric="fid")


def test_truncated_hdf5(tmp_path):
    path = write_study(tmp_path / "study.h5")
    path.write_bytes(path.read_bytes()[:1500])
    refused(path, "truncated")


def test_without_lists_what_it_took_out():
    table = Table.of([1, 2, 3], [3, 2, 1], [6, 6, 6], [1, 1, 1])
    less = table.without(["row-2"], "diverged")
    assert list(less.run_id) == ["row-1", "row-3"] and less.exclusions == (("row-2", "diverged"),)
    with pytest.raises(UserError, match="no run 'row-9'"):
        table.without("row-9", "typo")


def test_slices_forgive_jitter_and_keep_budgets_apart():
    table = Table.of(range(1, 7), range(1, 7), [1e17, 1.04e17, 0.96e17, 3e17, 3.1e17, 6e17], np.ones(6))
    assert [list(rows) for _, rows in table.slices()] == [[2, 0, 1], [3, 4], [5]]
