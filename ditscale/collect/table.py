"""All finished runs of a study in one table: study.h5 and study.csv. Every run left out is listed with its reason.

docs/study.md explains study.h5. Shapes: points/<column> [runs], with the fields of `ColumnInfo` as attributes;
curves/<run_id> [rows of images, loss, loss_ema]; noise_levels/borders [L + 1] and /loss [runs, L], not in a rehearsal;
covariance [runs, runs]. Attributes: `layout` = 1, `study` = text of study.yaml, those of `provenance`,
`evaluation_<column>`, and of a rehearsal `rehearsal`, which study.csv has as a line above its header."""

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from .. import __version__
from ..config import Study, Validation
from ..errors import UserError
from ..files import write_bytes, write_text
from ..naming import RunPaths, StudyPaths
from ..plan.run import Run, read_run
from ..plan.study import gone, read_study
from ..quantities import FLOPS, PARAMS, TOKENS, ColumnInfo
from ..rundir.evaluation import Result, read_results
from ..rundir.record import Damaged, open_record, read_attempts, read_steps, read_validation, skipped_note
from ..rundir.strata import covariance, losses_of_levels, noise_levels
from .columns import evaluated

# Columns of every study, in the table's order.
COLUMNS = (
    "run_id", "role", "budget_flops", "achieved_flops", "n_params", "n_params_matmul", "n_params_total", "n_tokens",
    "n_images", "tokens_per_image", "width", "depth", "seed", "data_seed", "trajectory",
    "lr", "batch_size", "loss", "loss_se", "raw_loss", "train_loss", "train_s", "attempts",
)  # fmt: skip
CURVE_ROWS = 500
LOSSES = ("loss", "raw_loss", "train_loss")  # Those of them that are metrics, beside the standard error of `loss`.


@dataclass(frozen=True)
class Collected:
    """What `collect` wrote, and what it left out."""

    rows: tuple[dict, ...]  # Of each run: COLUMNS, `loss_<data set>` of further data sets, and what was evaluated.
    excluded: tuple[tuple[str, str], ...]  # (run_id, reason).
    rehearsal: str = ""  # Where the losses come from, if the study is a rehearsal.
    notes: tuple[str, ...] = ()  # Planned runs that are not there, evaluations of only some runs, skipped steps.

    def summary(self) -> str:
        lines = [f"REHEARSAL: {self.rehearsal}"] if self.rehearsal else []
        lines += [f"{len(self.rows)} runs collected, {len(self.excluded)} left out"]
        lines += [f"  left out {run_id}: {reason}" for run_id, reason in self.excluded]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


class _Record(NamedTuple):
    """What one finished run gives the table."""

    run: Run
    row: dict[str, Any]
    info: dict[str, ColumnInfo]
    curve: np.ndarray
    triples: np.ndarray  # The losses of its validation's triples.
    results: list[Result]
    skipped: str  # What to say of steps that it skipped.


