import csv
import gzip
import io
import json
import math
import pickle
import re
import shlex
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.laws import Table, fit, read_table

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
        ("nan", ("row 3", "column loss", "not finite", "--exclude b=nan")),
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
    ("cell", "number"),
    [
        ("16.12M", 16_120_000.0), ("16.12 M", 16_120_000.0), ("3B", 3e9), ("1.5k", 1500.0), ("2T", 2e12),
        ("1_000_000", 1e6), ("3 billion", 3e9), ("0.07bn tokens", 7e7), ("1.5e18 FLOPs", 1.5e18), (".5m", 5e5),
        ("1.2 EFLOPs", 1.2e18), ("1e3M", 1e9), ("16_384k params", 16_384_000.0), ("1e-12", 1e-12), ("1e300", 1e300),
        ("4503599627370497", 4503599627370497.0),
    ],
)  # fmt: skip
def test_numbers_are_what_they_say_to_the_last_digit(tmp_path, cell, number):
    table = read_table(write(tmp_path, HEAD + f"a,{cell},1e-290,1e10,3\n"))
    assert table.n_params[0] == number
    said = [text for key, text in table.recorded if key == "cells of n_params"]
    assert said == ([f"1 with suffixes, as {cell} = {number:.17g}"] if cell[-1].isalpha() else [])


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ('"1,000,000"', "write 1000000"), ('"1,234"', "write 1234, or 1.234"), ('"1.234,5"', "write 1234.5"),
        ('"1,234.5"', "write 1234.5"), ('"3,14"', "write 3.14"), ("1 000 000", "write 1000000"),
        ("1\u202f234\u202f567", "write 1234567"), ("1'234'567", "write 1234567"), ("1.234.567", "write 1234567"),
        ("12 %", "write 0.12, or 12 in every row"), ("10^6", "write 1e6"), ("1.5*10**18", "write 1.5e18"),
        ("\u22123", "write -3"), ("1.2.3", "without separators"), ("1.5E", "write a number such as"),
        ("~3.1", "write a number such as"), ("0x10", "write a number such as"), ("None", "--exclude row-1="),
    ],
)  # fmt: skip
def test_cells_that_are_no_numbers_say_what_to_write(tmp_path, cell, says):
    path = write(tmp_path, f"n_params,n_tokens,budget_flops,loss\n{cell},1e8,6e14,3\n2e6,1e8,12e14,3\n")
    refused(path, "row 2, column n_params", says)


NO_RESULT = [
    "-",
    "\u2014",
    "N/A",
    "NA",
    "#N/A",
    "null",
    "diverged",
    "nan",
    "inf",
    "",
    "OOM",
    "#DIV/0!",
    "stopped early",
]


DONE = "b,2e6,5e7,6e14,3,done\nc,4e6,2e7,6e14,3.1,done\n"


@pytest.mark.parametrize("cell", NO_RESULT)
def test_a_cell_without_a_result_is_a_run_to_leave_out(tmp_path, cell):
    """The option that the message names, pasted, reads the other runs."""
    path = write(tmp_path, HEAD.replace("\n", ",state\n") + f"a b,1e6,1e8,6e14,{cell},bad\n" + DONE)
    with pytest.raises(UserError, match="row 2, column loss") as caught:
        read_table(path)
    assert "write" not in str(caught.value) and str(caught.value).endswith("out with --only state=done")
    assert list(read_table(path, only={"state": "done"}).run_id) == ["b", "c"]
    path = write(tmp_path, HEAD + f"a b,1e6,1e8,6e14,{cell}\nb,2e6,5e7,6e14,3\n")
    with pytest.raises(UserError, match="--exclude 'a b=") as caught:
        read_table(path)
    run, _, reason = shlex.split(str(caught.value).rpartition("--exclude ")[2])[0].partition("=")
    assert list(read_table(path, exclude={run: reason}).run_id) == ["b"]


