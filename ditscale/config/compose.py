"""A study from the files of `configs/` and a user's overrides, by Hydra."""

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from .budget import Budget
from .cluster import Cluster
from .data import Data
from .design import Design
from .evaluation import Validation
from .mapping import build, check, plain
from .prior import Prior
from .recipe import Recipe
from .study import Study

# Groups of configs/, which are keys of Study too.
GROUPS = {
    "design": Design, "data": Data, "recipe": Recipe, "validation": Validation, "cluster": Cluster, "prior": Prior,
}  # fmt: skip


def configs_dir() -> Path:
    """`configs/` of the checkout, or its copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    return next(d for d in (package / "configs", package.parent / "configs") if d.is_dir())


def compose(
    overrides: list[str], search: Path | None = None, read_prior: Callable[[str], Prior] | None = None
) -> Study:
    """Compose a Study from `configs/` and overrides such as "study=mini" or "recipe.batch_size=32". search: a directory
    of the user's own groups, searched besides ours. read_prior: what makes the prior of prior.path (laws/prior.py).
    Raises UserError where no study is named, and with Hydra's reason in a line."""
    composed = _composed(overrides, search)
    if "name" not in composed:
        raise UserError(f"which study? add study=NAME; choose one of: {', '.join(_choices('study', search))}")
    prior = composed.get("prior") or {}
    if read_prior and isinstance(prior, dict) and (path := prior.get("path")):
        composed["prior"] = plain(read_prior(str(path)))
    return build(Study, composed, "study")


def _choices(group: str, search: Path | None = None) -> list[str]:
    """The names of a group's files, ours and those in `search`."""
    return sorted({at.stem for top in filter(None, (configs_dir(), search)) for at in (top / group).glob("*.yaml")})


def _composed(overrides: list[str], search: Path | None) -> dict[str, Any]:
    """What Hydra makes of `configs/` and the overrides."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [_addable(o) for o in overrides]
    if search is not None:
        if not Path(search).is_dir():
            raise UserError(f"--configs {search}: there is no such directory")
        overrides.append(f"hydra.searchpath=[file://{os.path.abspath(search)}]")
    try:
        with initialize_config_dir(config_dir=str(configs_dir()), version_base="1.3"):
            composed: Any = hydra_compose("config", overrides)
            return OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_hydra_line(error, overrides)) from None


def about_cluster(overrides: list[str]) -> list[str]:
    """The overrides that concern the cluster: cluster=NAME and cluster.KEY=VALUE."""
    return [o for o in overrides if _key(o).split(".")[0] == "cluster"]


def about_launch(overrides: list[str]) -> list[str]:
    """The overrides that leave a planned study's runs as they are: those of the cluster, and budget.KEY=VALUE."""
    return [o for o in overrides if _key(o).split(".")[0] in ("cluster", "budget")]


def relaunched(study: Study, old: Study, overrides: list[str], search: Path | None = None) -> Study:
    """`study` with the cluster and the budget of the study that is there, `old`, and the overrides that change them."""
    budget, own = old.budget, [o for o in overrides if _key(o).split(".")[0] == "budget"]
    if own:
        new = build(Budget, _composed(own, search)["budget"], "study.budget")
        keys = [key for o in own for key in _key(o).split(".")[1:]]
        budget = replace(budget or Budget(), **{key: getattr(new, key) for key in keys})
    return replace(study, cluster=changed(old.cluster, overrides, search), budget=budget)


def changed(cluster: Cluster, overrides: list[str], search: Path | None = None) -> Cluster:
    """A cluster with its overrides applied: cluster=NAME replaces it, else only the keys named change."""
    own = about_cluster(overrides)
    if not own:
        return cluster
    composed = build(Cluster, _composed(own, search)["cluster"], "study.cluster")
    if any(_key(o) == "cluster" for o in own):
        return composed
    new = {key: getattr(composed, key) for key in (_key(o).split(".")[1] for o in own)}
    new |= {key: getattr(cluster, key) | value for key, value in new.items() if isinstance(value, dict)}
    cluster = replace(cluster, **new)
    check(cluster, "study.cluster")
    return cluster


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def _hydra_line(error: Exception, overrides: list[str]) -> str:
    """Hydra's message of several lines as one line, with the valid choices where a choice is wrong."""
    from omegaconf.errors import MissingMandatoryValue

    text = str(error)
    nameless = [o for o in overrides if not _key(o)]
    if nameless or "override_grammar" in text:
        candidates = [*nameless, getattr(error, "override", None), *(o for o in overrides if o in text)]
        override = next(filter(None, candidates), "one of the settings")
        return f"{override.lstrip('+')}: write KEY=VALUE, and close every bracket and quote, as in seeds=[0,1]"
    group = next((_key(o) for o in overrides if f"'{_key(o)}/" in text), None)
    if "Could not find" in text and group:
        known = _choices(group)
        value = [o.split("=", 1)[1] for o in overrides if _key(o) == group][-1]
        return f"{group}={value}: there is no such {group}{nearest(value, known)}; choose one of: {', '.join(known)}"
    if "Could not override" in text:
        key = text.split("'")[1]
        close = nearest(key, ["study", *_settings()])
        return f"{key}: there is no such setting{close}; settings are keys of study.yaml, as in recipe.batch_size=32"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: missing; give {error.full_key}=VALUE"
    if "Ambiguous value" in text:
        override = next((o for o in overrides if "," in o and o.lstrip("+~") in text), "one of the settings")
        return f"{override}: several values; give one, or a list in brackets where the setting is a list"
    if "must be a string" in text:
        override = next((o for o in overrides if _key(o) in GROUPS), "one of the settings")
        none = ", or ~prior for none" if _key(override) == "prior" else ""
        return f"{override}: is not the name of a file in configs/{_key(override)}/; give one{none}"
    return text.split("Available options")[0]


def _addable(override: str) -> str:
    """An override that Hydra takes for every valid key, also where no file of `configs/` mentions the key."""
    key = override.split("=")[0]
    known = [name for name in _settings() if name not in GROUPS]
    return f"++{override}" if any(key == name or key.startswith(f"{name}.") for name in known) else override


def _settings() -> list[str]:
    """Every key that an override may set, dotted."""
    of_groups = [f"{group}.{f.name}" for group, cls in GROUPS.items() for f in fields(cls)]
    return [f.name for f in fields(Study)] + of_groups + ["prior.path"]
