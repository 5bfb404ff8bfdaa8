"""Whole studies without training: the real plan, records, collect and laws, with losses from a known surface."""

import h5py
import numpy as np
import pytest

from ditscale import laws
from ditscale.collect.table import collect
from ditscale.config import compose
from ditscale.pipeline import give_verdict, seal_forecast, write_json
from ditscale.plan.grid import plan_runs
from ditscale.plan.study import write_run, write_study
from ditscale.rundir.record import STEP, VALIDATION, Record

# A grid, and a surface whose minima lie inside it.
GRID = [
    "study=mini", "~evaluation", "budgets=[1e11,3e11,9e11]", "probe_budget=7.2e12", "recipe.aspect=16",
    "recipe.min_steps=200",
    "widths=[[24,32,40,48,64],[32,40,48,56,72],[40,48,56,72,88]]",
]  # fmt: skip
E, A, B, POWER = 0.05, 80.0, 300.0, 0.55  # loss = E + A N^-POWER + B D^-POWER
OFFSET = 0.02  # the out-of-domain loss is this much above


def surface(n_params, n_tokens):
    return E + A * n_params**-POWER + B * n_tokens**-POWER


def best_rate(n_params):
    return 4.0 * n_params**-0.58


def train(at, run, rng, state="finished", noise=0.003, rows=150):
    """Write a run's record as training would, with far fewer rows than steps."""
    off = np.log(run.lr / best_rate(run.n_params)) if run.role == "rate" else 0  # its best rate is near the recipe's
    loss = surface(run.n_params, run.n_tokens) * (1 + 0.03 * off**2) * (1 + noise * rng.standard_normal())
    images = np.unique(np.geomspace(run.recipe.batch_size, run.n_images, rows).astype(int))
    steps = np.zeros(len(images), STEP)
    steps["images"] = images
    steps["loss_ema"] = loss * (images / run.n_images) ** -0.25 * (1 + 0.02 * rng.standard_normal(len(images)))
    steps["loss"], steps["elapsed_s"] = steps["loss_ema"], images / 500
    sets = [run.data.name] + [d.name for d in run.validation.also.values()]
    record = Record(at.metrics, at.run.read_text(), len(steps), sets, 64)
    record.begin(1e9, 0, 1, "test")
    record.write_steps(0, steps)
    if state == "finished":
        for i, name in enumerate(sets):
            row = np.zeros((), VALIDATION)
            mean = loss + i * OFFSET
            row["dataset"], row["images"], row["loss"], row["loss_se"] = name.encode(), run.n_images, mean, 0.004 * loss
            row["raw_loss"] = mean * 1.02
            record.write_validation(i, row, (mean + 0.03 * loss * rng.standard_normal(64)).astype("f4"))
    record.end(state, 1e9 + 60)
    record.close()


def evaluate(paths, run_id, n=8):
    """Write evaluation.h5 as `ditscale evaluate` does, with noise for pictures."""
    rng = np.random.default_rng(5)
    with h5py.File(paths.run(run_id).evaluation, "w") as file:
        file.attrs.update({"layout": 1, "run_id": run_id, "sampler": "heun", "steps": 32, "seed": 0, "wall_s": 1.0})
        for name in ("generated", "reference"):
            file[f"samples/{name}"] = rng.integers(0, 255, (n, 12, 12, 3), dtype=np.uint8)
        captions = [f"a red <i>ship</i> & {i} cats, on blue" for i in range(n)]
        file.create_dataset("samples/captions", data=captions, dtype=h5py.string_dtype())


def build(root, *settings, fit=True, forecast=True, probe=0.0, samples=True, unfinished=0, bootstrap=200):
    """A study in `root`. probe: the relative offset of the probe's loss from the surface, None for no probe."""
    rng = np.random.default_rng(1)
    study = compose([*GRID, *settings])
    paths = write_study(root, study)
    runs = plan_runs(study).runs
    for i, run in enumerate(runs):
        train(write_run(paths, run), run, rng, "stopped" if i < unfinished else "finished")
    collect(root)
    if fit:
        table = laws.read_table(root)
        write_json(paths.laws, laws.fit(table, bootstrap=bootstrap, targets=(f"{study.probe_budget:g}",)).to_dict())
        if forecast:
            _, run = seal_forecast(str(root))
            if probe is not None:
                at = paths.run(run.run_id)
                train(at, run, rng, noise=0)
                if probe:
                    with h5py.File(at.metrics, "r+") as file:
                        rows = file["validation"][:]
                        rows["loss"] *= 1 + probe
                        file["validation"][...] = rows
                give_verdict(str(root))
    if samples:
        with h5py.File(paths.table) as file:
            evaluate(paths, file["points/run_id"][int(np.argmin(file["points/loss"]))].decode())
    return paths


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """`build` in a new directory: study(*settings, **options) returns its StudyPaths."""
    return lambda *settings, **options: build(tmp_path_factory.mktemp("study") / "s", *settings, **options)


@pytest.fixture(scope="session")
def held(study):
    """A complete study whose probe lies on the law."""
    return study()


@pytest.fixture(scope="session")
def failed(study):
    """A complete study whose probe lies 12 % above the law."""
    return study(probe=0.12)
