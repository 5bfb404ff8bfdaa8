"""Common problems of the cluster a user works on, each with a suggested fix. Nothing is submitted unless requested."""

import os
from pathlib import Path
from typing import Sequence

from ...config import Cluster, Study
from ...errors import command
from ...evaluate.weights import DECODER, WEIGHTS, weights_path
from ..job.execute import OFFLINE
from .directory import BAD, Finding, bad, directory, note, ok
from .node import on_a_node
from .slurm import slurm


def examine(root: Path, cluster: Cluster, files: Sequence[str] = (), job: bool = False) -> list[Finding]:
    """All findings about the cluster, a directory, the files its runs read, and, by a short `job`, about a node."""
    found = [*slurm(cluster), *directory(root), *local_files(files)]
    if job and not any(f.level == BAD for f in found):
        found += on_a_node(root, cluster, files)
    return found


def files_of(study: Study) -> list[str]:
    """The files that the study's runs read: data, held-out images, and the networks of FID."""
    named = [study.data.path, study.validation.path, *(data.path for data in study.validation.also.values())]
    if "fid" in study.evaluation:
        fid = study.evaluation["fid"]
        named.append(str(weights_path(fid) or ""))
        named += [str(Path(fid.decoder) / name) for name in DECODER if fid.decoder]
    return list(dict.fromkeys(filter(None, named)))


def local_files(files: Sequence[str]) -> list[Finding]:
    """Findings about files that runs read. They must exist beforehand: runs download nothing."""
    offline = ", ".join(f"{name}={value}" for name, value in OFFLINE.items())
    return [*map(_local_file, files), ok(f"runs are told to stay offline ({offline})")]


def _local_file(path: str) -> Finding:
    if not Path(path).is_file():
        extractor = next((name for name, weights in WEIGHTS.items() if weights.name == Path(path).name), "")
        remedy = "put it there first, or change the path"
        if extractor:
            remedy = f"{command('fetch-weights', extractor)} downloads it on a machine with internet"
        return bad(f"{path} does not exist", f"jobs download nothing: {remedy}")
    if not os.access(path, os.R_OK):
        return bad(f"{path} cannot be read", "give yourself permission to read it")
    if not os.path.isabs(path):
        return note(f"{path} is a relative path", "jobs start where they were submitted; give an absolute path")
    return ok(f"{path} exists and can be read")
