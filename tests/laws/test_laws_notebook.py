"""Tables from memory, one number as a target, and what a notebook shows of results; none of it needs pandas."""

import sys
from types import ModuleType

import numpy as np
import pytest
from laws_synthetic import CHINCHILLA, MINIATURE, best, study

from ditscale.errors import UserError
from ditscale.laws import (
    Table,
    compare,
    fit,
    fit_gap,
    fit_rates,
    fit_trend,
    forecast,
    read_table,
    read_trials,
    seal,
    verdict,
)  # fmt: skip

SIX = tuple(np.geomspace(1e18, 1e20, 6))
NAMES = ("run_id", "n_params", "n_tokens", "budget_flops", "loss")


class NAType:
    """As pandas' missing value: it cannot be compared, nor become a number."""

    def __eq__(self, other):
        raise TypeError("boolean value of NA is ambiguous")


class Frame:
    """What pandas and polars have in common."""

    def __init__(self, columns):
        self._columns = columns

    @property
    def columns(self):
        return list(self._columns)

    def __getitem__(self, name):
        return self._columns[name]


@pytest.fixture(scope="module")
def table():
    return study(CHINCHILLA, SIX, sizes=9, noise=0.003)


def columns_of(table, kind=list):
    return {name: kind(getattr(table, name)) for name in NAMES}


def sources(table):
    return {"lists": columns_of(table), "arrays": columns_of(table, np.array), "frame": Frame(columns_of(table))}


@pytest.mark.parametrize("kind", ["lists", "arrays", "frame"])
def test_a_table_from_memory_is_that_table(table, kind):
    read = read_table(sources(table)[kind])
    for name in NAMES:
        np.testing.assert_array_equal(getattr(read, name), getattr(table, name))
    assert read.source == "table" and read_table(read) is read


def test_options_and_errors_are_those_of_a_file(table):
    columns = columns_of(table) | {"set": ["a"] * 27 + ["b"] * 27, "ood": [None, NAType()] + [1.0] * 52}
    renamed = {("Model Size" if name == "n_params" else name): values for name, values in columns.items()}
    read = read_table(
        renamed, columns={"n_params": "Model Size"}, only={"set": "a"}, exclude={"row-3": "diverged"}, also=("ood",)
    )
    assert len(read) == 26 and read.exclusions == (("row-3", "diverged"),) and np.isnan(read.columns["ood"][:2]).all()
    bad = columns | {"loss": [NAType()] + columns["loss"][1:]}
    for source, says in {
        "no loss": (columns_of(table) | {"los": []}, "there is no column 'fid'"),
        "lengths": (columns | {"loss": [1.0]}, "columns differ in length"),
        "ragged": (columns | {"loss": [[1.0], [1.0, 2.0]]}, "column loss is not one value for each run"),
        "scalar": (columns | {"loss": 3.0}, "column loss is not one value for each run"),
        "text": (columns | {"n_params": ["70 %"] * 54}, "run row-1, column n_params: '70 %' is not a number"),
        "empty": ({name: [] for name in NAMES}, "no rows"),
        "missing": (bad, "run row-1, column loss"),
        "list": ([1, 2], "cannot be read from a list"),
        "none": (None, "cannot be read from a NoneType"),
        "int": (3, "cannot be read from a int"),
        "frame without loss": (Frame({name: [1.0] for name in NAMES[:-1]}), "there is no column 'loss'"),
    }.values():
        with pytest.raises(UserError, match=says) as caught:
            read_table(source, "fid" if "fid" in says else "loss")
        assert str(caught.value).startswith("table: ") or "table, run" in str(caught.value)


@pytest.mark.slow
def test_verbs_take_what_read_table_takes(table, tmp_path):
    path = tmp_path / "runs.csv"
    rows = zip(*columns_of(table, np.ndarray.tolist).values(), strict=True)
    path.write_text("\n".join([",".join(NAMES), *(",".join(map(str, row)) for row in rows)]))
    wanted = fit(table, bootstrap=50).approach3
    for source in (path, str(path), columns_of(table), Frame(columns_of(table))):
        assert fit(source, bootstrap=50).approach3 == wanted
    made = forecast(columns_of(table), "1.5e21")
    sealed = seal(tmp_path / "forecast.json", made)
    n, d, loss = best(CHINCHILLA, 1.5e21)
    probed = {
        name: [*values, x]
        for (name, values), x in zip(columns_of(table).items(), ("p", n, d, 1.5e21, loss), strict=True)
    }
    assert verdict(sealed, probed | {"role": ["grid"] * 54 + ["probe"]}).inside
    assert compare({"a": path, "b": Frame(columns_of(table))}, 1.5e21).pairs[0].loss_ratio.value == 1
    with pytest.raises(UserError, match="two or more tables"):
        compare([path, path], 1.5e21)