def collect(root: Path | str) -> Collected:
    """Read every run's record and write study.h5 and study.csv, each whole or not at all. A run counts when its record
    says finished and it has its validation loss, on the study's triples. Raises UserError when there is no run."""
    paths = StudyPaths(root)
    run_dirs = paths.run_dirs()
    if not run_dirs:
        settings = "" if paths.study.exists() else " study=mini"
        raise UserError(f"{root}: holds no runs; `ditscale plan {root}{settings}` plans them")
    study = read_study(root) if paths.study.exists() else None
    mark, validation = _mark(study), study and study.validation
    found, excluded = list[_Record](), []
    for at in run_dirs:
        try:
            run = read_run(at.run)
            record = _read(at, run, mark)
            validation = validation or run.validation  # Without a study, the first run's.
            _check_triples(run.validation, validation, len(record.triples), len((found or [record])[0].triples))
        except _LeftOut as reason:
            excluded.append((at.name, f"{'learning-rate sweep: ' if run.role == 'rate' else ''}{reason}"))
        except UserError as error:
            excluded.append((at.name, str(error)))
        else:
            found.append(record)
    found.sort(key=lambda r: (r.run.role, r.run.budget_flops, r.run.n_params, r.run.seed))
    own = found[0].run.data.name if found else ""
    more = evaluated(own, [r.results for r in found], study, [r.run.role for r in found])
    rows = [r.row | further for r, further in zip(found, more.rows, strict=True)]
    info = {name: i for r in found for name, i in r.info.items()} | more.columns
    words = (provenance(study) | {f"evaluation_{name}": how for name, how in more.how.items()}) if study else {}
    text = paths.study.read_text() if study else ""
    write_bytes(paths.table, _h5({"layout": 1, "study": text} | words, mark, found, rows, info, excluded))
    write_text(paths.csv, _csv(rows, mark))
    notes = [gone(paths, [at.name for at in run_dirs]), *more.notes]
    notes += [f"{r.run.run_id}: {r.skipped}" for r in found if r.skipped]
    return Collected(tuple(rows), tuple(excluded), mark, tuple(filter(None, notes)))


class _LeftOut(Exception):
    pass


def _mark(of: Study | Run | None) -> str:
    return str(of.rehearsal) if of and of.rehearsal else ""


def _check_triples(here: Validation, there: Validation, n: int, n_others: int) -> None:
    """Losses are compared triple by triple: a run with others than the study's, or other than `n_others`, is out."""
    both = [(key, getattr(here, key), getattr(there, key)) for key in ("n", "seed", "path")]
    unlike = [f"{key} {mine!r}, not {its!r}" for key, mine, its in both if mine != its]
    if n != n_others and not unlike:
        unlike = [f"{n} in its record, not {n_others}"]
    if unlike:
        raise _LeftOut(f"it was measured on other validation triples than the study's ({', '.join(unlike)})")


