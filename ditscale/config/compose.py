"""A study from the files of `configs/` and what a user sets, by Hydra."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

from ..errors import UserError, nearest
from .cluster import Cluster
from .data import Data
from .design import Design
from .evaluation import Validation
from .mapping import build
from .recipe import Recipe
from .study import Study

# of configs/, and keys of Study
GROUPS = {"design": Design, "data": Data, "recipe": Recipe, "validation": Validation, "cluster": Cluster}


def configs_dir() -> Path:
    """`configs/` of the checkout, or its copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    return next(d for d in (package / "configs", package.parent / "configs") if d.is_dir())


def compose(overrides: list[str], search: Path | None = None) -> Study:
    """Compose a Study with Hydra from `configs/` and overrides such as "study=mini" or "recipe.batch_size=32".

    `search` is a directory of the user's own groups, looked up beside ours. Raises UserError with Hydra's reason in a
    line.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [_settable(o) for o in overrides]
    if search is not None:
        if not Path(search).is_dir():
            raise UserError(f"--configs {search}: there is no such directory")
        overrides.append(f"hydra.searchpath=[file://{os.path.abspath(search)}]")
    try:
        with initialize_config_dir(config_dir=str(configs_dir()), version_base="1.3"):
            composed = OmegaConf.to_container(hydra_compose("config", overrides), resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_hydra_line(error, overrides)) from None
    return build(Study, composed, "study")


def about_cluster(overrides: list[str]) -> list[str]:
    """Those of the settings that concern the cluster: cluster=NAME and cluster.KEY=VALUE."""
    return [o for o in overrides if _key(o).split(".")[0] == "cluster"]


def changed(cluster: Cluster, overrides: list[str], search: Path | None = None) -> Cluster:
    """A cluster with what the settings say of it: that of cluster=NAME in its place, else its own keys alone. Raises
    UserError as `compose` does."""
    words = about_cluster(overrides)
    if not words:
        return cluster
    composed = compose(words, search).cluster
    if any(_key(word) == "cluster" for word in words):
        return composed
    new = {key: getattr(composed, key) for key in (_key(word).split(".")[1] for word in words)}
    new |= {key: getattr(cluster, key) | value for key, value in new.items() if isinstance(value, dict)}
    made = replace(cluster, **new)
    made.check("study.cluster")
    return made


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def _hydra_line(error: Exception, overrides: list[str]) -> str:
    """Hydra's many-line message as one line, with the valid choices where it is about a choice."""
    from omegaconf.errors import MissingMandatoryValue

    text = str(error)
    nameless = [o for o in overrides if not _key(o)]
    if nameless or "override_grammar" in text:
        candidates = [*nameless, getattr(error, "override", None), *(o for o in overrides if o in text)]
        override = next(filter(None, candidates), "one of the settings")
        return f"{override.lstrip('+')}: write KEY=VALUE, and close every bracket and quote, as in seeds=[0,1]"
    group = next((_key(o) for o in overrides if f"'{_key(o)}/" in text), None)
    if "Could not find" in text and group:
        known = sorted(p.stem for p in (configs_dir() / group).glob("*.yaml"))
        value = [o.split("=", 1)[1] for o in overrides if _key(o) == group][-1]
        return f"{group}={value}: there is no such {group}{nearest(value, known)}; choose one of: {', '.join(known)}"
    if "Could not override" in text:
        key = text.split("'")[1]
        close = nearest(key, ["study", *_settings()])
        return f"{key}: there is no such setting{close}; settings are keys of study.yaml, as in recipe.batch_size=32"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: missing; give {error.full_key}=VALUE"
    if "Ambiguous value" in text:
        word = next((o for o in overrides if "," in o and o.lstrip("+~") in text), "one of the settings")
        return f"{word}: several values; give one, or a list in brackets where the setting is a list"
    if "must be a string" in text:
        word = next((o for o in overrides if _key(o) in GROUPS), "one of the settings")
        return f"{word}: is a choice of configs/{_key(word)}/; give the name of a file there"
    return text.split("Available options")[0]


def _settable(override: str) -> str:
    """A setting that no file of `configs/` mentions, since its default does, may be set like the others."""
    key = override.split("=")[0]
    known = [name for name in _settings() if name not in GROUPS]
    return f"++{override}" if any(key == name or key.startswith(f"{name}.") for name in known) else override


def _settings() -> list[str]:
    """Every key that an override may set, dotted."""
    names = [f.name for f in fields(Study)]
    for part, cls in GROUPS.items():
        names += [f"{part}.{f.name}" for f in fields(cls)]
    return names
