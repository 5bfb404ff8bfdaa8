import csv
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


def refused(path, *words, metric="loss", exclude=None, **options):
    with pytest.raises(UserError) as caught:
        read_table(path, metric, exclude, **options)
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


@pytest.mark.parametrize("text", ["1e17", "1.0e17", "+1E+17", '"1e17"', " 100000000000000000 ", "1e+17\t"])
def test_budgets_as_people_type_them(tmp_path, text):
    table = read_table(write(tmp_path, f"n_params,n_tokens,budget_flops,loss\n1e6,1e8,{text},3\n"))
    assert table.budget_flops[0] == 1e17


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("70M", "write 7e7"),
        ("1.5 B", "write 1.5e9"),
        ('"1,000,000"', "without separators"),
        ("1 000 000", "without separators"),
        ("1.2.3", "without separators"),
        ("10^6", "not a number"),
        ("None", "not a number"),
    ],
)
def test_cells_that_are_no_numbers_say_what_to_write(tmp_path, cell, says):
    path = write(tmp_path, f"n_params,n_tokens,budget_flops,loss\n{cell},1e8,6e14,3\n")
    refused(path, "row 2, column n_params", says)


def test_layouts_of_csv_that_are_read(tmp_path):
    plain = read_table(write(tmp_path, HEAD + "".join(ROWS)))
    body = HEAD + "".join(ROWS)
    for name, text in {
        "semicolons": body.replace(",", ";"),
        "tabs": body.replace(",", "\t"),
        "bom": "\ufeff" + body,
        "windows": body.replace("\n", "\r\n"),
        "blank lines": "\n" + body.replace("\n", "\n\n") + "  \n,,,,\n",
        "trailing commas": body.replace("\n", ",\n"),
        "trailing commas below": HEAD + "".join(ROWS).replace("\n", ",\n"),
        "quoted": "".join(",".join(f'"{c}"' for c in row) + "\n" for row in csv.reader(body.splitlines())),
        "spaces": body.replace(",", " , "),
    }.items():
        table = read_table(write(tmp_path, text))
        assert list(table.run_id) == ["a", "b", "c"] and (table.loss == plain.loss).all(), name
        assert (table.n_params == plain.n_params).all(), name


def test_files_that_are_no_table(tmp_path):
    refused(write(tmp_path, "".join(ROWS)), "row 1", "numbers where the header is expected")
    refused(write(tmp_path, "# only: comments\n"), "empty")
    refused(write(tmp_path, "{\n"), "'n_params'")
    refused(write(tmp_path, HEAD + "a,1,000,000,1e8,6e14,3\n"), "row 2", "7 cells", "thousands separators")
    refused(write(tmp_path, HEAD + ROWS[0] + "#" + ROWS[1]), "row 3", "above the header")
    (tmp_path / "zip").write_bytes(b"PK\x03\x04\x00\x00")
    refused(tmp_path / "zip", "neither CSV")
    (tmp_path / "utf16.csv").write_text(HEAD + ROWS[0], encoding="utf-16")
    refused(tmp_path / "utf16.csv", "UTF-8")
    open_quote = HEAD.replace("run_id", "run_id,note") + 'a,"x,1e6,1e8,6e14,3\nb,"y,1e6,1e8,6e14,3\n'
    refused(write(tmp_path, open_quote), "row 2", "close the quote")
    twice = "run_id,n_params,n_params,n_tokens,budget_flops,loss\n"
    refused(write(tmp_path, twice), "'n_params' appears twice")