def test_all_bad_cells_are_one_message(tmp_path):
    rows = [f"r{i},1e6,1e8,{6e14 + i},3\n" for i in range(20)]
    rows[2], rows[5], rows[9] = "r2,,1e8,6e14,3\n", 'r5,1e6,"1,234",6e14,-\n', "r9,1e6,1e8,0,nan\n"
    path = write(tmp_path, HEAD + "".join(rows))
    refused(path, "5 cells cannot be used", "row 4, column n_params: the cell is empty", "row 7, column n_tokens",
            "(write 1234, or 1.234)", "row 7, column loss: '-'", "and 1 more", "correct them, or leave the runs out",
            "--exclude r2=unusable --exclude r5=empty --exclude r9=")  # fmt: skip
    # No run is left: nothing is proposed that would leave an empty table.
    with pytest.raises(UserError, match="2 cells cannot be used.*no run is left") as caught:
        read_table(write(tmp_path, HEAD + "a,1e6,1e8,6e14,-\nb,1e6,1e8,6e14,-\n"))
    assert "--exclude" not in str(caught.value)
    many = "".join(f"r{i},1e6,1e8,6e14,{'' if i % 2 else 3 + i}\n" for i in range(200))
    refused(write(tmp_path, HEAD + many), "100 cells", "--exclude RUN=REASON for each of these 100")


def test_a_run_with_an_equals_sign_in_its_name_can_be_excluded(tmp_path):
    path = write(tmp_path, HEAD + "lr=1e-3,1e6,1e8,6e14,nan\n" + ROWS[1])
    for pair in ({"lr=1e-3": "x=y"}, {"lr=1e-3=x": "y"}, {"lr": "1e-3=x=y"}):
        assert read_table(path, exclude=pair).exclusions == (("lr=1e-3", "x=y"),)


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


