"""Configuration: frozen dataclasses, and one strict way from a mapping (YAML, Hydra) into them and back.

An unknown key, a missing key, a wrong type or an impossible value is a UserError of one line that names the place and
the valid choices. Hydra composes a study from `configs/` (compose.py); everything after that lives from the resolved
study.yaml and run.yaml, so a compute node needs neither Hydra nor the configuration tree.
"""

from .cluster import ATTENTIONS, RECOMPUTES, SHARDINGS, Cluster, Size
from .compose import about_cluster, changed, compose, configs_dir
from .data import Data
from .design import Design
from .evaluation import FEWEST, LEAST, METRICS, Evaluation, Validation
from .file import dump_yaml, read, read_yaml
from .mapping import build, plain
from .recipe import TIMESTEPS, Law, Recipe
from .rehearsal import Rehearsal
from .study import Study

__all__ = [
    "ATTENTIONS", "Cluster", "Data", "Design", "Evaluation", "FEWEST", "LEAST", "Law", "METRICS", "RECOMPUTES",
    "Recipe", "Rehearsal", "SHARDINGS", "Size", "Study", "TIMESTEPS", "Validation", "about_cluster", "build",
    "changed", "compose", "configs_dir", "dump_yaml", "plain", "read", "read_yaml",
]  # fmt: skip