def test_names_of_other_people(tmp_path):
    """The columns of the points Epoch AI read off the Chinchilla figure, and of a table with params, tokens, budget."""
    text = "Model Size,Training FLOP,loss\n1e6,6e14,3.1\n2e6,6e14,3.0\n"
    path = write(tmp_path, text)
    refused(
        path, "'n_params'", "--columns 'n_params=Model Size,budget_flops=Training FLOP'", "--kappa 6 computes n_tokens"
    )
    named = {"n_params": "Model Size", "budget_flops": "Training FLOP"}
    refused(path, "'n_tokens'", "--kappa 6", columns=named)
    table = read_table(path, columns=named, kappa=6)
    np.testing.assert_allclose(table.n_tokens, [1e8, 5e7], rtol=1e-15)
    assert ("n_tokens", "computed as budget_flops / (6 n_params)") in table.recorded
    path = write(tmp_path, "params,tokens,loss\n1e6,1e8,3.1\n")
    assert read_table(path, columns={"n_params": "params", "n_tokens": "tokens"}, kappa="6").budget_flops[0] == 6e14
    path = write(tmp_path, "params,tokens,budget,loss\n1e6,1e8,6e14,3.1\n")
    refused(path, "--columns n_params=params,n_tokens=tokens,budget_flops=budget")
    refused(path, "'parms'", "'params'", columns={"n_params": "parms"})
    with pytest.raises(UserError, match="'n_param' is not a name of ours.*'n_params'"):
        read_table(path, columns={"n_param": "params"})
    with pytest.raises(UserError, match="kappa: 'six' is not a number"):
        read_table(path, columns={"n_params": "params", "n_tokens": "tokens", "budget_flops": "budget"}, kappa="six")
    refused(write(tmp_path, "n_params,loss\n1,2\n"), "'n_tokens', 'budget_flops'", kappa=6)


def test_unicode_and_many_columns(tmp_path):
    table = read_table(write(tmp_path, HEAD.replace("run_id", "run_id,größe") + "läuf-1,x,1e6,1e8,6e14,3\n"))
    assert table.run_id[0] == "läuf-1"
    refused(write(tmp_path, ",".join(f"x{i}" for i in range(99)) + "\n"), "x19, ...")


def test_metrics_that_are_no_losses_may_be_negative(tmp_path):
    text = "n_params,n_tokens,budget_flops,loss,loglik,fid,val_loss\n1e6,1e8,6e14,3,-1.5,-2,-1\n"
    path = write(tmp_path, text)
    assert read_table(path, "loglik").loss[0] == -1.5
    refused(path, "column fid: -2 is not positive", metric="fid")
    refused(path, "column val_loss: -1 is not positive", metric="val_loss")
    for name in ("fid_coco", "fid:guidance=2", "fid_coco:n=512"):
        refused(write(tmp_path, text.replace("fid", name)), f"column {name}: -2 is not positive", metric=name)
    with pytest.raises(UserError, match="n_params says what a run was"):
        read_table(path, "n_params")


def test_metrics_by_the_names_they_are_measured_under(tmp_path):
    """`evaluate --metrics likelihood` puts nll into the table, and --metric likelihood fits it; a column of that very
    name goes first."""
    head, cells = (
        "n_params,n_tokens,budget_flops,loss,nll,nll_coco,nll:probes=4,loss_coco",
        "1e6,1e8,6e14,3,-1.5,-1.2,-1.4,4\n",
    )
    path = write(tmp_path, f"{head}\n{cells}")
    for name, column, value in [
        ("likelihood", "nll", -1.5), ("likelihood_coco", "nll_coco", -1.2),
        ("likelihood:probes=4", "nll:probes=4", -1.4),
        ("val_loss", "loss", 3), ("val_loss_coco", "loss_coco", 4), ("nll", "nll", -1.5),
    ]:  # fmt: skip
        table = read_table(path, name)
        assert (table.metric, table.loss[0]) == (column, value)
    assert read_table(path, "likelihood", also=("likelihood_coco",)).columns["nll_coco"][0] == -1.2
    refused(path, "there is no column 'likelihood_ood'", metric="likelihood_ood")
    table = read_table(path, "likelihood", columns={"likelihood": "loss_coco"})
    assert (table.metric, table.loss[0]) == ("likelihood", 4)
    table = read_table(write(tmp_path, f"{head.replace('loss_coco', 'likelihood')}\n{cells}"), "likelihood")
    assert (table.metric, table.loss[0]) == ("likelihood", 4)