RECORDS = [dict(zip(HEAD.strip().split(","), row.strip().split(","), strict=True)) for row in ROWS]
COLUMNS = {name: [row[name] for row in RECORDS] for name in RECORDS[0]}
NESTED = [{"run_id": row["run_id"], "config": {"x": None}, **row} for row in RECORDS]
MARKDOWN = "".join(
    f"| {row.strip().replace(',', ' | ')} |\n" for row in (HEAD, "-,-,-,-,-".replace("-", "---:"), *ROWS)
)
READABLE = {
    "pipes": "".join([HEAD, *ROWS]).replace(",", "|"),
    "spaces": "".join([HEAD, *ROWS]).replace(",", "   "),
    "names of rows": HEAD.replace("run_id,", "").replace(",", " ") + "".join(ROWS).replace(",", " "),
    "markdown": MARKDOWN,
    "sep": "sep=;\n" + "".join([HEAD, *ROWS]).replace(",", ";"),
    "mac": "".join([HEAD, *ROWS]).replace("\n", "\r"),
    "notes of two lines": HEAD.replace("loss", "note,loss") + "".join(ROWS).replace("e14,", 'e14,"it\n""ran""",'),
    "dos": "".join([HEAD, *ROWS]) + "\x1a",
    "json": json.dumps(RECORDS),
    "json with nan": json.dumps([{**row, "x": math.nan} for row in RECORDS]),
    "json with nested objects": json.dumps(NESTED),
    "json under a key": json.dumps({"runs": RECORDS, "note": [1]}),
    "json lines": "\n".join(map(json.dumps, RECORDS)) + "\n\n",
    "json of columns": json.dumps(COLUMNS),
    "pandas": json.dumps({name: dict(zip("012", column, strict=True)) for name, column in COLUMNS.items()}),
    "pandas, named": json.dumps({name: dict(zip("abc", column, strict=True)) for name, column in COLUMNS.items()}),
    "pandas, index": json.dumps(dict(zip("012", RECORDS, strict=True))),
    "pandas, index named": json.dumps(dict(zip("abc", RECORDS, strict=True))),
    "pandas, split": json.dumps({"columns": [*COLUMNS], "index": [0, 1, 2], "data": [[*r.values()] for r in RECORDS]}),
    "pandas, table": json.dumps({"schema": {"fields": []}, "data": RECORDS}),
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("form", READABLE)
def test_forms_of_files_that_are_read(tmp_path, form, packed):
    content = READABLE[form].encode()
    (tmp_path / "runs").write_bytes(gzip.compress(content) if packed else content)
    table = read_table(tmp_path / "runs", columns={"run_id": "column 1"} if form == "names of rows" else None)
    assert list(table.n_params) == [1e6, 2e6, 4e6] and list(table.loss) == [3.1, 3.0, 3.2]
    assert list(table.run_id) == ["a", "b", "c"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings(tmp_path, encoding):
    (tmp_path / "runs.csv").write_bytes("".join([HEAD.replace("loss", "gr\u00f6\u00dfe"), *ROWS]).encode(encoding))
    assert list(read_table(tmp_path / "runs.csv", "gr\u00f6\u00dfe").loss) == [3.1, 3.0, 3.2]


def archive(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as held:
        for name in names:
            held.writestr(name, "x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (archive("xl/workbook.xml"), "workbook of a spreadsheet, which is not opened; save"),
        (archive("mimetype", "content.xml"), "workbook of a spreadsheet, which is not opened; save"),
        (archive("n_params.npy"), "npz file"), (archive("archive/data.pkl"), "checkpoint of PyTorch"),
        (archive("runs.csv"), "unpack it"), (b"PK\x03\x04", "damaged zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "Excel"), (pickle.dumps([1]), "never opened"),
        (b"\x93NUMPY\x01\x00", "numpy array"), (b"BZh91AY", "bunzip2"), (b"\xfd7zXZ\x00", "unxz"),
        (gzip.compress(b"x" * 99)[:20], "damaged or truncated"), (gzip.compress(pickle.dumps([1])), "never opened"),
        (b"PAR1" + bytes(99), "Parquet"), (b"<!doctype html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"Wall time,Step,Value\n1,1,3.1\n", "TensorBoard"), (b"[[1, 1, 3.1], [2, 2, 3.0]]", "TensorBoard"),
        (b'"Step","a - loss","a - loss__MIN","a - loss__MAX"\n1,3,3,3\n', "chart of W&B"),
        (b"{", "looks like JSON"), (b'{"loss": 1}\n{"loss": \n', "row 2: looks like JSON"), (b"[1, 2]", "no table"),
        (b"[" * 100_000, "nested too deeply"), (b'[{"a":' + b'{"a":' * 50_000, "nested too deeply"),
        (json.dumps([{f"k{i}-{j}": 1 for j in range(40)} for i in range(1200)]).encode(), "keys between them"),
        (b'[{"n_params": 1' + b"0" * 400 + b', "n_tokens": true, "budget_flops": [1], "loss": {}}]', "'loss'"),
        (b'{"n_params": 9' + b"0" * 400 + b', "n_tokens": true, "budget_flops": [1], "loss": 3}', "3 cells"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_files_that_are_something_else(tmp_path, content, says):
    (tmp_path / "runs.csv").write_bytes(content)
    refused(tmp_path / "runs.csv", says)


def test_hdf5_of_pandas_and_parquet_without_pyarrow(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "runs.h5", "w") as file:
        file.attrs["PYTABLES_FORMAT_VERSION"] = "2.1"
        file.create_group("df").attrs["pandas_type"] = "frame"
    refused(tmp_path / "runs.h5", "pandas", "to_csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "runs.parquet").write_bytes(b"PAR1")
    refused(tmp_path / "runs.parquet", "pip install pyarrow", "CSV")


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pyarrow.parquet.write_table(pyarrow.table(COLUMNS), tmp_path / "runs")
    assert list(read_table(tmp_path / "runs").loss) == [3.1, 3.0, 3.2]


def test_files_that_are_no_table(tmp_path):
    refused(write(tmp_path, "".join(ROWS)), "row 1", "numbers where the header is expected")
    refused(write(tmp_path, "# only: comments\n"), "empty")
    refused(write(tmp_path, HEAD + "a,1,000,000,1e8,6e14,3\n"), "row 2", "7 cells", "thousands separators")
    refused(write(tmp_path, HEAD + ROWS[0] + "#" + ROWS[1]), "row 3", "above the header")
    (tmp_path / "zip").write_bytes(b"PK\x03\x04\x00\x00")
    refused(tmp_path / "zip", "neither CSV")
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


@pytest.mark.parametrize(
    ("header", "cells", "pasted"),
    [
        ("Name,State,Runtime,params,tokens,flops,eval/loss", "r,finished,9,1e6,1e8,6e14,3",
         "n_params=params,n_tokens=tokens,budget_flops=flops,loss=eval/loss"),
        ("flops_budget,depth,model_dim,params_wte,params_value_embeds,params_lm_head,params_transformer,params_total,"
         "tokens_trained,val_bpb,core_score,train_time_sec", "6e14,10,640,5,5,5,1e6,2e6,1e8,3,.1,9",
         "n_params=params_transformer,n_tokens=tokens_trained,budget_flops=flops_budget,loss=val_bpb"),
        ("budget,tokens,paloma_macro", "6e14,1e8,3", "n_tokens=tokens,budget_flops=budget,loss=paloma_macro --kappa 6"),
        ("params_M,tokens (B),EFLOPs,trainLoss,valLoss", "1,.1,.0006,2,3",
         "'n_params=params_M*1e6,n_tokens=tokens (B)*1e9,budget_flops=EFLOPs*1e18,loss=valLoss'"),
        ("params_M,D,C,L", "1000000,1e8,6e14,3", "n_params=params_M,n_tokens=D,budget_flops=C,loss=L"),
        ("config.numParams,config.train_tokens,compute,final/val_loss", "1e6,1e8,6e14,3",
         "n_params=config.numParams,n_tokens=config.train_tokens,budget_flops=compute,loss=final/val_loss"),
        ("non-embedding params,embedding params,n_token,total FLOPs,test loss", "1e6,5,1e8,6e14,3",
         "'n_params=non-embedding params,n_tokens=n_token,budget_flops=total FLOPs,loss=test loss'"),
    ],
)  # fmt: skip
def test_known_layouts_are_read_with_what_the_message_says(tmp_path, header, cells, pasted):
    path = write(tmp_path, f"{header}\n{cells}\n")
    refused(path, f"add --columns {pasted}")
    option, *kappa = shlex.split(pasted)
    table = read_table(
        path, columns=dict(part.split("=") for part in option.split(",")), kappa=kappa[-1] if kappa else None
    )
    assert (table.n_params[0], table.n_tokens[0], table.budget_flops[0], table.loss[0]) == (1e6, 1e8, 6e14, 3)


@pytest.mark.parametrize(
    "column",
    """params_wte lm_head_params params_per_layer n_layers model_dim batch_tokens tokens_per_sec tokens/s vocab_tokens
    flops_per_token flops/s budget_usd compute_hours mfu loss_scale z_loss aux_loss loss_std val_loss_se eval/accuracy
    train_time_sec seed step lr""".split(),
)
def test_other_quantities_are_not_proposed(tmp_path, column):
    path = write(tmp_path, f"flops,{column}\n6e14,7.5\n")
    refused(path, "add --columns budget_flops=flops;")


def test_one_column_is_not_proposed_twice_and_doubts_are_said(tmp_path):
    refused(write(tmp_path, "flops\n6e14\n"), "add --columns budget_flops=flops;")
    path = write(tmp_path, "params,params_total,tokens,flops,loss\n1e6,2e6,1e8,6e14,3\n")
    refused(path, "n_params=params,", "n_params may also be 'params_total', which changes what N counts")
    # A name is no number: the column that holds one is not proposed.
    refused(write(tmp_path, "data,tokens,params,flops,loss\ncoco,1e8,1e6,6e14,3\n"), "n_tokens=tokens")
    refused(write(tmp_path, "n_params,n_tokens,budget_flops,nll\n1e6,1e8,6e14,-3\n"), "--metric nll fits that column")


def test_columns_with_a_factor(tmp_path):
    path = write(tmp_path, "size,n_tokens,budget_flops,loss*2\n1.5,1e8,9e14,3\n")
    table = read_table(path, columns={"n_params": "size * 1e6", "loss": "loss*2"})
    assert (table.n_params[0], table.loss[0]) == (1.5e6, 3)
    assert ("column n_params", "'size * 1e6' in the file") in table.recorded
    refused(path, "no column 'sizes' (did you mean 'size'?)", columns={"n_params": "sizes*1e6"})
    with pytest.raises(UserError, match="factor of n_params: 0 is too small"):
        read_table(path, columns={"n_params": "size*0", "loss": "loss*2"})


UNITS = {
    "n_params": (1e6, "n_params=n_params*1e6"), "n_tokens": (1e9, "n_tokens=n_tokens*1e9"),
    "budget_flops": (8.64e19, "budget_flops=budget_flops*8.64e19"),
}  # fmt: skip


@pytest.mark.parametrize("column", UNITS)
def test_wrong_units_are_refused_with_the_factor_to_paste(tmp_path, column):
    unit, pasted = UNITS[column]
    rows = [
        {"n_params": 1e7 * 2**i, "n_tokens": 4e9 / 2**i, "budget_flops": 2.4e17, "loss": 3 + i / 9} for i in range(5)
    ]
    for row in rows:
        row[column] /= unit
    path = write(tmp_path, json.dumps(rows))
    with pytest.raises(UserError, match=re.escape(f"add --columns '{pasted}'")):
        fit(path, bootstrap=0)
    whole = read_table(path, columns=dict([pasted.split("=")]))
    assert whole.kappa() == pytest.approx(6, rel=1e-12)


def test_a_constant_metric_and_rows_that_repeat(tmp_path):
    rows = [f"r{i},{1e6 * 2**i},{1e8 / 2**i},6e14," for i in range(6)]
    with pytest.raises(UserError, match=r"loss is 2\.5 in every run"):
        fit(write(tmp_path, HEAD + "".join(f"{row}2.5\n" for row in rows)))
    text = HEAD + "".join(f"{row}{3 + (i - 3) ** 2 / 50}\n" for i, row in enumerate(rows))
    path = write(tmp_path, text + text.splitlines()[2].replace("r1", "again") + "\n")
    (found,) = [f for f in fit(path, bootstrap=0).findings if f.code == "repeated_rows"]
    assert found.runs == ("again",) and found.severity == "warning" and "--exclude again=copy" in found.message
    without = read_table(path, exclude={"again": "copy"})
    assert "repeated_rows" not in [f.code for f in fit(without, bootstrap=0).findings]


def test_losses_below_zero_name_the_other_kind_of_metric(tmp_path):
    path = write(tmp_path, HEAD + "".join(ROWS).replace(",3", ",-3"))
    refused(path, "negative", "--metric nll --columns nll=loss")
    assert list(read_table(path, "nll", columns={"nll": "loss"}).loss) == [-3.1, -3.0, -3.2]


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


def test_a_large_table_is_read_whole_and_fast(tmp_path):
    rows = (f"r{i},{1e6 + i},{1e8 / (1 + i % 7)},{(1 + i % 5) * 6e14},{2 + 1 / (i + 1)}\n" for i in range(100_000))
    path = write(tmp_path, HEAD + "".join(rows))
    begin = time.process_time()
    table = read_table(path)
    slices = table.slices()
    assert time.process_time() - begin < 3  # 0.5 s on a quiet core: tools/bench/read_speed.py
    assert len(table) == 100_000 and table.n_params[-1] == 1e6 + 99_999 and table.is_isoflop()
    assert [(budget, len(rows)) for budget, rows in slices] == [((1 + i) * 6e14, 20_000) for i in range(5)]
