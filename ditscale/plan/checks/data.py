"""Whether the files of images are there, fit the study, and hold images enough."""

from collections.abc import Iterator
from dataclasses import replace
from os.path import exists, samefile
from typing import TYPE_CHECKING, NamedTuple

from ...config import Data, Study
from ...errors import UserError
from ...units import count
from ..grid import Plan, plan_probe
from ..run import Run
from .check import Check, found, size
from .design import believed_optimum

if TYPE_CHECKING:
    from ...image_file import ImageFile

# Up to this many passes, repeated data were almost worth new ones: Muennighoff et al., "Scaling data-constrained
# language models" (arXiv 2305.16264), of language models.
MOST_PASSES = 4.0


class Named(NamedTuple):
    """A data set of the study that is a file: the setting that names it, its description, its content if it is here."""

    key: str
    data: Data
    content: "ImageFile | None"


def check_data(study: Study, plan: Plan) -> Iterator[Check]:
    """All findings about the files that the runs read. A rehearsal reads none."""
    if study.rehearsal:
        return
    named, broken = [], list[Check]()
    for key, data in _files(study):
        try:
            named.append(Named(key, data, _read(data.path)))
        except UserError as error:
            message, _, cure = str(error).rpartition("; ")
            broken.append(found("data_file", f"{key}: {message}", cure))
    yield from broken
    yield from _missing(named, plan)
    here = [(each, each.content) for each in named if each.content]
    for each, content in here:
        yield from _shapes(each, content, study)
    training = next((content for each, content in here if each.key == "data.path"), None)
    for each, content in here:
        if each.key != "data.path":
            yield from _enough(each, content, study)
            if training:
                yield from _unlike(each, content, training)
    if training:
        yield from _passes(study, plan, training)


def _files(study: Study) -> Iterator[tuple[str, Data]]:
    """(setting, data set with the path that it names) of each data set that is a file."""
    if study.data.source == "latents":
        yield "data.path", study.data
        yield "validation.path", replace(study.data, path=study.validation.path)
    for label, data in study.validation.also.items():
        if data.source == "latents":
            yield f"validation.also.{label}.path", data


def _read(path: str) -> "ImageFile | None":
    """None where there is no such file. Raises UserError at a file that is no file of images."""
    from ...image_file import read_image_file

    return read_image_file(path) if exists(path) else None


def _missing(named: list[Named], plan: Plan) -> Iterator[Check]:
    missing = [each for each in named if each.content is None]
    if missing:
        files = ", ".join(f"{each.key}={each.data.path}" for each in missing)
        longest = max(run.n_images for run in plan.runs)
        text = f"{files}: no such file here, so shapes and passes were not checked; the longest run trains on"
        cure = f"set {' '.join(f'{each.key}=FILE' for each in missing)}, or plan where the files are (docs/data.md)"
        yield found("data_missing", f"{text} {count(longest)} images", cure, float(longest))


def _shapes(each: Named, content: "ImageFile", study: Study) -> Iterator[Check]:
    from ...image_file import other_shapes

    if unlike := other_shapes(each.data, content):
        text = ", ".join(f"{name} is {here}, and {there} in the study" for name, there, here in unlike)
        cure = "set " + " ".join(f"data.{name}={here}" for name, _, here in unlike)
        cure += " if that is the study's data" if each.key == "data.path" else " if all its files are so"
        yield found("data_shapes", f"{each.key}={each.data.path}: {text}", cure)


def _enough(each: Named, content: "ImageFile", study: Study) -> Iterator[Check]:
    """Whether a file to be measured on holds the images that the study asks for."""
    asks = {"validation.n": study.validation.n} | {f"evaluation.{m}.n": how.n for m, how in study.evaluation.items()}
    short = {key: n for key, n in asks.items() if n > content.n_images}
    if short:
        text = f"{each.key}={each.data.path}: holds {content.n_images} images, fewer than {max(short.values())}"
        cure = f"set {' '.join(f'{key}={content.n_images}' for key in short)}"
        yield found("too_few_images", text, cure, float(content.n_images))


def _unlike(each: Named, content: "ImageFile", training: "ImageFile") -> Iterator[Check]:
    """Whether a file to be measured on is another file than that of training, and made as that was."""
    from ...image_file import check_makers

    where = f"{each.key}={each.data.path}"
    if samefile(content.path, training.path):
        text = f"{where} is the file of training, so its loss is not one of held-out images"
        yield found("held_out_is_training", text, f"set {each.key}=FILE to images that no run trains on")
    scales = (content.shift, content.scale), (training.shift, training.scale)
    if scales[0] != scales[1]:
        here, there = (f"shift {shift:g} and scale {scale:g}" for shift, scale in scales)
        text = f"{where} has {here}, and {training.path} has {there}"
        yield found("unlike_files", text, "write both with the same shift and scale (docs/data.md)")
    try:
        check_makers(training, content, where)
    except UserError as error:
        message, _, cure = str(error).rpartition("; ")
        yield found("unlike_files", message, cure)


def _passes(study: Study, plan: Plan, training: "ImageFile") -> Iterator[Check]:
    """`too_few_images` for a batch, else `many_passes` of the runs and `probe_passes`."""
    unique, where = training.n_images, f"data.path={training.path}"
    batch = max(run.recipe.batch_size for run in plan.runs)
    if unique < batch:
        text = f"{where}: holds {unique} images, fewer than the {batch} of one batch"
        yield found("too_few_images", text, "give more images, or a smaller recipe.batch_size", float(unique))
        return
    longest = max(plan.runs, key=lambda run: run.n_images)
    over = [run for run in plan.runs if run.n_images > MOST_PASSES * unique]
    if over:
        text = (
            f"{size(longest)} passes {longest.n_images / unique:.3g} times over the {count(unique)} images of {where}"
        )
        text += f", and {len(over)} of {len(plan.runs)} runs over {MOST_PASSES:g} times"
        cure = f"give more images, or leave these sizes out: {_named(over)}"
        yield found("many_passes", text, cure, longest.n_images / unique, over)
    elif believed := believed_optimum(study):
        try:
            probe = plan_probe(study, believed.at(study.probe_budget))
        except UserError:  # forecast, which knows the size, says why there is no probe.
            return
        if probe.n_images > MOST_PASSES * unique:
            text = f"the probe may pass {probe.n_images / unique:.3g} times over the {count(unique)} images of {where}"
            yield found("probe_passes", text, "give more images, or read its verdict so", probe.n_images / unique)


def _named(runs: list[Run]) -> str:
    sizes = sorted({(run.width, run.budget_flops): run for run in runs}.values(), key=lambda run: -run.n_images)
    return ", ".join(map(size, sizes[:3])) + f" and {len(sizes) - 3} more" * (len(sizes) > 3)