def test_further_columns_and_what_was_recorded(tmp_path):
    text = "# data: scenes, 1M images\n# n_params: without embeddings\n# a note\n" + HEAD.replace("loss", "loss,ood")
    text += "a,1e6,1e8,6e14,3,4\nb,2e6,5e7,6e14,2.9,nan\n"
    path = write(tmp_path, text)
    table = read_table(path, also=("ood",))
    assert table.recorded == (("data", "scenes, 1M images"), ("n_params", "without embeddings"))
    np.testing.assert_array_equal(table.columns["ood"], [4, np.nan])
    np.testing.assert_array_equal(table.take(np.array([1, 0])).columns["ood"], [np.nan, 4])
    refused(path, "'oood'", "'ood'", also=("oood",))
    # Rows are counted as an editor counts them, comments too.
    refused(write(tmp_path, text.replace("2.9", "x")), "row 6, column loss")
    with h5py.File(write_study(tmp_path / "study.h5"), "a") as file:
        file.attrs["layout"], file.attrs["study"], file.attrs["design"] = 1, "name: x", "incontext"
    assert read_table(tmp_path / "study.h5").recorded == (("design", "incontext"),)


def test_empty_cells_where_a_value_may_be_missing(tmp_path):
    head = "role,n_params,n_tokens,budget_flops,loss,loss_se,ood\n"
    path = write(tmp_path, head + "grid,1e6,1e8,6e14,3,,\nprobe,2e6,1e9,12e15,,,\n")
    table = read_table(path, also=("ood",))
    np.testing.assert_array_equal(table.loss, [3, np.nan])
    assert np.isnan(table.loss_se).all() and np.isnan(table.columns["ood"]).all()
    refused(write(tmp_path, head + "grid,1e6,1e8,6e14,,,\n"), "row 2, column loss: the cell is empty")
    refused(write(tmp_path, head + "probe,1e6,,6e14,3,,\n"), "row 2, column n_tokens: the cell is empty")


def test_rows_of_one_value(tmp_path):
    path = write(
        tmp_path,
        HEAD.replace("run_id", "set,n_layers") + "x,2,1e6,1e8,6e14,3\ny,2,bad,1e8,6e14,3\nx,4,2e6,1e8,6e14,3\n",
    )
    table = read_table(path, only={"set": "x"})
    assert list(table.run_id) == ["row-1", "row-3"] and ("rows", "set = x: 2 of 3") in table.recorded
    assert list(read_table(path, only={"set": "x", "n_layers": "4"}).run_id) == ["row-3"]
    refused(path, "no row has set = 'z'", "x, y", only={"set": "z"})
    refused(path, "no run 'row-2'", only={"set": "x"}, exclude={"row-2": "not there"})


def test_tables_from_python():
    assert Table.of([1, 2], ["3", "2.0"], (6, "6e0"), np.array([1, 1])).n_tokens.dtype == float
    with pytest.raises(UserError, match="column n_tokens has 1 values, run_id has 2"):
        Table.of([1, 2], [3], [6, 6], [1, 1])
    with pytest.raises(UserError, match="column n_params.*'small'"):
        Table.of(["small", 2], [3, 2], [6, 6], [1, 1])
    with pytest.raises(UserError, match="column n_params has shape"):
        Table.of(3, [3, 2], [6, 6], [1, 1])
    with pytest.raises(UserError, match="column loss_se has 3 values"):
        Table.of([1, 2], [3, 2], [6, 6], [1, 1], loss_se=[1, 2, 3])
    with pytest.raises(UserError, match="run_id 'a' appears twice"):
        Table.of([1, 2], [3, 2], [6, 6], [1, 1], run_id=["a", "a"])
    with pytest.raises(UserError, match="role: 'test' is not known"):
        Table.of([1, 2], [3, 2], [6, 6], [1, 1], role=["grid", "test"])
    with pytest.raises(UserError, match="no rows"):
        Table.of([], [], [], [])
    assert Table.of([1, 2], [3, 2], [6, 6], [-1, 1], metric="loglik").loss[0] == -1


def test_a_large_table_is_read_whole(tmp_path):
    rows = (f"r{i},{1e6 + i},{1e8 / (1 + i % 7)},6e14,{2 + 1 / (i + 1)}\n" for i in range(100_000))
    table = read_table(write(tmp_path, HEAD + "".join(rows)))
    assert len(table) == 100_000 and table.n_params[-1] == 1e6 + 99_999
