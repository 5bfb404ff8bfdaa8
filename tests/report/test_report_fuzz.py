"""A damaged or foreign file of a study is one line that says which file and what to type, or a page; never a traceback.

Every key and dataset is dropped, or given another type, shape or value, in turn. `--run-all`
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
from ditscale.report.page import PLOTS, html
from ditscale.report.read import read_study_results
from ditscale.report.style import RC, render

DROP = object()
VALUES = (DROP, None, "x", "", True, -1, 0, 0.5, 1e300, -1e300, 10**400, [], {}, [None], {"x": 1})
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(study):
    """A study with everything that a report reads."""
    paths = study("rates=[0.25,0.5,1,2,4]", bootstrap=50)
    fit_sweep(str(paths.root), bootstrap=50)
    return paths


@pytest.fixture
def damaged(whole, tmp_path):
    root = tmp_path / "s"
    shutil.copytree(whole.root, root, ignore=shutil.ignore_patterns("report", "attempts", "metrics.h5"))
    return StudyPaths(root)


def report(paths, fully=False):
    """Read and draw all that a report holds, without saving the figures unless `fully`; a UserError is one line that
    names a file of the study and a command. Returns whether there was a page."""
    try:
        results = read_study_results(paths.root)
    except UserError as error:
        assert "\n" not in str(error) and str(paths.root) in str(error) and "`ditscale " in str(error), error
        return False
    plots = [plot for plot in (make(results) for make in PLOTS) if plot]
    assert html(results, []).endswith("</html>\n")
    with matplotlib.rc_context(RC), np.errstate(all="ignore"):
        for plot in plots:
            for panel in plot.panels:
                panel.draw(Figure())
            if fully:
                render(plot)
    return True


def places(body, at=()):
    """The paths of all parts of a JSON body; of a list, of its first and its last part."""
    if isinstance(body, dict):
        for key, part in body.items():
            yield (*at, key)
            yield from places(part, (*at, key))
    elif isinstance(body, list):
        for i in range(0, len(body), max(1, len(body) - 1)):
            yield (*at, i)
            yield from places(body[i], (*at, i))


def changed(body, place, value):
    body = copy.deepcopy(body)
    part = body
    for key in place[:-1]:
        part = part[key]
    if value is DROP:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return body


@pytest.mark.parametrize("name", ["laws", "verdict", "rates", "forecast"])
def test_json(damaged, name):
    path = getattr(damaged, name)
    body = json.loads(path.read_text())
    cases = [(place, value) for place in places(body) for value in VALUES]
    rng = np.random.default_rng(len(cases))
    first = [(place, DROP) for place in places(body) if len(place) == 1]
    pages = 0
    for place, value in [*first, *(cases[i] for i in rng.permutation(len(cases))[:CASES])]:
        path.write_text(json.dumps(changed(body, place, value)))
        try:
            pages += report(damaged)
        except Exception as error:
            error.add_note(f"{name}.json: {place} = {value!r}")
            raise
    print(name, len(cases), pages)


def h5_cases(path):
    """[(name, change)]: every group, dataset and attribute of a file, and what `change_h5` can do with it."""
    cases = [("", "truncated"), ("", "empty")]
    with h5py.File(path) as file:
        names = []
        file.visit(names.append)
        curves = [name for name in names if name.startswith("curves/")]
        for name in (name for name in names if name not in curves[2:]):
            cases += [(name, "drop"), (name, "group"), (name, "number"), (name, "texts"), (name, "null")]
            if isinstance(file[name], h5py.Dataset):
                cases += [(name, how) for how in ("shorter", "2-D", "bytes", "structured", "none")]
                cases += [(name, value) for value in (np.nan, np.inf, 0, -1, 1e300)]
                cases += [(f"{name}@{key}", value) for key in file[name].attrs for value in (7, b"\xff", [1, 2])]
        cases += [(f"@{key}", value) for key in file.attrs for value in (7, b"\xff", [1, 2])]
    return cases


def change_h5(path, name, how):
    if name == "":
        path.write_bytes(path.read_bytes()[:3000] if how == "truncated" else b"")
        return
    with h5py.File(path, "r+") as file:
        if "@" in name:
            place, key = name.split("@")
            (file[place] if place else file).attrs[key] = how
            return
        old = file[name]
        values = old[()] if isinstance(old, h5py.Dataset) else np.zeros(3)
        del file[name]
        text = h5py.string_dtype()
        if how == "group":
            file.create_group(name)
        elif how == "texts":
            file.create_dataset(name, data=["x"] * len(values), dtype=text)
        elif how == "null":
            file[name] = h5py.Empty("f8")
        elif how == "structured":
            file[name] = np.zeros(len(values), [("images", "S3"), ("loss_ema", "f8")])
        elif how != "drop":
            arrays = {"number": 7.0, "shorter": values[1:], "2-D": np.stack([values, values]), "none": values[:0]}
            arrays["bytes"] = np.full(len(values), b"\xff\xfe", "S2")
            array = arrays.get(how) if isinstance(how, str) else values
            if not isinstance(how, str) and values.dtype.kind in "iuf":
                array = values.astype(float)
                array.flat[:1] = how
            elif not isinstance(how, str) and values.dtype.kind == "V":
                for field in values.dtype.names:
                    values[field][:2] = how if np.isfinite(how) or values[field].dtype.kind == "f" else 0
            file.create_dataset(name, data=array, dtype=text if array is values and array.dtype.kind == "O" else None)