def _read(at: RunPaths, run: Run, mark: str) -> _Record:
    """One run's record. Rehearsed and trained runs never share a table: `mark` is the study's."""
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
    reached = int(steps["images"].max(initial=0))
    if state == "diverged":
        raise _LeftOut(f"diverged after {reached} images")
    if state != "finished":
        raise _LeftOut(f"{state}: {reached} of {run.n_images} images ({reached / run.n_images:.0%})")
    if not len(validation) or not np.isfinite(validation["loss"]).all() or validation["loss"].min() <= 0:
        raise Damaged(f"{at.metrics}: finished but without a validation loss; move it away and run again")
    own, last = run.data.name, steps[-1]
    row = {name: getattr(run, name) for name in COLUMNS if hasattr(run, name)}
    row |= {name: float(validation[name][0]) for name in ("loss", "loss_se", "raw_loss")}
    row |= {"train_loss": float(last["loss_ema"]), "train_s": float(last["elapsed_s"])}
    row |= {"batch_size": run.recipe.batch_size, "attempts": len(attempts), "data_seed": run.data.seed}
    row |= {"trajectory": run.within or run.run_id}  # Nested runs are readings of one training.
    info = {name: ColumnInfo(name, own) for name in LOSSES} | {"loss_se": ColumnInfo("loss", own, quantity="se")}
    for other in validation[1:]:
        column = ColumnInfo("loss", other["dataset"].decode())
        row[column.name(own)], info[column.name(own)] = float(other["loss"]), column
    of_record = {i.dataset for i in info.values()}
    results = [r for r in read_results(at.evaluation) if not (r.metric == "val_loss" and r.dataset in of_record)]
    every = max(1, -(-len(steps) // CURVE_ROWS))
    curve = steps[every - 1 :: every][["images", "loss", "loss_ema"]]
    # Counted in the rows, which hold no step twice, whoever trained it.
    skipped = skipped_note(int(np.count_nonzero(~np.isfinite(steps["grad_norm"]))), len(steps))
    return _Record(run, row, info, curve, triples, results, skipped)


def _h5(
    attributes: dict[str, Any], mark: str, found: list[_Record], rows: list[dict[str, Any]],
    info: dict[str, ColumnInfo], excluded: list[tuple[str, str]],
) -> bytes:  # fmt: skip
    """The content of study.h5, to be written whole: a reader never sees half a table."""
    text, memory = h5py.string_dtype(), io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs.update(attributes | ({"rehearsal": mark} if mark else {}))
        points = file.create_group("points")
        for name in _columns(rows):
            values = [row.get(name, np.nan) for row in rows]
            column = points.create_dataset(
                name, data=values, dtype=text if name in ("run_id", "role", "trajectory") else None
            )
            column.attrs.update(asdict(info[name]) if name in info else {})
        for i, name in enumerate(("run_id", "reason")):
            file.create_dataset(f"excluded/{name}", data=[pair[i] for pair in excluded], dtype=text)
        for record in found:
            file.create_dataset(f"curves/{record.run.run_id}", data=record.curve)
        triples = np.stack([r.triples for r in found]) if found else np.zeros((0, 0))
        file["covariance"] = covariance(triples)
        if found and not mark:
            borders = noise_levels(triples.shape[1], found[-1].run.recipe.timesteps)
            file["noise_levels/borders"] = borders
            file["noise_levels/loss"] = losses_of_levels(triples, len(borders) - 1)
    return memory.getvalue()


def provenance(study: Study) -> dict[str, str]:
    """{key: words} of how the runs of a study were made and counted; the keys are those of laws/checklist.py."""
    design, data, recipe, validation = study.design, study.data, study.recipe, study.validation
    powers = {"width": recipe.lr_width, "N": recipe.lr_params, "D": recipe.lr_tokens}
    rate = " ".join([f"{recipe.lr_scale:g}", *(f"{name}^{power:g}" for name, power in powers.items() if power)])
    decay = recipe.weight_decay_law or f"{recipe.weight_decay:g}"
    mup = f" with mup from width {recipe.base_width}" if recipe.width_scaling == "mup" else ""
    sets = ", ".join([validation.path or data.name, *validation.also])
    of = f"of seed {validation.seed} for every run, rectified-flow loss of the"
    triples = f"{sets}: the same {validation.n} (image, noise, timestep) triples {of}"
    return {
        "design": f"{design.name}, head size {design.head_size}, MLP ratio {design.mlp_ratio}, patch {design.patch}, "
        f"width / depth {recipe.aspect:g}",
        "recipe": f"AdamW (beta {recipe.beta1:g}, {recipe.beta2:g}, weight decay {decay}, clip {recipe.clip:g}), "
        f"learning rate {rate}{mup}, batch {recipe.batch_law or recipe.batch_size} images, {recipe.schedule} schedule, "
        f"warm-up {recipe.warmup_law or recipe.warmup_images} images, EMA weights over {recipe.ema:g} of the run, "
        f"{recipe.timesteps} timesteps, {recipe.precision}",
        "seeds": ", ".join(map(str, study.seeds)),
        "version": f"ditscale {__version__}",
        "n_params": PARAMS[study.params],
        "n_tokens": TOKENS,
        "budget_flops": FLOPS[study.flops],
        "data": f"{data.name}: {data.path or data.source}, "
        f"{data.channels} x {data.resolution} x {data.resolution}, seed {data.seed}",
        "evaluation": f"{triples} EMA weights",
        "evaluation_raw_loss": f"{triples} raw weights",
        "evaluation_train_loss": "running mean of the loss of the batches that were trained on",
    }


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return [*COLUMNS, *sorted({name for row in rows for name in row} - set(COLUMNS))]


def _csv(rows: list[dict[str, Any]], mark: str) -> str:
    out = io.StringIO()
    out.write(f"# rehearsal: {mark}\n" if mark else "")
    writer = csv.DictWriter(out, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