def sweep():
    rows = [(n, 1e9, r * 1e-3, 0.5 + 0.02 * np.log(r / (n / 1e6) ** -0.3) ** 2)
            for n in (1e6, 2e6, 4e6, 8e6) for r in (0.25, 0.5, 1.0, 2.0)]  # fmt: skip
    return dict(zip(("n_params", "n_tokens", "lr", "loss"), map(list, zip(*rows, strict=True)), strict=True))


def test_rates_take_columns_too():
    wanted = fit_rates(read_trials(sweep())[0], 50)
    assert fit_rates(sweep(), 50) == fit_rates(Frame(sweep()), 50) == wanted
    with pytest.raises(UserError, match="table: there is no column 'lr'"):
        fit_rates({name: values for name, values in sweep().items() if name != "lr"})


@pytest.mark.parametrize(
    "target", [1.5e21, "1.5e21", np.float64(1.5e21), 15 * 10**20, ["1.5e21"], (1.5e21,), np.array([1.5e21])]
)
def test_one_target_or_several(table, target):
    assert list(fit(table, bootstrap=0, targets=target).predictions) == ["1.5e21"]


@pytest.mark.parametrize("target", [None, "much", [None], float("nan"), {"a": 1}, True])
def test_bad_targets_are_one_line(table, target):
    with pytest.raises(UserError, match="target"):
        fit(table, bootstrap=0, targets=target)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    table = study(CHINCHILLA, SIX, sizes=9, noise=0.003)
    other = Table.of(table.n_params, table.n_tokens, table.budget_flops, table.loss, columns={"<b>": table.loss + 0.1})
    sealed = seal(tmp_path_factory.mktemp("f") / "f.json", forecast(table, 1.5e21))
    n, d, loss = best(CHINCHILLA, 1.5e21)
    grown = Table.of(
        *(np.append(getattr(table, name), x) for name, x in zip(NAMES[1:], (n, d, 1.5e21, loss), strict=True))
    )
    return {
        "laws": fit(table, bootstrap=50, targets=[1.5e21, 3e21, 1e22, 1e23]),
        "refused": fit(study(MINIATURE, (1e11,), sizes=3), bootstrap=0),
        "forecast": sealed,
        "verdict": verdict(sealed, grown),
        "compare": compare({"a<i>": table, "b": table}, 1e21),
        "rates": fit_rates(sweep(), 50),
        "gap": fit_gap(other, "<b>"),
        "trend": fit_trend(other, "<b>"),
    }


@pytest.mark.parametrize("name", ["laws", "refused", "forecast", "verdict", "compare", "rates", "gap", "trend"])
def test_a_result_shows_itself_briefly(results, name):
    result = results[name]
    assert 1 <= len(repr(result).splitlines()) <= 10 and max(map(len, repr(result).splitlines()[1:] or [""])) < 100
    page = result._repr_html_()
    assert "<b>" not in page and "<i>" not in page and page.count("<tr>") == 1 + len(result.main())
    figure = result.plot()
    figure.canvas.draw()
    assert figure.axes and "matplotlib.pyplot" not in sys.modules
    for rows in result.tables().values():
        assert all(set(row) == set(rows[0]) for row in rows)


def test_tables_hold_the_numbers(results):
    laws = results["laws"]
    tables = laws.tables()
    assert len(tables["points"]) == 54 and [s["n_params"] for s in tables["slices"]] == [
        s.n_params for s in laws.slices
    ]
    (e,) = (r for r in tables["coefficients"] if (r["law"], r["name"]) == ("approach 3", "E"))
    assert (e["value"], e["low"], e["high"]) == tuple(vars(laws.approach3.E).values())
    assert {"loss", "loss_low", "loss_high"} <= set(results["forecast"].tables()["forms"][0])


def test_a_frame_where_pandas_is_there_and_one_line_where_not(results, monkeypatch):
    pandas = ModuleType("pandas")
    pandas.DataFrame = lambda rows: ("frame", rows)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert results["laws"].to_frame("slices") == ("frame", results["laws"].tables()["slices"])
    with pytest.raises(UserError, match="'slice' is not known; choose one of: main"):
        results["laws"].to_frame("slice")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pandas is not installed"):
        results["laws"].to_frame()
