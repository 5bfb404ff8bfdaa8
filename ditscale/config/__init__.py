"""Configuration: frozen dataclasses, and one strict way from a mapping (YAML, Hydra) into them and back.

Hydra composes a study from `configs/` (compose.py). Everything after that reads the resolved study.yaml and run.yaml,
so a compute node needs neither Hydra nor `configs/`."""

from .budget import Budget
from .cluster import Attention, Cluster, Recompute, Sharding, Size
from .compose import about_cluster, about_launch, changed, compose, configs_dir, relaunched
from .data import SHAPE, Data
from .design import Design, width_problem
from .evaluation import ENOUGH_FID_IMAGES, METRICS, Evaluation, Validation
from .file import dump_yaml, read
from .mapping import build, check, plain
from .prior import Around, Prior, Surface
from .recipe import TIMESTEPS, Law, Recipe
from .study import Rehearsal, Study

__all__ = [
    "Around", "Attention", "Budget", "Cluster", "Data", "Design", "ENOUGH_FID_IMAGES", "Evaluation", "Law", "METRICS",
    "Prior", "Recipe", "Recompute", "Rehearsal", "SHAPE", "Sharding", "Size", "Study", "Surface", "TIMESTEPS",
    "Validation", "about_cluster", "about_launch", "build", "changed", "check", "compose", "configs_dir", "dump_yaml",
    "plain", "read", "relaunched",
    "width_problem",
]  # fmt: skip
