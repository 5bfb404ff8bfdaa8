"""A damaged or foreign file of a study is one line that says which file and what to type, or a page; never a traceback.

Keys and datasets are dropped, or given another type, shape or value: all of the outermost ones are dropped, and CASES
of all other changes are drawn, always the same ones.
"""

import copy
import json
import shutil

import h5py
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from ditscale.errors import UserError
from ditscale.naming import StudyPaths
from ditscale.pipeline import fit_sweep
from ditscale.report.isoflop import powerlaws_plot, slices_plot
from ditscale.report.page import PLOTS, html
from ditscale.report.read import best_run, read_study_results
from ditscale.report.samples import page_list, samples_plot
from ditscale.report.style import RC
from ditscale.report.training import rates_plot

CASES = 60
# The figures that each file has a part in.
FIGURES = {
    "laws": (slices_plot, powerlaws_plot),
    "verdict": (powerlaws_plot,),
    "forecast": (powerlaws_plot,),
    "rates": (rates_plot,),
    "evaluation": (samples_plot,),
    "study": PLOTS,
}
DROP = object()
VALUES = (DROP, None, "x", "", True, -1, 0, 0.5, 1e300, -1e300, 10**400, [], {}, [None], {"x": 1})
SHAPES = ("drop", "group", "scalar", "texts", "null", "shorter", "longer", "2-D", "bytes", "structured", "none")
NUMBERS = (np.nan, np.inf, 0, -1, 1e300)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(study):
    """A study with everything that a report reads."""
    paths = study("rates=[0.25,0.5,1,2,4]", bootstrap=50)
    fit_sweep(str(paths.root))
    return paths


@pytest.fixture
def damaged(whole, tmp_path):
    """A copy of it, to be damaged."""
    root = tmp_path / "s"
    shutil.copytree(whole.root, root, ignore=shutil.ignore_patterns("report", "attempts", "metrics.h5"))
    return StudyPaths(root)


def report(paths, figures):
    """Read a study, make the page and draw figures, without saving them; returns whether there was a page. A UserError
    is one line that names a file of the study and a command."""
    try:
        results = read_study_results(paths.root)
    except UserError as error:
        assert "\n" not in str(error) and str(paths.root) in str(error)
        assert "`ditscale " in str(error) or "forecast.json" in str(error)  # No command makes a sealed forecast again.
        return False
    with np.errstate(all="ignore"):
        plots = [plot for plot in (make(results) for make in figures) if plot]
        assert html(results, []).endswith("</html>\n") and (not results.samples or page_list(results.samples))
        with matplotlib.rc_context(RC):
            for panel in (panel for plot in plots for panel in plot.panels):
                panel.draw(Figure())
    return True


def pages(cases, change, paths, name):
    """How many of the cases gave a page; the case is added to whatever else is raised."""
    count = 0
    for case in cases:
        change(*case)
        try:
            count += report(paths, FIGURES[name])
        except Exception as error:
            error.add_note(f"after the change {case}")
            raise
    return count


def drawn(cases):
    """CASES of them, always the same."""
    return [cases[i] for i in np.random.default_rng(len(cases)).permutation(len(cases))[:CASES]]


def places(body, at=()):
    """The paths of all parts of a JSON body; of a list, of its first and its last part."""
    keys = body if isinstance(body, dict) else range(0, len(body), max(1, len(body) - 1))
    for key in keys:
        yield (*at, key)
        if isinstance(body[key], (dict, list)):
            yield from places(body[key], (*at, key))


@pytest.mark.parametrize("name", ["laws", "verdict", "rates", "forecast"])
def test_json(damaged, name):
    path = getattr(damaged, name)
    body = json.loads(path.read_text())

    def change(place, value):
        other = copy.deepcopy(body)
        part = other
        for key in place[:-1]:
            part = part[key]
        if value is DROP:
            del part[place[-1]]
        else:
            part[place[-1]] = value
        path.write_text(json.dumps(other))

    cases = [(place, value) for place in places(body) for value in VALUES]
    outermost = [((key,), DROP) for key in body]
    assert pages(outermost + drawn(cases), change, damaged, name) < len(outermost) + CASES


def h5_cases(path):
    """[(name, change)]: every group, dataset and attribute of a file, and what `change_h5` can do with it."""
    cases, names = [("", "truncated"), ("", "empty")], []
    with h5py.File(path) as file:
        file.visit(names.append)
        curves = [name for name in names if name.startswith("curves/")]
        for name in [name for name in names if name not in curves[2:]]:
            at = file[name]
            dataset = isinstance(at, h5py.Dataset)
            cases += [(name, how) for how in SHAPES if dataset or how in ("drop", "scalar", "texts", "null")]
            cases += [(name, value) for value in NUMBERS if dataset and at.dtype.kind in "fiuV"]
            cases += [(f"{name}@{key}", value) for key in at.attrs for value in (7, b"\xff", [1, 2])]
        cases += [(f"@{key}", value) for key in file.attrs for value in (7, b"\xff", [1, 2])]
    return cases


def change_h5(path, content, name, how):
    """Write `content` (bytes of an HDF5 file) with one thing changed."""
    path.write_bytes({"truncated": content[:3000], "empty": b""}.get(str(how), content))
    if not name:
        return
    with h5py.File(path, "r+") as file:
        if "@" in name:
            place, key = name.split("@")
            (file[place] if place else file).attrs[key] = how
            return
        values = file[name][()] if isinstance(file[name], h5py.Dataset) else np.zeros(3)
        old = h5py.string_dtype() if values.dtype.kind == "O" else None
        del file[name]
        if how == "group":
            file.create_group(name)
        elif how in ("scalar", "null"):
            file[name] = 7.0 if how == "scalar" else h5py.Empty("f8")
        elif how == "texts":
            file.create_dataset(name, data=["x"] * len(values), dtype=h5py.string_dtype())
        elif how == "bytes":
            file[name] = np.full(len(values), b"\xff\xfe", "S2")
        elif how == "structured":
            file[name] = np.zeros(len(values), [("images", "S3"), ("loss_ema", "f8")])
        elif how in ("shorter", "longer", "none"):
            rows = {"shorter": values[1:], "none": values[:0], "longer": np.concatenate([values[:1], values])}
            file.create_dataset(name, data=rows[how], dtype=old)
        elif how == "2-D":
            file.create_dataset(name, data=[values, values], dtype=old or values.dtype)
        elif how != "drop":
            array = values if values.dtype.names else values.astype(float)
            (array["loss_ema"] if array.dtype.names else array)[:1] = how
            file[name] = array


@pytest.mark.parametrize("name", ["study", "evaluation"])
def test_hdf5(damaged, name):
    best = best_run(read_study_results(damaged.root).table)
    path = damaged.table if name == "study" else damaged.run(best).evaluation
    content, cases = path.read_bytes(), h5_cases(path)
    outermost = [case for case in cases if case[1] == "drop" and "/" not in case[0]]
    chosen = outermost + drawn(cases)
    assert 0 < pages(chosen, lambda *case: change_h5(path, content, *case), damaged, name) < len(chosen)
