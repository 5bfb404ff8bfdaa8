"""All finished runs of a study in one table: study.h5 and study.csv. Every run left out is listed with its reason.

study.h5 (attributes: `layout` = 1, `study` = text of study.yaml, and in words what laws must say of their runs:
`design`, `recipe`, `seeds`, `version`, `n_params`, `n_tokens`, `budget_flops` (how each is counted), `data`,
`evaluation` and, of a column other than a loss of the EMA weights, `evaluation_<column>`; of a rehearsal `rehearsal`,
and in study.csv a line `# rehearsal:`):
    points/<column>      one entry a run, columns as below; what was evaluated has its `unit` as an attribute
    excluded/run_id, excluded/reason
    curves/<run_id>      training curve, at most 500 rows: images, loss, loss_ema
    noise_levels/borders [L + 1] timesteps t between levels of noise, each with as many of the validation's triples;
    noise_levels/loss    [runs, L] validation loss between them; neither in a rehearsal
    covariance           [runs, runs] covariance of the validation losses' Monte-Carlo errors (the triples are shared)
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from .. import __version__
from ..config import Study, Validation
from ..errors import UserError
from ..files import write_bytes, write_text
from ..naming import RunPaths, StudyPaths
from ..plan.run import Run, read_run
from ..plan.study import gone, read_study
from ..rundir.evaluation import read_results
from ..rundir.record import Damaged, open_record, read_attempts, read_steps, read_validation, skipped_note
from ..rundir.strata import covariance, losses_of_levels, noise_levels
from .columns import Column, evaluated

# name in the table, and where it comes from
COLUMNS = (
    "run_id", "role", "budget_flops", "achieved_flops", "n_params", "n_params_matmul", "n_params_total", "n_tokens",
    "n_images", "tokens_per_image", "width", "depth", "seed", "lr", "batch_size", "loss", "loss_se", "raw_loss",
    "train_loss", "train_s", "attempts",
)  # fmt: skip
CURVE_ROWS = 500


@dataclass(frozen=True)
class Collected:
    """What `collect` found: rows (one dict a run: COLUMNS, `loss_<data set>` of each further data set, and what was
    evaluated) and exclusions."""

    rows: tuple[dict, ...]
    excluded: tuple[tuple[str, str], ...]  # (run_id, reason)
    rehearsal: str = ""  # where the losses come from, if the study is a rehearsal
    # of planned runs that are not there, evaluations that only some runs have, and steps that runs skipped
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        lines = [f"REHEARSAL: {self.rehearsal}"] if self.rehearsal else []
        lines += [f"{len(self.rows)} runs collected, {len(self.excluded)} left out"]
        lines += [f"  left out {run_id}: {reason}" for run_id, reason in self.excluded]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def collect(root: Path | str) -> Collected:
    """Read every run's record and write study.h5 and study.csv, each whole or not at all.

    A run counts when its record says finished and it has its validation loss, on the study's triples. Raises UserError
    when there is no run.
    """
    paths = StudyPaths(root)
    run_dirs = paths.run_dirs()
    if not run_dirs:
        settings = "" if paths.study.exists() else " study=mini"
        raise UserError(f"{root}: holds no runs; `ditscale plan {root}{settings}` plans them")
    study = read_study(root) if paths.study.exists() else None
    mark = _mark(study)
    rows, curves, samples, excluded, results, own, timesteps = [], {}, [], [], [], "", ""
    validation, skips = study and study.validation, []
    for at in run_dirs:
        try:
            run = read_run(at.run)
            row, curve, triples, skipped = _read(at, run, mark)
            validation = validation or run.validation  # without a study, the first run's
            _check_triples(run.validation, validation, len(triples), len(samples[0]) if samples else len(triples))
            measured = read_results(at.evaluation)
        except _LeftOut as reason:
            excluded.append((at.name, f"{'learning-rate sweep: ' if run.role == 'rate' else ''}{reason}"))
        except UserError as error:
            excluded.append((at.name, str(error)))
        else:
            rows.append(row)
            curves[run.run_id] = curve
            samples.append(triples)
            skips += [f"{run.run_id}: {skipped}"] if skipped else []
            own, timesteps = run.data.name, run.recipe.timesteps
            of_record = [own, *(name.removeprefix("loss_") for name in row if name.startswith("loss_"))]
            results.append([r for r in measured if not (r.metric == "val_loss" and r.dataset in of_record)])
    further, columns, notes = evaluated(own, results, study, [row["role"] for row in rows])
    rows = [row | more for row, more in zip(rows, further, strict=True)]
    order = sorted(
        range(len(rows)), key=lambda i: (rows[i]["role"], rows[i]["budget_flops"], rows[i]["n_params"], rows[i]["seed"])
    )
    rows = [rows[i] for i in order]
    samples = np.stack([samples[i] for i in order]) if order else np.zeros((0, 0))
    _write_h5(paths, study, rows, columns, excluded, curves, samples, timesteps)
    write_text(paths.csv, (f"# rehearsal: {mark}\n" if mark else "") + _csv(rows))
    missed = gone(paths, [at.name for at in run_dirs])
    return Collected(tuple(rows), tuple(excluded), mark, tuple(filter(None, [missed, *notes, *skips])))


class _LeftOut(Exception):
    pass


def _mark(made: Study | Run | None) -> str:
    return str(made.rehearsal) if made and made.rehearsal else ""


def _check_triples(here: Validation, there: Validation, n: int, n_others: int):
    """Losses are compared triple by triple, so a run measured on others than the study's, or on `n` where the runs
    before have `n_others`, is left out."""
    keys = ("n", "seed", "path")
    unlike = [
        f"{key} {mine!r}, not {its!r}" for key in keys if (mine := getattr(here, key)) != (its := getattr(there, key))
    ]
    if not unlike and n != n_others:
        unlike = [f"{n} in its record, not {n_others}"]
    if unlike:
        raise _LeftOut(f"it was measured on other validation triples than the study's ({', '.join(unlike)})")


def _read(at: RunPaths, run: Run, mark: str) -> tuple[dict, np.ndarray, np.ndarray, str]:
    """One run's row, curve and per-triple losses, and what to say of steps that it skipped. Rehearsed and trained runs
    never share a table: `mark` is the study's."""
    if _mark(run) != mark:
        raise _LeftOut("the study is a rehearsal and the run is not" if mark else "was planned for a rehearsal")
    if not at.metrics.exists():
        raise _LeftOut("not started")
    with open_record(at.metrics) as file:
        if file.attrs.get("rehearsal", "") != mark:
            raise _LeftOut("its record is not of this rehearsal" if mark else "its record was rehearsed, not trained")
        state = file["state"][()].decode()
        steps, validation, attempts = read_steps(file), read_validation(file), read_attempts(file)
        triples = file["samples"][0]
    if state == "diverged":
        raise _LeftOut(f"diverged after {int(steps['images'].max(initial=0))} images")
    if state != "finished":
        reached = int(steps["images"].max(initial=0))
        raise _LeftOut(f"{state}: {reached} of {run.n_images} images ({reached / run.n_images:.0%})")
    if not len(validation) or not np.isfinite(validation["loss"]).all() or validation["loss"].min() <= 0:
        raise Damaged(f"{at.metrics}: finished but without a validation loss; move it away and run again")
    row = {name: getattr(run, name) for name in COLUMNS if hasattr(run, name)}
    row |= {
        "batch_size": run.recipe.batch_size,
        "loss": float(validation["loss"][0]),
        "loss_se": float(validation["loss_se"][0]),
        "raw_loss": float(validation["raw_loss"][0]),
        "train_loss": float(steps["loss_ema"][-1]),
        "train_s": float(steps["elapsed_s"][-1]),
        "attempts": len(attempts),
    }
    for extra in validation[1:]:
        row[f"loss_{extra['dataset'].decode()}"] = float(extra["loss"])
    every = max(1, -(-len(steps) // CURVE_ROWS))
    curve = steps[every - 1 :: every][["images", "loss", "loss_ema"]]
    # counted in the rows, which hold no step twice, whoever trained it
    skipped = skipped_note(int(np.count_nonzero(~np.isfinite(steps["grad_norm"]))), len(steps))
    return row, curve, triples, skipped


def _write_h5(
    paths: StudyPaths,
    study: Study | None,
    rows: list[dict],
    columns: dict[str, Column],
    excluded: list,
    curves: dict,
    samples: np.ndarray,
    timesteps: str,
):
    text = h5py.string_dtype()
    memory = io.BytesIO()  # built in memory, then written whole: a reader never sees half a table
    with h5py.File(memory, "w") as file:
        file.attrs["layout"] = 1
        file.attrs["study"] = paths.study.read_text() if study else ""
        if study:
            file.attrs.update(
                provenance(study) | {f"evaluation_{name}": column.how for name, column in columns.items()}
            )
            if study.rehearsal:
                file.attrs["rehearsal"] = _mark(study)
        points = file.create_group("points")
        for name in _columns(rows):
            values = [row.get(name, np.nan) for row in rows]
            column = points.create_dataset(name, data=values, dtype=text if name in ("run_id", "role") else None)
            if name in columns:
                column.attrs["unit"] = columns[name].unit
        out = file.create_group("excluded")
        out.create_dataset("run_id", data=[r for r, _ in excluded], dtype=text)
        out.create_dataset("reason", data=[r for _, r in excluded], dtype=text)
        for run_id, curve in curves.items():
            file.create_dataset(f"curves/{run_id}", data=curve)
        file["covariance"] = covariance(samples)
        if rows and not _mark(study):
            borders = noise_levels(samples.shape[1], timesteps)
            file["noise_levels/borders"], file["noise_levels/loss"] = (
                borders,
                losses_of_levels(samples, len(borders) - 1),
            )
    write_bytes(paths.table, memory.getvalue())


def provenance(study: Study) -> dict[str, str]:
    """{key: words} of how the runs of a study were made and counted; the keys are those of laws/checklist.py."""
    design, data, recipe, validation = study.design, study.data, study.recipe, study.validation
    powers = {"width": recipe.lr_width, "N": recipe.lr_params, "D": recipe.lr_tokens}
    rate = " ".join([f"{recipe.lr_scale:g}", *(f"{name}^{power:g}" for name, power in powers.items() if power)])
    decay = recipe.weight_decay_law or f"{recipe.weight_decay:g}"
    mup = f" with mup from width {recipe.base_width}" if recipe.width_scaling == "mup" else ""
    sets = ", ".join([validation.path or data.name, *validation.also])
    triples = (
        f"{sets}: the same {validation.n} (image, noise, timestep) triples of seed {validation.seed} for every run, "
        "rectified-flow loss of the"
    )
    return {
        "design": f"{design.name}, head size {design.head_size}, MLP ratio {design.mlp_ratio}, patch {design.patch}, "
        f"width / depth {recipe.aspect:g}",
        "recipe": f"AdamW (beta {recipe.beta1:g}, {recipe.beta2:g}, weight decay {decay}, clip {recipe.clip:g}), "
        f"learning rate {rate}{mup}, batch {recipe.batch_law or recipe.batch_size} images, {recipe.schedule} schedule, "
        f"warm-up {recipe.warmup_law or recipe.warmup_images} images, EMA weights over {recipe.ema:g} of the run, "
        f"{recipe.timesteps} timesteps, {recipe.precision}",
        "seeds": ", ".join(map(str, study.seeds)),
        "version": f"ditscale {__version__}",
        "n_params": {
            "matmul": "weights of all matrix products",
            "total": "all parameters",
            "blocks": "weights of the transformer blocks only",
        }[study.params],
        "n_tokens": "tokens that pass the blocks, all images seen (a repeated image counts each time)",
        "budget_flops": {
            "exact": "every matrix product of forward and backward, attention included",
            "6nd": "6 N D",
        }[study.flops],
        "data": f"{data.name}: {data.path or data.source}, "
        f"{data.channels} x {data.resolution} x {data.resolution}, seed {data.seed}",
        "evaluation": f"{triples} EMA weights",
        "evaluation_raw_loss": f"{triples} raw weights",
        "evaluation_train_loss": "running mean of the loss of the batches that were trained on",
    }


def _columns(rows: list[dict]) -> list[str]:
    extra = sorted({name for row in rows for name in row} - set(COLUMNS))
    return [*COLUMNS, *extra]


def _csv(rows: list[dict]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
